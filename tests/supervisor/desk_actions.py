"""What the control plane may ask for, done by the registry alone: tenants without workers."""

from protocol.errors import ErrorCode, GatewayError
from supervisor.registry import Quota
from supervisor.reload import Reloaded
from supervisor.status import TenantStatus
from supervisor.tenants import CreatedTenant, TenantDesk, TenantView


class DeskActions:
    """The desk alone: a gateway whose tenants have no workers."""

    def __init__(self, desk: TenantDesk) -> None:
        self.desk = desk

    async def create_tenant(
        self, tenant: str, *, actor: str, display_name: str | None, quota: Quota
    ) -> CreatedTenant:
        return self.desk.create(tenant, actor=actor, display_name=display_name, quota=quota)

    async def list_tenants(self) -> list[TenantView]:
        return self.desk.list()

    async def get_tenant(self, tenant: str) -> TenantView:
        return self.desk.get(tenant)

    async def rotate_token(self, tenant: str, *, actor: str) -> str:
        return self.desk.rotate(tenant, actor=actor)

    async def delete_tenant(self, tenant: str, *, actor: str) -> None:
        self.desk.begin_delete(tenant, actor=actor)
        self.desk.finish_delete(tenant, actor=actor)

    async def restart_tenant(self, tenant: str) -> TenantStatus:
        self.desk.get(tenant)
        raise GatewayError(ErrorCode.CONFLICT, "nothing runs here")

    async def suspend_tenant(self, tenant: str, *, actor: str) -> None:
        self.desk.set_state(tenant, "suspended", actor=actor)

    async def resume_tenant(self, tenant: str, *, actor: str) -> None:
        self.desk.set_state(tenant, "enabled", actor=actor)

    async def reload(self) -> Reloaded:
        return Reloaded(applied=(), needs_restart=(), zygote_pid=1)

    async def status(self, tenant: str | None) -> list[TenantStatus]:
        rows = self.desk.list() if tenant is None else [self.desk.get(tenant)]
        return [
            TenantStatus(tenant_id=row.tenant_id, state="absent", deaths=0, in_flight=0, held=0)
            for row in rows
        ]
