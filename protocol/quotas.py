"""What a tenant may spend, in which windows, and how it is told that it has.

A quota is the operator's word, kept in the registry. Tokens and cost are decided by egress against
its ledger and its reservations; requests by the front. Windows are those of UTC: a minute, an hour,
a day, a month. None is no limit, zero is nothing at all.
"""

import calendar
import time
from typing import Annotated, Final, Literal, get_args

import msgspec
from msgspec import UNSET, UnsetType

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.moments import rfc3339

Amount = Annotated[int, msgspec.Meta(ge=0, le=limits.JSON_INTEGER_ABS_MAX)]
Percent = Annotated[int, msgspec.Meta(ge=1, le=100)]
SOFT_PERCENT: Final = 80
"""Of a limit; from here on a tenant is warned, once a window."""
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

Metric = Literal[
    "tokensPerDay",
    "tokensPerMonth",
    "costPerDayMicroUsd",
    "costPerMonthMicroUsd",
    "requestsPerMinute",
    "requestsPerHour",
    "concurrentRuns",
]
SPENDING: Final[tuple[Metric, ...]] = (
    "tokensPerDay",
    "tokensPerMonth",
    "costPerDayMicroUsd",
    "costPerMonthMicroUsd",
)
"""Those that egress decides."""
_MONTHLY: Final = frozenset[Metric](("tokensPerMonth", "costPerMonthMicroUsd"))
_LENGTHS: Final[dict[Metric, int]] = {
    "tokensPerDay": DAY_MS,
    "costPerDayMicroUsd": DAY_MS,
    "requestsPerMinute": MINUTE_MS,
    "requestsPerHour": HOUR_MS,
}


class Quota(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename="camel",
    omit_defaults=True,
):
    """What a tenant may spend. The fields are `Metric` in snake case."""

    tokens_per_day: Amount | None = None
    tokens_per_month: Amount | None = None
    cost_per_day_micro_usd: Amount | None = None
    cost_per_month_micro_usd: Amount | None = None
    requests_per_minute: Amount | None = None
    requests_per_hour: Amount | None = None
    concurrent_runs: Amount | None = None
    soft_percent: Percent | None = None
    """Where the warning begins; None is `SOFT_PERCENT`."""


class QuotaChange(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """What of a quota changes; null is no limit."""

    tokens_per_day: Amount | UnsetType | None = UNSET
    tokens_per_month: Amount | UnsetType | None = UNSET
    cost_per_day_micro_usd: Amount | UnsetType | None = UNSET
    cost_per_month_micro_usd: Amount | UnsetType | None = UNSET
    requests_per_minute: Amount | UnsetType | None = UNSET
    requests_per_hour: Amount | UnsetType | None = UNSET
    concurrent_runs: Amount | UnsetType | None = UNSET
    soft_percent: Percent | UnsetType | None = UNSET


NO_QUOTA: Final = Quota()
_FIELDS: Final[dict[Metric, str]] = {
    field.encode_name: field.name  # type: ignore[misc]
    for field in msgspec.structs.fields(Quota)
    if field.encode_name in get_args(Metric)
}


def limit_of(quota: Quota, metric: Metric) -> int | None:
    """Give a limit; None for none."""
    limit: int | None = getattr(quota, _FIELDS[metric])
    return limit


def soft_limit(quota: Quota, limit: int) -> int:
    """Give the use of a limit from which on a tenant is warned; never more than the limit."""
    return -(-limit * (quota.soft_percent or SOFT_PERCENT) // 100)


def window_end(metric: Metric, now_ms: int) -> int:
    """Give when the present window ends and the next one begins, in Unix ms.

    What runs at a time has no window: a slot can be free at any moment, and a second is said.
    """
    if metric in _MONTHLY:
        at = time.gmtime(now_ms / 1000)
        year, month = at.tm_year + at.tm_mon // 12, at.tm_mon % 12 + 1
        return calendar.timegm((year, month, 1, 0, 0, 0)) * 1000
    length = _LENGTHS.get(metric, 1000)
    return (now_ms // length + 1) * length


class Reached(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A limit, or the part of it where warnings begin, that a tenant has come to.

    `resets_at_ms` is the beginning of the next window, Unix ms.
    """

    metric: Metric
    limit: int
    used: int
    resets_at_ms: int


def exceeded(reached: Reached, now_ms: int) -> GatewayError:
    """Give the refusal of what would go over a limit, the same wherever it is refused."""
    rest = ", and more is needed than the rest" if reached.used < reached.limit else ""
    message = (
        f"quota exceeded: {reached.metric} is {reached.limit}, used {reached.used}{rest}; "
        f"the next window begins at {rfc3339(reached.resets_at_ms)}"
    )
    return GatewayError(
        ErrorCode.QUOTA_EXCEEDED,
        message,
        metric=reached.metric,
        limit=reached.limit,
        used=reached.used,
        nextWindowAt=rfc3339(reached.resets_at_ms),
        retryAfterMs=max(1, reached.resets_at_ms - now_ms),
    )


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Body of the event `quota.standing`: egress → supervisor → front, when it has changed.

    While `blocked` nothing that spends is let in: the front refuses it and wakes nobody. `warned`
    are the limits that the tenant has come near to.
    """

    tenant: str
    blocked: Reached | None = None
    warned: tuple[Reached, ...] = ()


class Counted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Requests of a tenant in one minute and one hour; which, counted since 1970."""

    tenant: str
    minute: Amount
    in_minute: Amount
    hour: Amount
    in_hour: Amount


class CountedRequests(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of the event `quota.counted`, front → supervisor: what has changed since the last one.

    The supervisor keeps it for the next front.
    """

    counts: tuple[Counted, ...]


class Use(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What of a metric is used in the present window, with what is reserved; `limit` if any."""

    metric: Metric
    used: int
    limit: int | None = None
    resets_at_ms: int


class UseAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of `quota.use`, supervisor → egress; the answer is a `tuple[Use, ...]`.

    One `Use` for each of `SPENDING`, whether limited or not, and one of `concurrentRuns`.
    """

    tenant: str
