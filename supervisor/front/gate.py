"""What a tenant may ask for now: its requests by minute and hour, and whether it may spend.

Only tenants with a limit have a gate. It counts in the windows of UTC that the clock is in; should
the clock be set back, the windows that it is in then begin anew. Who is refused is not counted.
"""

from collections.abc import Callable, Iterable
from typing import Final

from protocol import quotas
from protocol.methods import SPENDING
from protocol.moments import rfc3339
from protocol.quotas import HOUR_MS, MINUTE_MS, Counted, Metric, Quota, Reached, Standing

HEADER: Final = b"OpenClaw-Quota-Warning: "
REPORT_SECONDS: Final = 1.0
"""How often the supervisor is told what was counted: as much a front that is killed forgets."""
REPORT_TENANTS_MAX: Final = 1000
"""In one message, which so stays below the bound of a frame."""

_NOTHING_AT_ALL: Final[tuple[Metric, ...]] = (*quotas.SPENDING, "concurrentRuns")
"""At zero of one of these no call of a model can be made, whatever it costs."""


class _Window:
    """Requests of the present window against their limit."""

    __slots__ = ("count", "length_ms", "limit", "metric", "number", "soft", "warned")

    def __init__(self, metric: Metric, length_ms: int) -> None:
        self.metric: Final[Metric] = metric
        self.length_ms: Final = length_ms
        self.number = 0
        self.count = 0
        self.warned = False
        self.limit = 0
        self.soft = 0

    def reached(self) -> Reached:
        """Say how far it is."""
        end = (self.number + 1) * self.length_ms
        return Reached(metric=self.metric, limit=self.limit, used=self.count, resets_at_ms=end)

    def restore(self, number: int, count: int) -> None:
        """Go on where another front was; who was near the limit then has been warned."""
        self.number, self.count = number, count
        self.warned = count >= self.soft


class Gate:
    """One tenant's.

    Args:
        tenant: Whose.
        now_ms: The time of day, in Unix ms.
        on_counted: Called with the first request that is counted since `report`.
        on_warning: Called once a window for each limit that has been come near to.
    """

    __slots__ = (
        "_counts",
        "_hour",
        "_is_told",
        "_minute",
        "_now_ms",
        "_on_counted",
        "_on_warning",
        "_standing",
        "_warned",
        "_windows",
        "_zero",
        "notice",
        "tenant",
    )

    def __init__(
        self,
        tenant: str,
        now_ms: Callable[[], int],
        on_counted: "Callable[[Gate], None]",
        on_warning: Callable[[Reached], None],
    ) -> None:
        self.tenant: Final = tenant
        self.notice = b""
        """What the next response is to say in `HEADER`."""
        self._now_ms: Final = now_ms
        self._on_counted: Final = on_counted
        self._on_warning: Final = on_warning
        self._minute: Final = _Window("requestsPerMinute", MINUTE_MS)
        self._hour: Final = _Window("requestsPerHour", HOUR_MS)
        self._windows: tuple[_Window, ...] = ()
        self._standing: Standing | None = None
        self._warned: frozenset[tuple[Metric, int]] = frozenset()
        self._is_told = True
        self._zero: Metric | None = None

    @property
    def is_open(self) -> bool:
        """Whether nothing is limited, so that there need not be a gate."""
        return not self._windows and self._standing is None and self._zero is None

    def limit(self, quota: Quota) -> None:
        """Take other limits; what was counted in windows that stay limited counts on."""
        windows = []
        for window in (self._minute, self._hour):
            limit = quotas.limit_of(quota, window.metric)
            if limit is None:
                window.restore(0, 0)
            else:
                window.limit, window.soft = limit, quotas.soft_limit(quota, limit)
                windows.append(window)
        self._windows = tuple(windows)
        zeros = (metric for metric in _NOTHING_AT_ALL if quotas.limit_of(quota, metric) == 0)
        self._zero = next(zeros, None)

    def restore(self, counted: Counted) -> None:
        """Go on where the front before was; after `limit`."""
        if self._minute in self._windows:
            self._minute.restore(counted.minute, counted.in_minute)
        if self._hour in self._windows:
            self._hour.restore(counted.hour, counted.in_hour)

    def stand(self, standing: Standing, *, known: bool) -> None:
        """Take what egress has decided; its warnings have been told if it was `known` before."""
        told, self._warned = (
            self._warned,
            frozenset((reached.metric, reached.resets_at_ms) for reached in standing.warned),
        )
        self._standing = standing if standing.blocked or standing.warned else None
        if not known:
            for reached in standing.warned:
                if (reached.metric, reached.resets_at_ms) not in told:
                    self._warn(reached)

    def admit(self, method: str) -> None:
        """Count a request.

        Raises:
            GatewayError: QUOTA_EXCEEDED; it is not to be begun.
        """
        now_ms = self._now_ms()
        standing = self._standing
        if standing is not None and standing.blocked is not None and method in SPENDING:
            if now_ms < standing.blocked.resets_at_ms:
                raise quotas.exceeded(standing.blocked, now_ms)
            self._standing = None
        if self._zero is not None and method in SPENDING:
            end = quotas.window_end(self._zero, now_ms)
            nothing = Reached(metric=self._zero, limit=0, used=0, resets_at_ms=end)
            raise quotas.exceeded(nothing, now_ms)
        windows = self._windows
        for window in windows:
            number = now_ms // window.length_ms
            if number != window.number:
                window.number, window.count, window.warned = number, 0, False
            if window.count >= window.limit:
                raise quotas.exceeded(window.reached(), now_ms)
        for window in windows:
            window.count += 1
            if window.count >= window.soft and not window.warned:
                window.warned = True
                self._warn(window.reached())
        if self._is_told and windows:
            self._is_told = False
            self._on_counted(self)

    def report(self) -> Counted:
        """Give what there is of the present windows, for the supervisor."""
        self._is_told = True
        minute, hour = self._minute, self._hour
        return Counted(self.tenant, minute.number, minute.count, hour.number, hour.count)

    def _warn(self, reached: Reached) -> None:
        line = (
            f"metric={reached.metric}; used={reached.used}; limit={reached.limit}; "
            f"resets={rfc3339(reached.resets_at_ms)}"
        ).encode()
        self.notice = (
            self.notice.removesuffix(b"\r\n") + b", " + line if self.notice else (HEADER + line)
        )
        self.notice += b"\r\n"
        self._on_warning(reached)


class Counts:
    """What of all gates the supervisor has not been told yet.

    Args:
        tell: Tells it.
    """

    def __init__(self, tell: Callable[[tuple[Counted, ...]], None]) -> None:
        self._tell: Final = tell
        self._gates: dict[Gate, None] = {}
        self._due_at = 0.0

    def add(self, gate: Gate) -> None:
        """There is something to tell of a gate."""
        self._gates[gate] = None

    def forget(self, gate: Gate) -> None:
        """A tenant is gone, or has no limits any more."""
        self._gates.pop(gate, None)

    def tick(self, now: float) -> None:
        """Tell it, if that has not been done for a while; `now` is monotonic seconds."""
        if self._gates and now >= self._due_at:
            self._due_at = now + REPORT_SECONDS
            self.report()

    def report(self) -> None:
        """Tell all there is, now."""
        gates, self._gates = list(self._gates), {}
        for part in _parts(gates):
            self._tell(tuple(gate.report() for gate in part))


def _parts(gates: list[Gate]) -> Iterable[list[Gate]]:
    for first in range(0, len(gates), REPORT_TENANTS_MAX):
        yield gates[first : first + REPORT_TENANTS_MAX]
