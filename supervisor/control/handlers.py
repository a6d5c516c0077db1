"""One handler for each declared route, bound to it by name."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec

from protocol.control import shapes
from protocol.control.routes import ROUTES, Route
from protocol.methods.tenants import QuotaStatus
from supervisor.control.actions import TenantActions

ACTOR: Final = "admin"


class Asked(NamedTuple):
    """What a request carries: checked against the route's declaration but for `parameters`."""

    parameters: dict[str, str]
    query: Any
    body: Any

    @property
    def tenant(self) -> str:
        """The tenant of the path."""
        return self.parameters["tenantId"]

    @property
    def token_id(self) -> str:
        """The token of the path."""
        return self.parameters["tokenId"]


class Handlers:
    """What is answered.

    Args:
        actions: What is asked for.

    Raises:
        LookupError: a route has no handler here: a mistake in our own code.
    """

    def __init__(self, actions: TenantActions) -> None:
        self._actions: Final = actions
        self._by_name: Final[dict[str, Callable[[Asked], Awaitable[msgspec.Struct | str]]]] = {}
        for route in ROUTES:
            handler = getattr(self, f"_{route.name}", None)
            if handler is None:
                raise LookupError(f"route without a handler: {route.name}")
            self._by_name[route.name] = handler

    async def run(self, route: Route, asked: Asked) -> msgspec.Struct | str:
        """Do what is asked for; gives the body of the answer: text where none is declared.

        Raises:
            GatewayError: it is refused.
        """
        return await self._by_name[route.name](asked)

    # Tenants

    async def _list_tenants(self, asked: Asked) -> shapes.TenantPage:
        query: shapes.TenantsQuery = asked.query
        rows = await self._actions.list_tenants(query.cursor or "", query.limit + 1)
        shown = rows[: query.limit]
        more = len(rows) > len(shown)
        return shapes.TenantPage(tenants=shown, next_cursor=shown[-1].tenant_id if more else None)

    async def _create_tenant(self, asked: Asked) -> shapes.CreatedTenant:
        return await self._actions.create_tenant(asked.body, actor=ACTOR)

    async def _get_tenant(self, asked: Asked) -> shapes.TenantView:
        return await self._actions.get_tenant(asked.tenant)

    async def _update_tenant(self, asked: Asked) -> shapes.TenantView:
        return await self._actions.update_tenant(asked.tenant, asked.body, actor=ACTOR)

    async def _delete_tenant(self, asked: Asked) -> shapes.DeletedTenant:
        await self._actions.delete_tenant(asked.tenant, actor=ACTOR)
        return shapes.DeletedTenant(tenant_id=asked.tenant, deleted=True)

    async def _restart_tenant(self, asked: Asked) -> shapes.TenantStatus:
        return await self._actions.restart_tenant(asked.tenant, actor=ACTOR)

    async def _suspend_tenant(self, asked: Asked) -> shapes.TenantView:
        await self._actions.suspend_tenant(asked.tenant, actor=ACTOR)
        return await self._actions.get_tenant(asked.tenant)

    async def _resume_tenant(self, asked: Asked) -> shapes.TenantView:
        await self._actions.resume_tenant(asked.tenant, actor=ACTOR)
        return await self._actions.get_tenant(asked.tenant)

    # Tokens

    async def _list_tokens(self, asked: Asked) -> shapes.TokenList:
        return shapes.TokenList(tokens=await self._actions.list_tokens(asked.tenant))

    async def _create_token(self, asked: Asked) -> shapes.CreatedToken:
        return await self._actions.create_token(asked.tenant, asked.body, actor=ACTOR)

    async def _get_token(self, asked: Asked) -> shapes.TokenView:
        return await self._actions.get_token(asked.tenant, asked.token_id)

    async def _revoke_token(self, asked: Asked) -> shapes.RevokedToken:
        await self._actions.revoke_token(asked.tenant, asked.token_id, actor=ACTOR)
        return shapes.RevokedToken(token_id=asked.token_id, tenant_id=asked.tenant, revoked=True)

    async def _rotate_token(self, asked: Asked) -> shapes.CreatedToken:
        return await self._actions.rotate_token(asked.tenant, asked.body, actor=ACTOR)

    # How things are

    async def _tenant_status(self, asked: Asked) -> shapes.StatusPage:
        return shapes.StatusPage(tenants=[await self._actions.tenant_status(asked.tenant)])

    async def _tenant_quota(self, asked: Asked) -> QuotaStatus:
        return await self._actions.quota_status(asked.tenant)

    async def _status(self, asked: Asked) -> shapes.StatusPage:
        query: shapes.TenantsQuery = asked.query
        rows = await self._actions.status(query.cursor or "", query.limit + 1)
        shown = rows[: query.limit]
        more = len(rows) > len(shown)
        return shapes.StatusPage(tenants=shown, next_cursor=shown[-1].tenant_id if more else None)

    async def _metrics(self, asked: Asked) -> str:
        del asked
        return await self._actions.metrics()

    async def _reload(self, asked: Asked) -> shapes.Reloaded:
        return await self._actions.reload(actor=ACTOR)

    async def _audit(self, asked: Asked) -> shapes.AuditPage:
        return await self._actions.read_audit(asked.query)
