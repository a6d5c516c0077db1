"""What a tenant may spend, in which windows, and how it is told that it has.

A quota is the operator's word, kept in the registry. Tokens and cost are decided by egress against
its ledger and its reservations; requests by the front. Windows are those of UTC: a minute, an hour,
a day, a month. None is no limit, zero is nothing at all.
"""

from typing import Annotated, Final, Literal

import msgspec

from protocol import limits

Amount = Annotated[int, msgspec.Meta(ge=0, le=limits.JSON_INTEGER_ABS_MAX)]
Percent = Annotated[int, msgspec.Meta(ge=1, le=100)]
SOFT_PERCENT: Final = 80
"""Of a limit; from here on a tenant is warned, once a window."""

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


NO_QUOTA: Final = Quota()


class Reached(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A limit, or the part of it where warnings begin, that a tenant has come to.

    `resets_at_ms` is the beginning of the next window, Unix ms.
    """

    metric: Metric
    limit: int
    used: int
    resets_at_ms: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Body of the event `quota.standing`: egress → supervisor → front, when it has changed.

    While `blocked` nothing that spends is let in: the front refuses it and wakes nobody. `warned`
    are the limits that the tenant has come near to.
    """

    tenant: str
    blocked: Reached | None = None
    warned: tuple[Reached, ...] = ()
