"""What goes over the control plane. Times are RFC 3339 in UTC, money is millionths of a US dollar.

What clients send is closed: an unknown field is refused. Of what they get, a field that equals its
default is left out.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from protocol import limits
from protocol.names import (
    DISPLAY_NAME_PATTERN,
    TENANT_ID_PATTERN,
    TOKEN_ID_PATTERN,
    TOKEN_NAME_PATTERN,
)
from protocol.quotas import Amount, Quota, QuotaChange
from protocol.scopes import Scope

TenantId = Annotated[str, msgspec.Meta(pattern=TENANT_ID_PATTERN)]
TokenId = Annotated[str, msgspec.Meta(pattern=TOKEN_ID_PATTERN)]
TokenName = Annotated[str, msgspec.Meta(pattern=TOKEN_NAME_PATTERN)]
DisplayName = Annotated[
    str, msgspec.Meta(max_length=limits.DISPLAY_NAME_CHARS_MAX, pattern=DISPLAY_NAME_PATTERN)
]
MemoryBytes = Annotated[
    int, msgspec.Meta(ge=limits.TENANT_MEMORY_BYTES_MIN, le=limits.TENANT_MEMORY_BYTES_MAX)
]
Cpus = Annotated[float, msgspec.Meta(ge=limits.TENANT_CPUS_MIN, le=limits.TENANT_CPUS_MAX)]
Pids = Annotated[int, msgspec.Meta(ge=limits.TENANT_PIDS_MIN, le=limits.TENANT_PIDS_MAX)]
DiskBytes = Annotated[
    int, msgspec.Meta(ge=limits.TENANT_DISK_BYTES_MIN, le=limits.TENANT_DISK_BYTES_MAX)
]
DiskInodes = Annotated[
    int, msgspec.Meta(ge=limits.TENANT_DISK_INODES_MIN, le=limits.TENANT_DISK_INODES_MAX)
]
Unlimited = Annotated[str, msgspec.Meta(pattern=r"^unlimited$(?!\n)")]
Moment = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
PageSize = Annotated[int, msgspec.Meta(ge=1, le=limits.CONTROL_PAGE_MAX)]
TenantState = Literal["enabled", "suspended", "deleting"]
ScopeName = Literal["read", "write", "admin"]

SCOPES: Final[dict[ScopeName, Scope]] = {
    "read": Scope.READ,
    "write": Scope.WRITE,
    "admin": Scope.ADMIN,
}


def scope_names(bits: int) -> tuple[ScopeName, ...]:
    """Give the names of a set of scopes."""
    return tuple(name for name, scope in SCOPES.items() if bits & scope)


def scope_bits(names: tuple[ScopeName, ...]) -> int:
    """Give the set of scopes that these names are."""
    return sum({int(SCOPES[name]) for name in names})


class Sent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of what clients send."""


