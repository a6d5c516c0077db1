"""Wild tenants beside a calm one, in short; `scripts/chaos noisy` goes on longer and measures."""

import json
from pathlib import Path

import pytest

from tests.chaos.noisy import CONFIG, Noisy
from tests.workers.crowd import Crowd

CALLS = 20


@pytest.mark.timeout(240)
def test_nobody_else_notices_a_tenant_that_goes_wild(state_dir: Path) -> None:
    said: list[str] = []
    (state_dir / "config.yaml").write_text(json.dumps(CONFIG))
    with Crowd(state_dir) as gateway:
        noisy = Noisy(gateway, said.append, measures=False)
        noisy.run(rounds=1, calls=CALLS)
        assert noisy.broken == [], said
        assert gateway.stop()[0] == 0
