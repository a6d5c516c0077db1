"""What the control plane may ask the supervisor for."""

from typing import Protocol

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
from protocol.methods.tenants import QuotaStatus


class TenantActions(Protocol):
    """Every one raises GatewayError: NOT_FOUND for an unknown tenant, UNAVAILABLE for a bad disk.

    `actor` is who the audit says has done it.
    """

    async def create_tenant(self, wanted: CreateTenant, *, actor: str) -> CreatedTenant:
        """Make a tenant; its token is good when this returns."""

    async def list_tenants(self, after: str, limit: int) -> list[TenantView]:
        """Give so many tenants by id of those after `after`."""

    async def get_tenant(self, tenant: str) -> TenantView:
        """Give one tenant."""

    async def update_tenant(self, tenant: str, change: UpdateTenant, *, actor: str) -> TenantView:
        """Change a tenant's name, quota or limits; see the view's `warnings`."""

    async def quota_status(self, tenant: str) -> QuotaStatus:
        """Give a tenant's quota and what is used of it.

        Raises:
            GatewayError: also UNAVAILABLE: egress, which knows, is being replaced.
        """

    async def delete_tenant(self, tenant: str, *, actor: str) -> None:
        """Remove a tenant and all its files; its tokens are refused and cut first."""

    async def restart_tenant(self, tenant: str, *, actor: str) -> TenantStatus:
        """Have the tenant's next generation serve; where it cannot, the present one serves on."""

    async def suspend_tenant(self, tenant: str, *, actor: str) -> None:
        """End a tenant's worker and refuse its tokens, until it is resumed."""

    async def resume_tenant(self, tenant: str, *, actor: str) -> None:
        """Take a suspended tenant back into service."""

    async def list_tokens(self, tenant: str) -> list[TokenView]:
        """Give a tenant's tokens."""

    async def get_token(self, tenant: str, token_id: str) -> TokenView:
        """Give one token."""

    async def create_token(self, tenant: str, wanted: CreateToken, *, actor: str) -> CreatedToken:
        """Make a token; it is good when this returns."""

    async def revoke_token(self, tenant: str, token_id: str, *, actor: str) -> None:
        """Forget a token; it is refused, and what it opened is cut, when this returns."""

    async def rotate_token(self, tenant: str, wanted: RotateToken, *, actor: str) -> CreatedToken:
        """Replace a token; the old one ends when this returns, or after the overlap."""

    async def tenant_status(self, tenant: str) -> TenantStatus:
        """Say how a tenant's worker is."""

    async def status(self, after: str, limit: int) -> list[TenantStatus]:
        """Say how the workers of so many tenants after `after` are."""

    async def reload(self, *, actor: str) -> Reloaded:
        """Read configuration and registry again, and renew the zygote."""

    async def metrics(self) -> str:
        """Give what is counted, in Prometheus' text format."""

    async def read_audit(self, query: AuditQuery) -> AuditPage:
        """Read a page of the audit."""