class Shown(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of what clients get."""


class TenantLimits(Sent, frozen=True, kw_only=True, omit_defaults=True):
    """What a tenant may have at once, its worker and its sandboxes together.

    None is what `caps` of the gateway's `config.yaml` says. `cpus` is processors' worth of time.
    """

    memory_bytes: MemoryBytes | Unlimited | None = None
    cpus: Cpus | Unlimited | None = None
    pids: Pids | Unlimited | None = None
    disk_bytes: DiskBytes | Unlimited | None = None
    disk_inodes: DiskInodes | Unlimited | None = None


NO_LIMITS: Final = TenantLimits()


# What is sent.


class Nothing(Sent, frozen=True, kw_only=True):
    """Body of a request that says all in its path: empty, or `{}`."""


class CreateTenant(Sent, frozen=True, kw_only=True):
    """Body of `POST /v1/tenants`."""

    tenant_id: TenantId
    display_name: DisplayName | None = None
    quota: Quota = Quota()
    limits: TenantLimits = NO_LIMITS


class LimitsChange(Sent, frozen=True, kw_only=True):
    """What of a tenant's limits changes; null is the gateway's default again."""

    memory_bytes: MemoryBytes | Unlimited | UnsetType | None = UNSET
    cpus: Cpus | Unlimited | UnsetType | None = UNSET
    pids: Pids | Unlimited | UnsetType | None = UNSET
    disk_bytes: DiskBytes | Unlimited | UnsetType | None = UNSET
    disk_inodes: DiskInodes | Unlimited | UnsetType | None = UNSET


class UpdateTenant(Sent, frozen=True, kw_only=True):
    """Body of `PATCH /v1/tenants/{tenantId}`: what it names changes, null takes away (RFC 7396)."""

    display_name: DisplayName | UnsetType | None = UNSET
    quota: QuotaChange | UnsetType = UNSET
    limits: LimitsChange | UnsetType = UNSET


class CreateToken(Sent, frozen=True, kw_only=True):
    """Body of `POST …/tokens`. `admin` holds `write`, and `write` holds `read`."""

    name: TokenName
    scopes: Annotated[tuple[ScopeName, ...], msgspec.Meta(min_length=1, max_length=8)]
    expires_in_seconds: Annotated[int, msgspec.Meta(ge=1, le=limits.TOKEN_SECONDS_MAX)] | None = (
        None
    )


class RotateToken(Sent, frozen=True, kw_only=True):
    """Body of `POST …/token/rotate`; without a `tokenId` it is the token `default`.

    Every token of that one's name is replaced. The old ones are refused when this is answered, or
    `overlapSeconds` later.
    """

    token_id: TokenId | None = None
    overlap_seconds: Annotated[int, msgspec.Meta(ge=0, le=limits.TOKEN_OVERLAP_SECONDS_MAX)] = 0


# Queries.


class TenantsQuery(Sent, frozen=True, kw_only=True):
    """A page of tenants; `cursor` is the `nextCursor` of the page before."""

    limit: PageSize = limits.CONTROL_PAGE_DEFAULT
    cursor: TenantId | UnsetType = UNSET


class AuditQuery(Sent, frozen=True, kw_only=True):
    """A page of the audit, oldest first; `since` is Unix ms."""

    limit: PageSize = limits.CONTROL_PAGE_DEFAULT
    cursor: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,15}$(?!\n)")] | UnsetType = UNSET
    tenant: TenantId | UnsetType = UNSET
    since: Amount = 0


# What is answered.


class EffectiveLimits(Shown, frozen=True, kw_only=True):
    """What holds for a tenant, whoever has said it; see `TenantLimits`."""

    memory_bytes: int | Unlimited
    cpus: float | Unlimited
    pids: int | Unlimited
    disk_bytes: int | Unlimited
    disk_inodes: int | Unlimited


class TenantView(Shown, frozen=True, kw_only=True):
    """A tenant as an operator sees it. `state_dir` is relative to the state root.

    `limits` are those of its own, `effective_limits` what holds. `warnings` say what of a change is
    not in force at once.
    """

    tenant_id: str
    display_name: str | None = None
    created_at: Moment
    disabled: bool
    state: TenantState
    quota: Quota
    limits: TenantLimits
    effective_limits: EffectiveLimits
    state_dir: str
    warnings: tuple[str, ...] = ()


class CreatedTenant(TenantView, frozen=True, kw_only=True):
    """A new tenant, with the only copy of its token."""

    token: str


class TenantPage(Shown, frozen=True, kw_only=True):
    """Tenants by id; there are more where there is a `nextCursor`."""

    tenants: list[TenantView]
    next_cursor: str | None = None


class DeletedTenant(Shown, frozen=True, kw_only=True):
    """The tenant is gone, and its files are."""

    tenant_id: str
    deleted: bool


class TokenView(Shown, frozen=True, kw_only=True):
    """A token without its secret."""

    token_id: str
    tenant_id: str
    name: str
    scopes: tuple[ScopeName, ...]
    created_at: Moment
    expires_at: Moment | None = None
    expired: bool = False


class CreatedToken(TokenView, frozen=True, kw_only=True):
    """A new token, with the only copy of its secret."""

    token: str


class TokenList(Shown, frozen=True, kw_only=True):
    """All tokens of a tenant, oldest first."""

    tokens: list[TokenView]


class RevokedToken(Shown, frozen=True, kw_only=True):
    """The token is refused from now on."""

    token_id: str
    tenant_id: str
    revoked: bool


class DeathRecord(Shown, frozen=True, kw_only=True):
    """How one process of a tenant ended. `at_ms` is Unix ms."""

    at_ms: int
    generation: int
    uptime_seconds: float
    cause: str
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False


class TenantStatus(Shown, frozen=True, kw_only=True):
    """One tenant's worker. Times are seconds or Unix ms, as their names say."""

    tenant_id: str
    state: str
    reason: str | None = None
    pid: int | None = None
    generation: int | None = None
    uptime_seconds: float | None = None
    restarts: int = 0
    """How often another generation was started after a death, or because an operator asked."""
    deaths: int
    last_death: str | None = None
    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    pids: int | None = None
    """These three: of its worker and its sandboxes where there are cgroups, else of its worker."""
    disk_bytes: int | None = None
    disk_inodes: int | None = None
    """As they were counted last; a tenant that sleeps keeps what it had."""
    stopped: str | None = None
    """Why it may not write, if it may not."""
    blocked: str | None = None
    """Which quota is used up, so that nothing may be spent, if one is."""
    limits: EffectiveLimits | None = None
    in_flight: int
    held: int
    next_wake_at_ms: int | None = None
    death_history: tuple[DeathRecord, ...] = ()
    """The last hundred deaths, oldest first; only where one tenant was asked for."""


class Reloaded(Shown, frozen=True, kw_only=True):
    """What a reload did, in keys of `config.yaml`."""

    applied: tuple[str, ...]
    """These have changed, and are in force."""
    needs_restart: tuple[str, ...]
    """These differ from what is in force until the gateway is started anew."""
    zygote_pid: int
    """What forks the workers from now on, with the program that is on the disk now."""


class StatusPage(Shown, frozen=True, kw_only=True):
    """How workers are, by tenant id; there are more where there is a `nextCursor`."""

    tenants: list[TenantStatus]
    next_cursor: str | None = None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the audit. `ts` is Unix ms, `actor` who did it, `detail` what changed."""

    seq: int
    ts: int
    actor: str
    action: str
    tenant: str | None = None
    detail: dict[str, Any] = {}
    hash: str = ""


class AuditPage(Shown, frozen=True, kw_only=True):
    """Lines of the audit, oldest first; where there is a `nextCursor` there can be more."""

    entries: list[AuditEntry]
    next_cursor: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Problem details (RFC 9457). `code` is the string code; further members say more."""

    type: str
    title: str
    status: int
    detail: str
    code: str
