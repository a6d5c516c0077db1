"""`tenants.usage`, `usage.*` and `sessions.usage`: what the caller's tenant has used.

All of it comes from the ledger. Days and months are those of UTC; money is integer micro-USD, a
millionth of a US dollar, as it was written when it was spent. `tenantId` may be left out; it must
be the caller's own.
"""

from typing import Annotated, Final

import msgspec

from protocol import limits
from protocol.methods.chat import SessionKey
from protocol.methods.registry import Params, Result, Scope, declare
from protocol.methods.tenants import TenantId
from protocol.usage import BillRow, Cursor, Day, Kind, ProviderUse, ReportFormat, SessionUse


class Snapshot(Result, frozen=True, kw_only=True):
    """What a month adds up to: `period` is `2026-11`.

    `modelCalls` and `estimatedCalls` are calls of models, the latter those whose usage no provider
    told. Sessions are those that there are now, told with the present month alone. `quotaResetAt`
    is when the month ends; times are Unix ms.
    """

    tenant_id: str
    period: str
    total_tokens: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_cost_micro_usd: int
    model_calls: int
    estimated_calls: int
    tool_calls: int
    sandbox_seconds: float
    sandbox_cpu_seconds: float
    egress_bytes: int
    total_sessions: int | None = None
    active_sessions: int | None = None
    updated_at: int
    quota_reset_at: int


class SnapshotParams(Params, frozen=True, kw_only=True):
    """See the module."""

    tenant_id: TenantId | None = None


SNAPSHOT: Final = declare(
    "tenants.usage",
    params=SnapshotParams,
    result=Snapshot,
    scope=Scope.READ,
    idempotent=True,
    doc="Give what the tenant has used this month.",
)


class HistoryParams(Params, frozen=True, kw_only=True):
    """So many months, this one included."""

    tenant_id: TenantId | None = None
    months: Annotated[int, msgspec.Meta(ge=1, le=limits.USAGE_MONTHS_MAX)] = (
        limits.USAGE_MONTHS_DEFAULT
    )


class HistoryResult(Result, frozen=True, kw_only=True):
    """Newest first; months in which nothing was used are there too."""

    history: list[Snapshot]


HISTORY: Final = declare(
    "tenants.usage.history",
    params=HistoryParams,
    result=HistoryResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Give what the tenant has used, month by month.",
)


class StatusParams(Params, frozen=True, kw_only=True):
    """None."""


class StatusResult(Result, frozen=True, kw_only=True):
    """What was asked of each provider today and this month; `updatedAt` is Unix ms."""

    updated_at: int
    providers: list[ProviderUse]


STATUS: Final = declare(
    "usage.status",
    params=StatusParams,
    result=StatusResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Give what was asked of each provider, today and this month.",
)


class CostParams(Params, frozen=True, kw_only=True):
    """From one day to another, both included; else so many days up to today."""

    start_date: Day | None = None
    end_date: Day | None = None
    days: Annotated[int, msgspec.Meta(ge=1, le=limits.USAGE_DAYS_MAX)] = limits.USAGE_DAYS_DEFAULT


class Cost(Result, frozen=True, kw_only=True):
    """The five classes of tokens do not overlap; what a class alone has cost is not kept.

    `missingCostEntries` are calls whose usage no provider told: they are estimated.
    """

    calls: int
    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int
    total_tokens: int
    total_cost_micro_usd: int
    missing_cost_entries: int


class DailyCost(Cost, frozen=True, kw_only=True):
    """Of one day, which is as in `2026-11-03`."""

    date: str


class ModelCost(Cost, frozen=True, kw_only=True):
    """Of one model; or of the sandboxes of a mode, or what was moved."""

    kind: Kind
    provider: str
    model: str


class CostResult(Result, frozen=True, kw_only=True):
    """`days` is how many were asked for; those without use are left out. Oldest first."""

    updated_at: int
    days: int
    daily: list[DailyCost]
    models: list[ModelCost]
    totals: Cost


COST: Final = declare(
    "usage.cost",
    params=CostParams,
    result=CostResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Give tokens and costs by day, by model, and in all.",
)


class ReportParams(Params, frozen=True, kw_only=True):
    """`period`: current-month, last-month, today, yesterday, `2026-11` or `2026-11-03`.

    A page has `limit` rows at most, fewer where they are long. The next one begins at `cursor`,
    with the other parameters unchanged.
    """

    period: Annotated[str, msgspec.Meta(max_length=32)] = "current-month"
    format: ReportFormat = "json"
    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.USAGE_ROWS_MAX)] = limits.USAGE_ROWS_DEFAULT
    cursor: Cursor | None = None


class ReportResult(Result, frozen=True, kw_only=True):
    """Rows, or the same as CSV: its columns, and a header line on the first page.

    Without `nextCursor` it is the last page.
    """

    rows: list[BillRow] | None = None
    csv: str | None = None
    next_cursor: str | None = None


REPORT: Final = declare(
    "usage.report",
    params=ReportParams,
    result=ReportResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Give every call of a period with what it has cost, a page at a time.",
)


class SessionsParams(Params, frozen=True, kw_only=True):
    """From one day to another, both included; else the last thirty."""

    key: SessionKey | None = None
    start_date: Day | None = None
    end_date: Day | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.USAGE_SESSIONS_MAX)] = (
        limits.USAGE_SESSIONS_DEFAULT
    )


class SessionsResult(Result, frozen=True, kw_only=True):
    """Last used first; sessions that are deleted too, and none that had no call."""

    sessions: list[SessionUse]


SESSIONS: Final = declare(
    "sessions.usage",
    params=SessionsParams,
    result=SessionsResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Give what each session has used.",
)
