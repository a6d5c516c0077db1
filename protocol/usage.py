"""What a worker asks egress about its own tenant's use, and what comes back.

Parameters of `usage` on the link between them. Who the tenant is, egress knows from the link. Money
is integer micro-USD; times are Unix ms, except where a field is a text: ISO 8601, UTC.
"""

from typing import Annotated, Final, Literal

import msgspec

from protocol import limits

Kind = Literal["model", "embedding", "sandbox", "egress"]
ReportFormat = Literal["json", "csv"]
Cursor = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,15}\.[0-9]{1,15}\.[0-9]{1,15}$(?!\n)")]
"""Where the next page begins: time and number of the last row, number of the newest at the time."""
Moment = Annotated[int, msgspec.Meta(ge=0, le=limits.JSON_INTEGER_ABS_MAX)]
Day = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$(?!\n)")]
Month = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}$(?!\n)")]

USAGE: Final = "usage"
"""The name of the call."""


class _Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="of"):
    pass


class MonthsAsked(_Asked, tag="months", frozen=True, kw_only=True):
    """What these months add up to. Answer: an object, a `Use` for each that has any."""

    months: Annotated[
        tuple[Month, ...], msgspec.Meta(min_length=1, max_length=limits.USAGE_MONTHS_MAX)
    ]


class DaysAsked(_Asked, tag="days", frozen=True, kw_only=True):
    """What the days from one to another add up to, both included. Answer: `DaysUse`."""

    first: Day
    last: Day


class ProvidersAsked(_Asked, tag="providers", frozen=True, kw_only=True):
    """What a day and a month have cost, by provider. Answer: a list of `ProviderUse`."""

    day: Day
    month: Month


class ReportAsked(_Asked, tag="report", frozen=True, kw_only=True):
    """Rows of the ledger, in the order of time. Answer: the result of `usage.report`."""

    start_ms: Moment
    end_ms: Moment
    format: ReportFormat
    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.USAGE_ROWS_MAX)]
    cursor: Cursor | None = None


class SessionsAsked(_Asked, tag="sessions", frozen=True, kw_only=True):
    """What sessions have cost, last used first. Answer: a list of `SessionUse`."""

    start_ms: Moment
    end_ms: Moment
    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.USAGE_SESSIONS_MAX)]
    key: Annotated[str, msgspec.Meta(max_length=limits.SESSION_KEY_CHARS_MAX)] | None = None


Asked = MonthsAsked | DaysAsked | ProvidersAsked | ReportAsked | SessionsAsked


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of `usage`."""

    asked: Asked


class Use(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was used. `calls` are those of models; of `estimatedCalls` no provider told the usage.

    The five classes of tokens do not overlap.
    """

    calls: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    total_tokens: int = 0
    tool_calls: int = 0
    sandbox_wall_ms: int = 0
    sandbox_cpu_ms: int = 0
    egress_bytes: int = 0
    estimated_calls: int = 0
    cost_micro_usd: int = 0

    def __add__(self, other: "Use") -> "Use":
        """Give the sum of both."""
        return Use(
            **{name: getattr(self, name) + getattr(other, name) for name in Use.__struct_fields__}
        )


class ModelUse(Use, frozen=True, kw_only=True):
    """What one model was used for; or sandboxes of a mode, or what was moved."""

    kind: Kind
    provider: str
    model: str


class DaysUse(msgspec.Struct, frozen=True, kw_only=True):
    """By day, where there is any, and by model."""

    days: dict[str, Use]
    models: list[ModelUse]


class ProviderUse(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was asked of one provider. `ownKey`: with a key that the tenant has brought."""

    provider: str
    own_key: bool
    today: Use
    month: Use


class SessionUse(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What one session has used. Times are Unix ms of its first and last call in the time asked."""

    key: str
    first_at: int
    last_at: int
    calls: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    tool_calls: int
    cost_micro_usd: int


class BillRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One row of the ledger, as it was written when it happened; none is ever changed.

    `rateCard` is the SHA-256 of the rate card that priced it. `estimated`: no provider told the
    usage, it was counted. `ownKey`: the tenant's own key paid. `requestId` is the provider's.
    """

    timestamp: str
    entry_id: int
    tenant_id: str
    kind: Kind
    provider: str
    model: str
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    tool_calls: int
    sandbox_wall_ms: int
    sandbox_cpu_ms: int
    egress_bytes: int
    cost_micro_usd: int
    estimated: bool
    own_key: bool
    rate_card: str
    request_id: str
    run_id: str | None = None
    session_key: str | None = None
