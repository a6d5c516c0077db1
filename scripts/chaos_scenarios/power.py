"""The power of a machine is cut under writes: what was acknowledged is on its disk."""

import tempfile
from pathlib import Path

from scripts.chaos_scenarios._scenario import Outcome, Say, Scenario
from tests.chaos.power import PowerCuts
from tests.machine import boot

PARTS = Path(__file__).resolve().parents[2] / ".machine"


def run(cycles: int, seed: int, say: Say) -> Outcome:
    """See `Scenario`."""
    with tempfile.TemporaryDirectory(prefix="openclaw-chaos-") as folder:
        cuts = PowerCuts(Path(folder), PARTS, seed, say)
        broken = cuts.run(cycles)
    return Outcome(
        broken,
        {
            "acknowledged": cuts.acknowledged,
            "flushes": cuts.flushes,
            "unflushed sectors at the cuts": f"{cuts.unflushed}, {cuts.lost} of them lost",
        },
    )


SCENARIO = Scenario(cycles=20, run=run, packages=boot.PACKAGES)
