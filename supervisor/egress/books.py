"""What tenants have spent and set aside, in memory: whether a call fits is decided here, at once.

Windows are days and months of UTC. What was settled counts in the window that it was settled in;
what is set aside counts in every window that goes on, until it is settled. So a call that is under
way at midnight counts in the old day when it is let in and in the new one from its beginning, and
what a window's calls come to is within its limit whenever they began.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from protocol import limits
from protocol.quotas import (
    DAY_MS,
    SPENDING,
    Metric,
    Quota,
    Reached,
    Use,
    exceeded,
    limit_of,
    window_end,
)
from supervisor.egress.ledger_schema import Per
from supervisor.egress.periods import periods_at
from supervisor.egress.till import Estimate

WINDOWS_KEPT_MAX: Final = 8
"""Days and months that are remembered, should the clock be set back and forth."""
_MICRO: Final = 1_000_000


class Sums(NamedTuple):
    """Tokens of all classes, and micro-USD."""

    tokens: int
    cost: int


NOTHING: Final = Sums(0, 0)


class _Held:
    """What is set aside for a tenant's calls under way."""

    __slots__ = ("calls", "cost", "tokens")

    def __init__(self) -> None:
        self.calls = 0
        self.tokens = 0
        self.cost = 0


class Books:
    """See the module.

    Args:
        load: Gives what was settled in a window by tenant; called once for each.
        now_ms: The time of day, in Unix ms.
    """

    def __init__(
        self, load: Callable[[Per, str], Mapping[str, Sums]], now_ms: Callable[[], int]
    ) -> None:
        self._load: Final = load
        self._windows: Final[dict[tuple[Per, str], dict[str, Sums]]] = {}
        self._held: Final[dict[str, _Held]] = {}
        self._day = -1
        self._in_day: dict[str, Sums] = {}
        self._in_month: dict[str, Sums] = {}
        self.turn(now_ms())

    def turn(self, now_ms: int) -> bool:
        """Go to the windows of a moment; says whether they are others than before."""
        day = now_ms // DAY_MS
        if day == self._day:
            return False
        in_day, in_month = periods_at(now_ms)
        self._in_day, self._in_month = self._window("day", in_day), self._window("month", in_month)
        self._day = day
        return True

    def _window(self, per: Per, period: str) -> dict[str, Sums]:
        window = self._windows.pop((per, period), None)
        if window is None:
            window = dict(self._load(per, period))
        self._windows[per, period] = window  # the newest are last
        while len(self._windows) > WINDOWS_KEPT_MAX:
            del self._windows[next(iter(self._windows))]
        return window

    # What is set aside.

    def hold(self, tenant: str, tokens: int, cost: int) -> None:
        """Set aside for one call."""
        held = self._held.get(tenant)
        if held is None:
            held = self._held[tenant] = _Held()
        held.calls += 1
        held.tokens += tokens
        held.cost += cost

    def let_go(self, tenant: str, tokens: int, cost: int) -> None:
        """Give back what `hold` was told."""
        held = self._held[tenant]
        held.calls -= 1
        held.tokens -= tokens
        held.cost -= cost
        if not held.calls:
            del self._held[tenant]

    def calls(self, tenant: str) -> int:
        """Say how many calls are under way."""
        held = self._held.get(tenant)
        return 0 if held is None else held.calls

    # What was settled.

    def settle(self, tenant: str, tokens: int, cost: int) -> None:
        """Count a row of the ledger, in the windows that go on."""
        for window in (self._in_day, self._in_month):
            before = window.get(tenant, NOTHING)
            window[tenant] = Sums(before.tokens + tokens, before.cost + cost)

    def settled(self, tenant: str, metric: Metric) -> int:
        """Say what of one of `SPENDING` was settled in its window."""
        window = self._in_day if metric in _DAILY else self._in_month
        sums = window.get(tenant, NOTHING)
        return sums.tokens if metric in _TOKENS else sums.cost

    def used(self, tenant: str, metric: Metric) -> int:
        """Say what of one of `SPENDING` is used, with what is set aside."""
        held = self._held.get(tenant)
        settled = self.settled(tenant, metric)
        if held is None:
            return settled
        return settled + (held.tokens if metric in _TOKENS else held.cost)

    def uses(self, tenant: str, quota: Quota, now_ms: int) -> tuple[Use, ...]:
        """Say what is used of each of `SPENDING` and of what runs at a time."""
        spending = [
            Use(
                metric=metric,
                used=self.used(tenant, metric),
                limit=limit_of(quota, metric),
                resets_at_ms=window_end(metric, now_ms),
            )
            for metric in SPENDING
        ]
        running = Use(
            metric="concurrentRuns",
            used=self.calls(tenant),
            limit=quota.concurrent_runs,
            resets_at_ms=window_end("concurrentRuns", now_ms),
        )
        return (*spending, running)

    # Whether it fits.

    def fit(
        self,
        tenant: str,
        quota: Quota,
        estimate: Estimate,
        dearest: tuple[int, int],
        now_ms: int,
    ) -> Estimate:
        """Give an estimate as the quota lets it be: its output may become less, to its least.

        Args:
            tenant: Whose call.
            quota: What it may spend.
            estimate: What it asks for.
            dearest: Micro-USD a million tokens that go in, and that come out.
            now_ms: Now, in the windows of the last `turn`.

        Raises:
            GatewayError: QUOTA_EXCEEDED: not even the least of it fits. Of several limits the one
                is named whose window ends last.
        """
        if quota.concurrent_runs is not None and self.calls(tenant) >= quota.concurrent_runs:
            raise exceeded(
                self._reached("concurrentRuns", quota.concurrent_runs, self.calls(tenant), now_ms),
                now_ms,
            )
        output, least = estimate.output_tokens, estimate.least
        over: list[Reached] = []
        for metric in SPENDING:
            limit = limit_of(quota, metric)
            if limit is None:
                continue
            used = self.used(tenant, metric)
            dear_in, dear_out = (_MICRO, _MICRO) if metric in _TOKENS else dearest
            # In millionths, so that nothing is rounded: what is left, when the prompt is paid.
            left = (limit - used) * _MICRO - estimate.input_tokens * dear_in
            # Zero is nothing at all: a full window takes not even what costs nothing.
            if used >= limit or left < least * dear_out:
                over.append(self._reached(metric, limit, used, now_ms))
            elif dear_out:
                output = min(output, left // dear_out)
        if over:
            raise exceeded(max(over, key=lambda reached: reached.resets_at_ms), now_ms)
        return estimate._replace(output_tokens=output)

    def over(
        self, tenant: str, quota: Quota, estimate: Estimate, dearest: tuple[int, int]
    ) -> list[Metric]:
        """Say which windows are over, for a call that `fit` has refused; arguments as there.

        It does not fit into what is left by what was settled, and less is left than
        `QUOTA_REST_TOKENS` that go in: the next one would hardly.
        """
        found = []
        for metric in SPENDING:
            limit = limit_of(quota, metric)
            dear_in, dear_out = (_MICRO, _MICRO) if metric in _TOKENS else dearest
            needs = estimate.input_tokens * dear_in + estimate.least * dear_out
            rest = limits.QUOTA_REST_TOKENS * dear_in
            if limit is not None:
                left = (limit - self.settled(tenant, metric)) * _MICRO
                if left < min(needs, rest):
                    found.append(metric)
        return found

    @staticmethod
    def _reached(metric: Metric, limit: int, used: int, now_ms: int) -> Reached:
        end = window_end(metric, now_ms)
        return Reached(metric=metric, limit=limit, used=used, resets_at_ms=end)


_DAILY: Final = frozenset[Metric](("tokensPerDay", "costPerDayMicroUsd"))
_TOKENS: Final = frozenset[Metric](("tokensPerDay", "tokensPerMonth"))
