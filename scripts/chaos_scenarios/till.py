"""kill -9 of what holds the till, while it spends: the ledger is within the limit, and right."""

import tempfile
from pathlib import Path

from scripts.chaos_scenarios._scenario import Outcome, Say, Scenario
from tests.chaos.till import TillKills


def run(cycles: int, seed: int, say: Say) -> Outcome:
    """See `Scenario`."""
    with tempfile.TemporaryDirectory(prefix="openclaw-chaos-") as folder:
        kills = TillKills(Path(folder), seed, say)
        broken = kills.run(cycles)
    return Outcome(
        broken,
        {
            "settled and acknowledged": kills.acknowledged,
            "rows": kills.rows,
            "reservations left by kills": kills.left,
            "lives that reached their limit": kills.full,
        },
    )


SCENARIO = Scenario(cycles=500, run=run)
