"""A tenant with big bodies, slow readers and guesses at tokens, beside one with small calls."""

from scripts.chaos_scenarios._scenario import Outcome, Say, Scenario
from tests.chaos.fairness import Fairness, Volume
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway

CALLS_OF_A_WINDOW = 1000
RATIO_MAX = 2.0


def run(cycles: int, seed: int, say: Say) -> Outcome:
    """See `Scenario`."""
    say(f"the seed {seed} is not used: nothing here is random")
    state_dir = make_state_dir()
    with Gateway(state_dir) as gateway:
        fairness = Fairness(gateway, Volume(), say)
        broken = fairness.run(cycles, CALLS_OF_A_WINDOW)
    remove_tree(state_dir)
    if fairness.ratio > RATIO_MAX:
        broken.append(f"p99 in noise is {fairness.ratio:.2f} x that in quiet, not {RATIO_MAX:.0f}")
    return Outcome(broken, fairness.figures())


SCENARIO = Scenario(cycles=9, run=run)
