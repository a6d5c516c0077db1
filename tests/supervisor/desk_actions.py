"""What the control plane may ask for, done by the registry alone: tenants without workers."""

from protocol.control.shapes import (
    AuditPage,
    AuditQuery,
    CreatedTenant,
    CreatedToken,
    CreateTenant,
    CreateToken,
    Reloaded,
    RotateToken,
    TenantStatus,
    TenantView,
    TokenView,
    UpdateTenant,
)
from protocol.errors import ErrorCode, GatewayError
from protocol.methods.tenants import QuotaStatus
from protocol.quotas import Standing
from supervisor.quota_status import quota_status
from supervisor.tenants import TenantDesk


class DeskActions:
    """The desk alone: a gateway whose tenants have no workers."""

    def __init__(self, desk: TenantDesk) -> None:
        self.desk = desk

    async def create_tenant(self, wanted: CreateTenant, *, actor: str) -> CreatedTenant:
        return self.desk.create(
            wanted.tenant_id,
            actor=actor,
            display_name=wanted.display_name,
            quota=wanted.quota,
            limits=wanted.limits,
        )

    async def list_tenants(self, after: str, limit: int) -> list[TenantView]:
        return self.desk.list(after, limit)

    async def get_tenant(self, tenant: str) -> TenantView:
        return self.desk.get(tenant)

    async def update_tenant(self, tenant: str, change: UpdateTenant, *, actor: str) -> TenantView:
        return self.desk.update(tenant, change, actor=actor)

    async def quota_status(self, tenant: str) -> QuotaStatus:
        quota = self.desk.get(tenant).quota
        return quota_status(quota, (), Standing(tenant=tenant), None)

    async def delete_tenant(self, tenant: str, *, actor: str) -> None:
        self.desk.begin_delete(tenant, actor=actor)
        self.desk.wipe(tenant)
        self.desk.finish_delete(tenant, actor=actor)

    async def restart_tenant(self, tenant: str, *, actor: str) -> TenantStatus:
        self.desk.get(tenant)
        raise GatewayError(ErrorCode.CONFLICT, f"nothing runs here for {actor}")

    async def suspend_tenant(self, tenant: str, *, actor: str) -> None:
        self.desk.set_state(tenant, "suspended", actor=actor)

    async def resume_tenant(self, tenant: str, *, actor: str) -> None:
        self.desk.set_state(tenant, "enabled", actor=actor)

    async def list_tokens(self, tenant: str) -> list[TokenView]:
        return self.desk.tokens.list(tenant)

    async def get_token(self, tenant: str, token_id: str) -> TokenView:
        return self.desk.tokens.get(tenant, token_id)

    async def create_token(self, tenant: str, wanted: CreateToken, *, actor: str) -> CreatedToken:
        return self.desk.tokens.create(tenant, wanted, actor=actor)

    async def revoke_token(self, tenant: str, token_id: str, *, actor: str) -> None:
        self.desk.tokens.revoke(tenant, token_id, actor=actor)

    async def rotate_token(self, tenant: str, wanted: RotateToken, *, actor: str) -> CreatedToken:
        return self.desk.tokens.rotate(tenant, wanted, actor=actor)

    async def tenant_status(self, tenant: str) -> TenantStatus:
        self.desk.get(tenant)
        return TenantStatus(tenant_id=tenant, state="absent", deaths=0, in_flight=0, held=0)

    async def status(self, after: str, limit: int) -> list[TenantStatus]:
        return [await self.tenant_status(row.tenant_id) for row in self.desk.list(after, limit)]

    async def read_audit(self, query: AuditQuery) -> AuditPage:
        return self.desk.read_audit(query)

    async def metrics(self) -> str:
        return "# nothing is counted\n"

    async def reload(self, *, actor: str) -> Reloaded:
        return Reloaded(applied=(), needs_restart=(), zygote_pid=1)
