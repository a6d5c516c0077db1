"""The control plane: HTTP requests of operators, authorised and answered by the supervisor.

The front hands over what it cannot judge. A tenant's token has no meaning here.
"""

import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Protocol
from urllib.parse import unquote

import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.names import digest
from protocol.spawn import ControlRequest, ControlResponse
from supervisor.registry import Quota
from supervisor.reload import Reloaded
from supervisor.status import TenantStatus
from supervisor.tenants import CreatedTenant, TenantView, check_tenant_id

ACTOR: Final = "admin"
Amount = Annotated[int, msgspec.Meta(ge=0, le=limits.JSON_INTEGER_ABS_MAX)]


class QuotaParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Bounds a day, UTC. `costPerDayMicroUsd` is in millionths of a US dollar."""

    tokens_per_day: Amount | None = None
    cost_per_day_micro_usd: Amount | None = None


class CreateParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Body of `POST /v1/tenants`."""

    tenant_id: str
    display_name: str | None = None
    quota: QuotaParams = QuotaParams()


class TenantActions(Protocol):
    """What the control plane may ask the supervisor for."""

    async def create_tenant(
        self, tenant: str, *, actor: str, display_name: str | None, quota: Quota
    ) -> CreatedTenant:
        """Make a tenant; its token is good when this returns."""

    async def list_tenants(self) -> list[TenantView]:
        """Give all tenants."""

    async def get_tenant(self, tenant: str) -> TenantView:
        """Give one tenant."""

    async def rotate_token(self, tenant: str, *, actor: str) -> str:
        """Replace a tenant's tokens; the old ones are refused when this returns."""

    async def delete_tenant(self, tenant: str, *, actor: str) -> None:
        """Remove a tenant and all its files."""

    async def restart_tenant(self, tenant: str) -> TenantStatus:
        """Have the tenant's next generation serve; where it cannot, the present one serves on."""

    async def suspend_tenant(self, tenant: str, *, actor: str) -> None:
        """End a tenant's worker and refuse its tokens, until it is resumed."""

    async def resume_tenant(self, tenant: str, *, actor: str) -> None:
        """Take a suspended tenant back into service."""

    async def status(self, tenant: str | None) -> list[TenantStatus]:
        """Say how the workers of all tenants are, or that of one."""

    async def reload(self) -> Reloaded:
        """Read the configuration again, and renew the zygote."""


Answer = tuple[int, Any]


class ControlPlane:
    """Authorises and routes control requests.

    Args:
        admin_digest: SHA-256 of the admin key.
        actions: What is asked for.
    """

    def __init__(self, admin_digest: bytes, actions: TenantActions) -> None:
        self._admin_digest: Final = admin_digest
        self._actions: Final = actions

    async def answer(self, request: ControlRequest) -> ControlResponse:
        """Answer one request; a refusal is an answer too."""
        try:
            self._authorise(request.secret)
            status, body = await self._route(request)
        except GatewayError as error:
            status, body = error.code.http_status, {"error": error.body()}
        return ControlResponse(status=status, body=msgspec.Raw(msgspec.json.encode(body)))

    def _authorise(self, secret: str) -> None:
        if not hmac.compare_digest(digest(secret), self._admin_digest):
            raise GatewayError(ErrorCode.UNAUTHORIZED, "the admin key is missing or wrong")

    async def _route(self, request: ControlRequest) -> Answer:
        if request.query:
            msg = "query: no route here takes one"
            raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="query")
        match [unquote(part) for part in request.path.split("/")[1:]]:
            case ["v1", "tenants"]:
                return await self._dispatch(
                    request, {"GET": self._list, "POST": lambda: self._create(request.body)}
                )
            case ["v1", "tenants", tenant]:
                check_tenant_id(tenant)
                return await self._dispatch(
                    request,
                    {"GET": lambda: self._get(tenant), "DELETE": lambda: self._delete(tenant)},
                )
            case ["v1", "status" | "reload" as what]:
                of_all: dict[str, dict[str, Callable[[], Awaitable[Answer]]]] = {
                    "status": {"GET": lambda: self._status(None)},
                    "reload": {"POST": self._reload},
                }
                return await self._dispatch(request, of_all[what])
            case ["v1", "tenants", tenant, "status"]:
                check_tenant_id(tenant)
                return await self._dispatch(request, {"GET": lambda: self._status(tenant)})
            case ["v1", "tenants", tenant, "restart" | "suspend" | "resume" as what]:
                check_tenant_id(tenant)
                act = {"restart": self._restart, "suspend": self._suspend, "resume": self._resume}
                return await self._dispatch(request, {"POST": lambda: act[what](tenant)})
            case ["v1", "tenants", tenant, "token", "rotate"]:
                check_tenant_id(tenant)
                return await self._dispatch(request, {"POST": lambda: self._rotate(tenant)})
            case _:
                raise GatewayError(ErrorCode.NOT_FOUND, "no such route")

    @staticmethod
    async def _dispatch(
        request: ControlRequest, verbs: dict[str, Callable[[], Awaitable[Answer]]]
    ) -> Answer:
        act = verbs.get(request.verb)
        if act is None:
            allowed = ", ".join(verbs)
            msg = f"use {allowed} here"
            raise GatewayError(ErrorCode.METHOD_NOT_ALLOWED, msg, allowed=list(verbs))
        return await act()

    async def _list(self) -> Answer:
        return 200, {"tenants": await self._actions.list_tenants()}

    async def _create(self, body: bytes) -> Answer:
        params = decode_create(body)
        created = await self._actions.create_tenant(
            params.tenant_id,
            actor=ACTOR,
            display_name=params.display_name,
            quota=Quota(
                tokens_per_day=params.quota.tokens_per_day,
                cost_per_day_micro_usd=params.quota.cost_per_day_micro_usd,
            ),
        )
        return 201, created

    async def _get(self, tenant: str) -> Answer:
        return 200, await self._actions.get_tenant(tenant)

    async def _status(self, tenant: str | None) -> Answer:
        return 200, {"tenants": await self._actions.status(tenant)}

    async def _reload(self) -> Answer:
        return 200, await self._actions.reload()

    async def _restart(self, tenant: str) -> Answer:
        return 200, await self._actions.restart_tenant(tenant)

    async def _suspend(self, tenant: str) -> Answer:
        await self._actions.suspend_tenant(tenant, actor=ACTOR)
        return 200, await self._actions.get_tenant(tenant)

    async def _resume(self, tenant: str) -> Answer:
        await self._actions.resume_tenant(tenant, actor=ACTOR)
        return 200, await self._actions.get_tenant(tenant)

    async def _rotate(self, tenant: str) -> Answer:
        token = await self._actions.rotate_token(tenant, actor=ACTOR)
        return 200, {"tenantId": tenant, "token": token}

    async def _delete(self, tenant: str) -> Answer:
        await self._actions.delete_tenant(tenant, actor=ACTOR)
        return 200, {"deleted": True, "tenantId": tenant}


def decode_create(body: bytes) -> CreateParams:
    """Read the body of a creation.

    Raises:
        GatewayError: PARSE_ERROR or INVALID_REQUEST, naming the field.
    """
    try:
        return msgspec.json.decode(body, type=CreateParams)
    except msgspec.ValidationError as error:
        raise GatewayError(ErrorCode.INVALID_REQUEST, f"body: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GatewayError(ErrorCode.PARSE_ERROR, f"the body is no JSON: {error}") from error
