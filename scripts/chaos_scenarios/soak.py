"""A great many requests of every kind: memory and descriptors of every process come back."""

from scripts.chaos_scenarios._scenario import Outcome, Say, Scenario
from tests.chaos.soak import Soak
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway

GROWTH_MAX = 0.02
WARM_UP = 0.25
"""The share of requests after which the base is taken."""


def run(cycles: int, seed: int, say: Say) -> Outcome:
    """See `Scenario`. A cycle is a request."""
    say(f"the seed {seed} is not used: nothing here is random")
    state_dir = make_state_dir()
    with Gateway(state_dir) as gateway:
        soak = Soak(gateway, say)
        broken = soak.run(int(cycles * WARM_UP), cycles, GROWTH_MAX)
    remove_tree(state_dir)
    return Outcome(broken, soak.figures())


SCENARIO = Scenario(cycles=1_000_000, run=run)
