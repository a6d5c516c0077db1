"""What the front counts, as it tells the supervisor: plain numbers, in the terms of Prometheus.

Nothing here is kept by tenant, path or anything else that a caller chooses, so that the number of
series is bounded whatever is asked for. What one tenant does is in its status.

Whoever decodes this gets it within these bounds, or `msgspec.ValidationError`: the front reads what
strangers send, and its word is not taken for more.
"""

from bisect import bisect_left
from typing import Annotated, Final, Literal

import msgspec

LATENCY_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
LAG_BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
LAG_INTERVAL_SECONDS: Final = 0.25
"""How often a loop is looked at: what lasts longer is always seen."""

RouteName = Literal[
    "rpc",
    "ws",
    "terminal",
    "batch",
    "webhook",
    "openai",
    "control",
    "metrics",
    "probe",
    "openapi",
    "other",
]
"""Where something was asked for. `batch` is one call of several in a message, which counts as
`rpc` or `ws` itself; `other` is what no route was found for."""
Status = Annotated[int, msgspec.Meta(ge=100, le=599)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Histogram(msgspec.Struct, kw_only=True):
    """Observations in seconds, counted by the first bound that is not below them.

    `counts` has one more place than `bounds`, for what is over the last; `total` is their sum.
    """

    bounds: tuple[float, ...]
    counts: list[Count] = []
    total: float = 0.0

    def __post_init__(self) -> None:
        if self.bounds not in (LATENCY_BOUNDS, LAG_BOUNDS):
            msg = "bounds: not those of a histogram here"
            raise ValueError(msg)
        if not self.counts:
            self.counts = [0] * (len(self.bounds) + 1)
        elif len(self.counts) != len(self.bounds) + 1:
            msg = "counts: one more than there are bounds"
            raise ValueError(msg)

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


def latency() -> Histogram:
    """Give an empty histogram of how long something takes."""
    return Histogram(bounds=LATENCY_BOUNDS)


def lag() -> Histogram:
    """Give an empty histogram of how late a loop is."""
    return Histogram(bounds=LAG_BOUNDS)


class Answers(msgspec.Struct, kw_only=True):
    """Answers at one route: how many of each HTTP status, and the seconds from turn to answer."""

    statuses: dict[Status, Count] = {}
    seconds: Histogram = msgspec.field(default_factory=latency)


class FrontMeters(msgspec.Struct, kw_only=True):
    """Counted since the front's start; the last four are as things are now.

    `refused_connections` found no place, `auth_failures` are credentials that were not good,
    `hold_seconds` is how long calls waited for a worker, whatever they waited for in the end.
    """

    answers: dict[RouteName, Answers] = {}
    auth_failures: Count = 0
    refused_connections: Count = 0
    hold_seconds: Histogram = msgspec.field(default_factory=latency)
    loop_lag: Histogram = msgspec.field(default_factory=lag)
    connections: Count = 0
    websockets: Count = 0
    held: Count = 0
    in_flight: Count = 0

    def answered(self, route: RouteName, status: int, seconds: float) -> None:
        """Count one answer."""
        answers = self.answers.get(route)
        if answers is None:
            answers = self.answers[route] = Answers()
        statuses = answers.statuses
        statuses[status] = statuses.get(status, 0) + 1
        answers.seconds.observe(seconds)
