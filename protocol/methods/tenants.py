"""`tenants.*`: a tenant's view of itself, and what takes the supervisor to do.

No worker has the authority to do these: the supervisor answers them, for the tenant and the scopes
of the token that was presented. `tenantId` may be left out; it must be the caller's own.
"""

from typing import Annotated, Final, Literal

import msgspec

from protocol.methods.registry import Params, Result, Scope, declare
from protocol.names import TENANT_ID_PATTERN

TenantId = Annotated[str, msgspec.Meta(pattern=TENANT_ID_PATTERN)]


class GetParams(Params, frozen=True, kw_only=True):
    """See the module."""

    tenant_id: TenantId | None = None


class Quota(Result, frozen=True, kw_only=True):
    """What may be spent a day, UTC; left out: no bound. Cost is in millionths of a US dollar."""

    tokens_per_day: int | None = None
    cost_per_day_micro_usd: int | None = None


class GetResult(Result, frozen=True, kw_only=True):
    """`scopes` are those of the token that was presented; `createdAt` is ISO 8601, UTC."""

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
