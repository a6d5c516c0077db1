"""A tenant that goes wild in its sandboxes and its worker, beside one that works on."""

import json

from scripts.chaos_scenarios._scenario import Outcome, Say, Scenario
from tests.chaos.noisy import CONFIG, Noisy
from tests.conftest import make_state_dir, remove_tree
from tests.workers.crowd import Crowd

CALLS_OF_A_WINDOW = 400
RATIO_MAX = 1.5


def run(cycles: int, seed: int, say: Say) -> Outcome:
    """See `Scenario`."""
    say(f"the seed {seed} is not used: nothing here is random")
    state_dir = make_state_dir()
    (state_dir / "config.yaml").write_text(json.dumps(CONFIG))
    with Crowd(state_dir) as gateway:
        noisy = Noisy(gateway, say)
        noisy.run(cycles, CALLS_OF_A_WINDOW)
    remove_tree(state_dir)
    slow = [
        f"{name}: the calm tenant's p99 is {one.ratio:.2f} x that in quiet, not {RATIO_MAX}"
        for name, one in noisy.measured.items()
        if one.ratio > RATIO_MAX
    ]
    return Outcome([*noisy.broken, *slow], noisy.figures())


SCENARIO = Scenario(cycles=5, run=run)
