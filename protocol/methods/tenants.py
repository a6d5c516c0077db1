"""`tenants.*`: a tenant's view of itself, and what takes the supervisor to do.

No worker has the authority to do these: the supervisor answers them, for the tenant and the scopes
of the token that was presented. `tenantId` may be left out; it must be the caller's own.
"""

from typing import Annotated, Final, Literal

import msgspec

from protocol.methods.registry import Params, Result, Scope, declare
from protocol.names import TENANT_ID_PATTERN
from protocol.quotas import Metric, Quota, QuotaChange

TenantId = Annotated[str, msgspec.Meta(pattern=TENANT_ID_PATTERN)]


class GetParams(Params, frozen=True, kw_only=True):
    """See the module."""

    tenant_id: TenantId | None = None


class GetResult(Result, frozen=True, kw_only=True):
    """`scopes` are those of the token that was presented; `createdAt` is ISO 8601, UTC.

    Of the quota, what is left out has no bound; cost is in millionths of a US dollar.
    """

    tenant_id: str
    display_name: str | None = None
    created_at: str
    quota: Quota
    scopes: list[str]


GET: Final = declare(
    "tenants.get",
    params=GetParams,
    result=GetResult,
    scope=Scope.READ,
    idempotent=True,
    answered_by="supervisor",
    doc="Give what the gateway knows of the caller's tenant.",
)


class RotateParams(Params, frozen=True, kw_only=True):
    """See the module."""

    tenant_id: TenantId | None = None


class RotateResult(Result, frozen=True, kw_only=True):
    """The only copy of the new token. The old ones are refused from here on."""

    tenant_id: str
    token: str


ROTATE: Final = declare(
    "tenants.rotate",
    params=RotateParams,
    result=RotateResult,
    scope=Scope.ADMIN,
    answered_by="supervisor",
    doc="Replace the tenant's tokens by a new one.",
)


class DeleteParams(Params, frozen=True, kw_only=True):
    """`confirm` is the tenant's id, so that nobody deletes by mistake."""

    confirm: TenantId
    tenant_id: TenantId | None = None


class DeleteResult(Result, frozen=True, kw_only=True):
    """All of it is gone; the audit stays."""

    tenant_id: str
    deleted: Literal[True]


DELETE: Final = declare(
    "tenants.delete",
    params=DeleteParams,
    result=DeleteResult,
    scope=Scope.ADMIN,
    answered_by="supervisor",
    doc="Delete the tenant, all its data and its tokens.",
)


class QuotaStatusParams(Params, frozen=True, kw_only=True):
    """See the module."""

    tenant_id: TenantId | None = None


class QuotaWindow(Result, frozen=True, kw_only=True):
    """What is used in the present window of UTC; tokens and cost with what is reserved.

    `percent` is of the `limit`; without a limit it is left out. Cost is in millionths of a US
    dollar. `nextWindowAt` is ISO 8601; runs at a time have no window.
    """

    metric: Metric
    used: int
    limit: int | None = None
    percent: float | None = None
    is_over: bool = False
    is_at_soft_limit: bool = False
    next_window_at: str | None = None


class QuotaStatus(Result, frozen=True, kw_only=True):
    """The quota, what is used of it, and what follows.

    Of requests only what is limited is counted. The percentages are those of the window that is
    nearest to its limit. While `isBlocked`, `blockedBy` says by which limit, and `nextWindowAt`
    until when: by one of tokens or cost only what may spend is refused.
    """

    tenant_id: str
    quotas: Quota
    windows: list[QuotaWindow]
    token_usage_percent: float | None = None
    cost_usage_percent: float | None = None
    disk_usage_percent: float | None = None
    is_over_token_limit: bool
    is_over_cost_limit: bool
    is_over_disk_limit: bool
    is_at_soft_limit: bool
    is_blocked: bool
    blocked_by: Metric | None = None
    next_window_at: str | None = None


QUOTA_STATUS: Final = declare(
    "tenants.quota.status",
    params=QuotaStatusParams,
    result=QuotaStatus,
    scope=Scope.READ,
    idempotent=True,
    answered_by="supervisor",
    doc="Give the tenant's quota and what is used of it; also while it is used up.",
)


class QuotaUpdateParams(Params, frozen=True, kw_only=True):
    """What `quota` names changes, null takes a limit away."""

    tenant_id: TenantId
    quota: QuotaChange


class QuotaUpdateResult(Result, frozen=True, kw_only=True):
    """The whole quota, which is in force."""

    tenant_id: str
    updated: Literal[True]
    quota: Quota


QUOTA_UPDATE: Final = declare(
    "tenants.quota.update",
    params=QuotaUpdateParams,
    result=QuotaUpdateResult,
    scope=Scope.ADMIN,
    idempotent=True,
    answered_by="operator",
    doc="Change a tenant's quota; for operators, with the admin key as bearer on `POST /rpc`.",
)
