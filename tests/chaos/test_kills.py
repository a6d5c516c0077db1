"""Thirty kills in a row; `scripts/chaos kills` makes five hundred of them."""

import os
import random
from contextlib import closing
from pathlib import Path

import pytest

from supervisor import ledger_reading
from tests.chaos.kills import Kills

CYCLES = 30


@pytest.mark.timeout(300)
def test_what_was_acknowledged_survives_kills_of_every_process(state_dir: Path) -> None:
    seed = int(os.environ.get("OPENCLAW_TEST_SEED") or random.randrange(2**32))
    said: list[str] = []
    kills = Kills(state_dir, seed, said.append)
    try:
        broken = kills.run(CYCLES)
    finally:
        kills.close()
    assert broken == [], f"OPENCLAW_TEST_SEED={seed}\n" + "\n".join(said)
    assert min(kills.counts().get(what, 0) for what in ("session", "turn", "reply")) > CYCLES
    db = ledger_reading.open_ledger(state_dir / "ledger")
    assert db is not None
    with closing(db):
        assert sum(entry.kind == "model" for entry in ledger_reading.entries(db)) > CYCLES
    assert min(kills.counts().get(what, 0) for what in ("created", "rotated", "deleted")) > 0
