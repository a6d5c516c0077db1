"""Twenty kills of a till in a row; `scripts/chaos till` makes five hundred of them."""

import os
import random
from pathlib import Path

from tests.chaos.till import TillKills


def test_the_ledger_is_within_the_limit_whenever_egress_is_killed(tmp_path: Path) -> None:
    seed = int(os.environ.get("OPENCLAW_TEST_SEED") or random.randrange(2**32))
    kills = TillKills(tmp_path, seed, print)
    assert kills.run(20) == [], f"OPENCLAW_TEST_SEED={seed}"
    assert kills.acknowledged > 100
    assert kills.left > 20
