"""What the front counts, as it tells the supervisor: plain numbers, in the terms of Prometheus.

Nothing here is kept by tenant, path or anything else that a caller chooses, so that the number of
series is bounded whatever is asked for. What one tenant does is in its status.
"""

from bisect import bisect_left
from typing import Final

import msgspec

LATENCY_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
LAG_BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Histogram(msgspec.Struct, kw_only=True):
    """Observations in seconds, counted by the first bound that is not below them.

    `counts` has one more place than `bounds`, for what is over the last; `total` is their sum.
    """

    bounds: tuple[float, ...]
    counts: list[int] = []
    total: float = 0.0

    def __post_init__(self) -> None:
        if not self.counts:
            self.counts = [0] * (len(self.bounds) + 1)

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


class FrontMeters(msgspec.Struct, kw_only=True):
    """Counted since the front's start.

    `requests` are answers by route and HTTP status, `seconds` by route from a request's turn to its
    answer. `hold_seconds` is how long calls waited for a worker.
    """

    requests: dict[str, dict[int, int]] = {}
    seconds: dict[str, Histogram] = {}
    auth_failures: int = 0
    hold_seconds: Histogram = msgspec.field(default_factory=latency)
    loop_lag: Histogram = msgspec.field(default_factory=lag)
    connections: int = 0
    websockets: int = 0
    held: int = 0
    in_flight: int = 0

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        statuses = self.requests.get(route)
        if statuses is None:
            statuses = self.requests[route] = {}
            self.seconds[route] = latency()
        statuses[status] = statuses.get(status, 0) + 1
        self.seconds[route].observe(seconds)
