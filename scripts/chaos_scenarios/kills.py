"""kill -9 of worker, front, zygote and supervisor in turn under writes: nothing said is lost."""

import statistics

from scripts.chaos_scenarios._scenario import Outcome, Say, Scenario
from tests.chaos.kills import Kills
from tests.conftest import make_state_dir, remove_tree


def run(cycles: int, seed: int, say: Say) -> Outcome:
    """See `Scenario`."""
    state_dir = make_state_dir()
    kills = Kills(state_dir, seed, say)
    try:
        broken = kills.run(cycles)
    finally:
        kills.close()
        if not kills.broken:
            remove_tree(state_dir)
    figures: dict[str, object] = {"acknowledged": kills.counts()}
    for victim, seconds in kills.seconds.items():
        if seconds:
            median, worst = statistics.median(seconds) * 1000, max(seconds) * 1000
            figures[f"until all were answered, {victim}"] = f"p50 {median:.0f}, max {worst:.0f} ms"
    if broken:
        figures["state root, kept"] = state_dir
    return Outcome(broken, figures)


SCENARIO = Scenario(cycles=500, run=run)
