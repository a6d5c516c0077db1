"""Runs scenarios one after another; a summary of each on standard output, progress on error."""

import argparse
import importlib
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.chaos_scenarios._scenario import Scenario
from tests.machine.packages import install

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if not path.name.startswith("_"))


def main() -> int:
    """Run; gives 1 if a promise was broken, 2 if something that is needed is not there."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(NAMES)} (all)")
    parser.add_argument("--cycles", type=int, help="how often, in each scenario")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))  # noqa: S311 - no secret
    options = parser.parse_args()
    unknown = sorted(set(options.scenario) - set(NAMES))
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)} (there are {', '.join(NAMES)})")
    chosen = {name: load(name) for name in options.scenario or NAMES}
    if not install({k: v for each in chosen.values() for k, v in each.packages.items()}):
        return 2
    failed = [
        name
        for name, scenario in chosen.items()
        if not run(name, scenario, options.cycles or scenario.cycles, options.seed)
    ]
    if failed:
        print(f"broken: {', '.join(failed)}")
    return bool(failed)


def load(name: str) -> Scenario:
    """Give the scenario of a file beside this one."""
    scenario = importlib.import_module(f"scripts.chaos_scenarios.{name}").SCENARIO
    assert isinstance(scenario, Scenario)
    return scenario


def run(name: str, scenario: Scenario, cycles: int, seed: int) -> bool:
    """Run one; says whether every promise held."""
    print(f"{name}: {cycles} cycles, seed {seed}", file=sys.stderr, flush=True)
    started = time.monotonic()
    broken, figures = scenario.run(cycles, seed, say)
    verdict = "BROKEN" if broken else "held"
    print(f"{name}: {verdict}: {cycles} cycles in {time.monotonic() - started:.0f} s, seed {seed}")
    for figure, value in figures.items():
        print(f"    {figure}: {value}")
    for problem in broken:
        print(f"    ! {problem}")
    sys.stdout.flush()
    return not broken


def say(line: str) -> None:
    """Tell of progress."""
    print(f"    {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
