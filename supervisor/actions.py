"""What operators may have done to tenants: registry, front and workers kept in step.

Implements `supervisor.control.TenantActions`. The disk is another thread's; the order is always
registry first, then the front, then the worker, so that a crash in between is healed by a start.
"""

import contextlib
from typing import Final, Protocol

from protocol.errors import ErrorCode, GatewayError, LinkClosedError
from protocol.spawn import TenantAccess, TenantLoad, TenantsUpdate
from supervisor.disk import Disk
from supervisor.front_process import FrontProcess
from supervisor.registry import Quota, Tenant
from supervisor.status import TenantStatus
from supervisor.tenants import CreatedTenant, TenantDesk, TenantView
from supervisor.workers import Workers

DELETE_DRAIN_SECONDS: Final = 2.0


class Around(Protocol):
    """What the actions need of the supervisor."""

    @property
    def front(self) -> FrontProcess | None:
        """The front; None while it is being replaced."""

    async def tell_front(self, change: TenantsUpdate) -> None:
        """Have the front know a change; in force when this returns. A new front knows all."""


class Actions:
    """The actions, and the rows of all tenants as the registry has them.

    Args:
        desk: Registry, directories and audit.
        disk: The thread of registry and audit.
        around: The supervisor.
        workers: The workers of all tenants.
    """

    def __init__(
        self,
        desk: TenantDesk,
        disk: Disk,
        around: Around,
        workers: Workers,
    ) -> None:
        self._desk: Final = desk
        self._disk: Final = disk
        self._around: Final = around
        self._workers: Final = workers
        self.rows: Final[dict[str, Tenant]] = {}

    async def load(self) -> None:
        """Read all rows; once, at the start."""
        for row in await self._disk(self._desk.registry.tenants):
            self.rows[row.id] = row

    async def accesses(self) -> list[TenantAccess]:
        """Give what a new front has to know."""
        tokens = await self._disk(self._desk.registry.token_digests)
        return [_access(row, tokens) for row in self.rows.values()]

    async def create_tenant(
        self, tenant: str, *, actor: str, display_name: str | None, quota: Quota
    ) -> CreatedTenant:
        """See `TenantActions`."""
        created = await self._disk(
            self._desk.create, tenant, actor=actor, display_name=display_name, quota=quota
        )
        await self._know(tenant)
        return created

    async def list_tenants(self) -> list[TenantView]:
        """See `TenantActions`."""
        return await self._disk(self._desk.list)

    async def get_tenant(self, tenant: str) -> TenantView:
        """See `TenantActions`."""
        return await self._disk(self._desk.get, tenant)

    async def rotate_token(self, tenant: str, *, actor: str) -> str:
        """See `TenantActions`."""
        token = await self._disk(self._desk.rotate, tenant, actor=actor)
        await self._know(tenant)
        return token

    async def delete_tenant(self, tenant: str, *, actor: str) -> None:
        """See `TenantActions`."""
        await self._disk(self._desk.begin_delete, tenant, actor=actor)
        self.rows.pop(tenant, None)
        await self._around.tell_front(TenantsUpdate(gone=[tenant]))
        await self._workers.forget(tenant, DELETE_DRAIN_SECONDS)
        await self._disk(self._desk.finish_delete, tenant, actor=actor)

    async def restart_tenant(self, tenant: str) -> TenantStatus:
        """See `TenantActions`."""
        view = await self.get_tenant(tenant)
        if view.state != "enabled":
            msg = f"the tenant is {view.state}; a restart is not possible now"
            raise GatewayError(ErrorCode.CONFLICT, msg)
        await self._workers.restart(tenant)
        return (await self.status(tenant))[0]

    async def suspend_tenant(self, tenant: str, *, actor: str) -> None:
        """See `TenantActions`."""
        await self._disk(self._desk.set_state, tenant, "suspended", actor=actor)
        await self._know(tenant)
        await self._workers.suspend(tenant)

    async def resume_tenant(self, tenant: str, *, actor: str) -> None:
        """See `TenantActions`."""
        await self._disk(self._desk.set_state, tenant, "enabled", actor=actor)
        self._workers.resume(tenant)
        await self._know(tenant)

    async def status(self, tenant: str | None) -> list[TenantStatus]:
        """See `TenantActions`."""
        if tenant is not None:
            await self.get_tenant(tenant)
        load: dict[str, TenantLoad] = {}
        front = self._around.front
        if front is not None:
            with contextlib.suppress(LinkClosedError, TimeoutError):
                load = await front.load()
        return [
            self._workers.status(row.id, row.state, load.get(row.id, TenantLoad()))
            for row in sorted(self.rows.values(), key=lambda row: row.id)
            if tenant in (None, row.id)
        ]

    async def _know(self, tenant: str) -> None:
        row = await self._disk(self._desk.registry.get, tenant)
        tokens = await self._disk(self._desk.registry.tokens_of, tenant)
        self.rows[tenant] = row
        await self._around.tell_front(TenantsUpdate(known=[_access(row, {tenant: tokens})]))


def _access(row: Tenant, tokens: dict[str, dict[str, int]]) -> TenantAccess:
    return TenantAccess(
        tenant=row.id, enabled=row.state == "enabled", tokens=tokens.get(row.id, {})
    )
