"""What a scenario is: a module beside this one, with `SCENARIO`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

Say = Callable[[str], None]


class Outcome(NamedTuple):
    """What came of a scenario.

    Attributes:
        broken: Promises that did not hold, each in a line.
        figures: What was counted or measured, by name.
    """

    broken: list[str]
    figures: dict[str, object]


class Scenario(NamedTuple):
    """One way to hurt a gateway.

    Attributes:
        cycles: How often, unless `--cycles` says otherwise.
        run: Takes cycles, the seed of every random choice, and what to tell of progress.
        packages: Debian packages that it needs, by a program that each holds.
    """

    cycles: int
    run: Callable[[int, int, Say], Outcome]
    packages: Mapping[str, str] = MappingProxyType({})
