"""Restarts by generations under 200 requests a second, a 10 s stream in flight each time."""

from scripts.chaos_scenarios._scenario import Outcome, Say, Scenario
from tests.chaos.restarts import Restarts
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.restarting import Restarting

CLIENTS = 7
STREAM_SECONDS = 10.0
WORST_SECONDS_MAX = 0.120


def run(cycles: int, seed: int, say: Say) -> Outcome:
    """See `Scenario`."""
    say(f"the seed {seed} is not used: nothing here is random")
    state_dir = make_state_dir()
    with Restarting(state_dir) as gateway:
        restarts = Restarts(gateway, CLIENTS, STREAM_SECONDS, say)
        broken = restarts.run(cycles)
    remove_tree(state_dir)
    worst = restarts.traffic.worst_seconds
    if worst > WORST_SECONDS_MAX:
        broken.append(f"the worst answer took {worst * 1000:.0f} ms, not 120")
    return Outcome(broken, {"requests": restarts.traffic.report()})


SCENARIO = Scenario(cycles=20, run=run)
