"""What a tenant asks of the supervisor itself: the methods that no worker has the authority for.

The front says which tenant and which scopes the caller's token was granted; nothing in the
parameters can name another tenant.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from protocol import limits, params
from protocol.control.shapes import RotateToken, scope_names
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import METHODS, answered_by, tenants
from protocol.scopes import allows, refusal
from protocol.spawn import TenantRequest
from supervisor.control.actions import TenantActions

_OPERATORS: Final = answered_by("operator")

Handler = Callable[[TenantRequest, Any], Awaitable[Any]]


class TenantRequests:
    """Authorises and answers them.

    Args:
        actions: What is asked for.
        now: Monotonic seconds.
    """

    def __init__(self, actions: TenantActions, now: Callable[[], float]) -> None:
        self._actions: Final = actions
        self._now: Final = now
        self._rotations: Final[dict[str, deque[float]]] = {}
        self._handlers: Final[dict[str, Handler]] = {
            tenants.GET.name: self._get,
            tenants.ROTATE.name: self._rotate,
            tenants.DELETE.name: self._delete,
            tenants.QUOTA_STATUS.name: self._quota_status,
        }
        self._decoders: Final = {
            name: msgspec.json.Decoder(METHODS[name].params) for name in self._handlers
        }
        if self._handlers.keys() != answered_by("supervisor"):
            raise LookupError("the handlers are not those of the declared methods")

    async def answer(self, request: TenantRequest) -> bytes:
        """Give the result as JSON.

        Raises:
            GatewayError: the request is refused.
        """
        handler = self._handlers.get(request.method)
        if request.method in _OPERATORS:
            message = (
                f"{request.method} is for operators: the admin key as bearer on POST /rpc, "
                "PATCH /v1/tenants/{tenantId}, or openclaw tenants quota"
            )
            raise GatewayError(ErrorCode.FORBIDDEN, message, requiredCredential="admin key")
        if handler is None:
            raise GatewayError(ErrorCode.METHOD_NOT_FOUND, "the supervisor has no such method")
        needed = METHODS[request.method].scope
        if not allows(request.scopes, needed):
            raise refusal(needed)
        asked = params.decode(request.method, self._decoders[request.method], request.params)
        named = getattr(asked, "tenant_id", None)
        if named not in (None, request.tenant):
            # The same for a tenant that exists and one that does not.
            message = "tenantId is another tenant's than the token's"
            raise GatewayError(ErrorCode.FORBIDDEN, message, field="tenantId")
        return msgspec.json.encode(await handler(request, asked))

    async def _get(self, request: TenantRequest, _asked: tenants.GetParams) -> tenants.GetResult:
        found = await self._actions.get_tenant(request.tenant)
        return tenants.GetResult(
            tenant_id=found.tenant_id,
            display_name=found.display_name,
            created_at=found.created_at,
            quota=found.quota,
            scopes=list(scope_names(request.scopes)),
        )

    async def _quota_status(
        self, request: TenantRequest, _asked: tenants.QuotaStatusParams
    ) -> tenants.QuotaStatus:
        return await self._actions.quota_status(request.tenant)

    async def _rotate(
        self, request: TenantRequest, _asked: tenants.RotateParams
    ) -> tenants.RotateResult:
        # Each writes a line into the audit, which nobody may fill.
        self._count_rotation(request.tenant)
        rotated = await self._actions.rotate_token(
            request.tenant, RotateToken(token_id=request.token_id), actor=_actor(request)
        )
        return tenants.RotateResult(tenant_id=request.tenant, token=rotated.token)

    def _count_rotation(self, tenant: str) -> None:
        now = self._now()
        earlier = self._rotations.setdefault(tenant, deque())
        while earlier and earlier[0] <= now - limits.TOKEN_ROTATIONS_WINDOW_SECONDS:
            earlier.popleft()
        if len(earlier) >= limits.TOKEN_ROTATIONS_MAX:
            wait = earlier[0] + limits.TOKEN_ROTATIONS_WINDOW_SECONDS - now
            message = f"at most {limits.TOKEN_ROTATIONS_MAX} rotations a minute"
            raise GatewayError(ErrorCode.RATE_LIMITED, message, retryAfterMs=round(wait * 1000) + 1)
        earlier.append(now)

    async def _delete(
        self, request: TenantRequest, asked: tenants.DeleteParams
    ) -> tenants.DeleteResult:
        if asked.confirm != request.tenant:
            message = "confirm must be the id of the tenant that is deleted, which is your own"
            raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="confirm")
        await self._actions.delete_tenant(request.tenant, actor=_actor(request))
        self._rotations.pop(request.tenant, None)
        return tenants.DeleteResult(tenant_id=request.tenant, deleted=True)


def _actor(request: TenantRequest) -> str:
    return f"token:{request.token_id}"
