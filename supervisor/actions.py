"""What operators may have done to tenants: registry, front and workers kept in step.

Implements `supervisor.control.actions.TenantActions`. The order is always registry first, then the
front, then the worker, so that a crash in between is healed by a start.
"""

import asyncio
import contextlib
import copy
import heapq
import threading
from typing import Final, Protocol

import msgspec
from msgspec import UNSET

from protocol.control.shapes import (
    AuditPage,
    AuditQuery,
    CreatedTenant,
    CreatedToken,
    CreateTenant,
    CreateToken,
    EffectiveLimits,
    Reloaded,
    RotateToken,
    TenantStatus,
    TenantView,
    TokenView,
    UpdateTenant,
)
from protocol.errors import ErrorCode, GatewayError, LinkClosedError
from protocol.meters import FrontMeters
from protocol.methods.tenants import QuotaStatus
from protocol.spawn import TenantAccess, TenantLoad, TenantsUpdate, TokenGrant
from supervisor.caps.effective import shown
from supervisor.caps.group import Usage
from supervisor.caps.tenants import TenantGroups
from supervisor.disk import Disk
from supervisor.front_process import FrontProcess, parts
from supervisor.logs import Log
from supervisor.meters import Meters, Snapshot
from supervisor.quotas import Quotas
from supervisor.reconcile import Wanted
from supervisor.registry import Tenant
from supervisor.storage import Storage
from supervisor.tenants import TenantDesk
from supervisor.workers import Workers

WANTED: Final = {
    "enabled": Wanted.ENABLED,
    "suspended": Wanted.SUSPENDED,
    "deleting": Wanted.GONE,
}


class Around(Protocol):
    """What the actions need of the supervisor."""

    @property
    def front(self) -> FrontProcess | None:
        """The front; None while it is being replaced."""

    async def tell_front(self, *changes: TenantsUpdate) -> None:
        """Have the front know of changes, in force when this returns; a new front knows all.

        Between them it hears of no other, and who asked first comes first.
        """

    @property
    def meters(self) -> Meters:
        """What has been counted."""

    @property
    def groups(self) -> TenantGroups:
        """The tenants' cgroups."""

    @property
    def storage(self) -> Storage:
        """Who may write."""

    @property
    def quotas(self) -> Quotas:
        """What quotas have come to."""

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of what all tenants share, by name."""

    async def limit_spending(self, *tenants: str) -> None:
        """Have egress know quotas as the rows have them now, in force when this returns."""

    async def apply_limits(self, *tenants: str) -> tuple[str, ...]:
        """Have limits, as the rows have them now, be in force; gives what is not yet."""

    async def reload(self) -> Reloaded:
        """See `TenantActions`."""


class Actions:
    """The actions, and the rows of all tenants that there are to be, as the registry has them.

    Args:
        desk: Registry, directories and audit.
        disk: The thread of registry and audit.
        around: The supervisor.
        workers: The workers of all tenants.
        log: The gateway's log.
    """

    def __init__(
        self,
        desk: TenantDesk,
        disk: Disk,
        around: Around,
        workers: Workers,
        log: Log,
    ) -> None:
        self._desk: Final = desk
        self._disk: Final = disk
        self._around: Final = around
        self._workers: Final = workers
        self._log: Final = log
        self.rows: Final[dict[str, Tenant]] = {}
        # A tenant can have left millions of files: nothing else waits until they are gone.
        self._wiping: Final = Disk("wiping")
        self._reading: Final = Disk("reading")
        self._stopped: Final = threading.Event()
        self._telling: Final = asyncio.Lock()
        self._deletions: Final[dict[str, asyncio.Task[None]]] = {}

    async def load(self) -> None:
        """Read all rows; once, at the start."""
        for row in await self._disk(self._desk.registry.tenants):
            if row.state != "deleting":
                self.rows[row.id] = row

    def wanted(self, tenant: str) -> Wanted:
        """Say what the registry wants of a tenant's worker."""
        row = self.rows.get(tenant)
        return Wanted.GONE if row is None else WANTED[row.state]

    async def reread(self) -> None:
        """Take over what was changed in the registry by somebody else."""
        async with self._telling:
            read = await self._disk(self._desk.snapshot)
            # One that is being deleted is somebody's business already.
            kept = [row for row in read.rows if row.state != "deleting"]
            gone = [*(self.rows.keys() - {row.id for row in kept})]
            for tenant in gone:
                self._around.quotas.forget(tenant)
            self.rows.clear()
            self.rows.update({row.id: row for row in kept})
            for row in kept:
                self._workers.tell_runs(row.id, row.quota.concurrent_runs)
            accesses = [_access(row, read.tokens) for row in kept]
            await self._around.tell_front(
                TenantsUpdate(gone=gone), *(TenantsUpdate(known=part) for part in parts(accesses))
            )
            await self._around.limit_spending(*self.rows)

    async def accesses(self) -> list[TenantAccess]:
        """Give what a new front has to know."""
        tokens = await self._disk(self._desk.token_digests)
        return [_access(row, tokens) for row in self.rows.values()]

    async def create_tenant(self, wanted: CreateTenant, *, actor: str) -> CreatedTenant:
        """See `TenantActions`."""
        created = await self._disk(
            self._desk.create,
            wanted.tenant_id,
            actor=actor,
            display_name=wanted.display_name,
            quota=wanted.quota,
            limits=wanted.limits,
        )
        await self._know(wanted.tenant_id)
        return created

    async def list_tenants(self, after: str, limit: int) -> list[TenantView]:
        """See `TenantActions`."""
        return await self._disk(self._desk.list, after, limit)

    async def get_tenant(self, tenant: str) -> TenantView:
        """See `TenantActions`."""
        return await self._disk(self._desk.get, tenant)

    async def update_tenant(self, tenant: str, change: UpdateTenant, *, actor: str) -> TenantView:
        """See `TenantActions`."""
        view = await self._disk(self._desk.update, tenant, change, actor=actor)
        await self._know(tenant)
        if change.limits is UNSET:
            return view
        return msgspec.structs.replace(view, warnings=await self._around.apply_limits(tenant))

    async def quota_status(self, tenant: str) -> QuotaStatus:
        """See `TenantActions`."""
        row, _ = await self._disk(self._desk.access, tenant)
        counted = self._around.storage.counted(tenant)
        most = shown(row.limits, self._desk.caps).disk_bytes
        disk = (counted.bytes, most) if counted is not None and isinstance(most, int) else None
        return await self._around.quotas.status(row, disk)

    async def delete_tenant(self, tenant: str, *, actor: str) -> None:
        """See `TenantActions`."""
        await self._disk(self._desk.begin_delete, tenant, actor=actor)
        self.rows.pop(tenant, None)
        async with self._telling:
            # From here on no worker of it is wanted: what runs has ended before the wipe begins.
            self.rows.pop(tenant, None)
            self._around.quotas.forget(tenant)
            await self._around.tell_front(TenantsUpdate(gone=[tenant]))
        await self._finish_delete(tenant, actor)

    async def finish_deletions(self) -> None:
        """Finish the deletions that were cut off before this start; nobody waits for it."""
        for tenant in await self._disk(self._desk.deleting):
            try:
                await self._finish_delete(tenant, "gateway")
            except GatewayError as error:
                # It stays listed as `deleting`, and can be deleted again.
                self._log.error("deletion not finished", tenant=tenant, error=error.message)

    async def _finish_delete(self, tenant: str, actor: str) -> None:
        # Never twice at once: the later one could wipe what a new tenant of the id has by then.
        running = self._deletions.get(tenant)
        if running is None or running.done():
            work = self._wipe_out(tenant, actor)
            running = self._deletions[tenant] = asyncio.get_running_loop().create_task(work)
            running.add_done_callback(lambda _: self._deletions.pop(tenant, None))
        await asyncio.shield(running)

    async def _wipe_out(self, tenant: str, actor: str) -> None:
        row = await self._disk(self._desk.registry.find, tenant)
        if row is None or row.state != "deleting":
            return  # it has been finished, and the id may be a new tenant's by now
        await self._workers.settle(tenant)
        await self._wiping(self._desk.wipe, tenant, self._stopped)
        await self._disk(self._desk.finish_delete, tenant, actor=actor)

    async def restart_tenant(self, tenant: str, *, actor: str) -> TenantStatus:
        """See `TenantActions`."""
        view = await self.get_tenant(tenant)
        if view.state != "enabled":
            msg = f"the tenant is {view.state}; a restart is not possible now"
            raise GatewayError(ErrorCode.CONFLICT, msg)
        before = (await self.tenant_status(tenant)).generation
        await self._workers.restart(tenant)
        status = await self.tenant_status(tenant)
        await self._disk(
            self._desk.record,
            "tenant.restarted",
            actor,
            tenant,
            before=before,
            after=status.generation,
        )
        return status

    async def suspend_tenant(self, tenant: str, *, actor: str) -> None:
        """See `TenantActions`."""
        await self._disk(self._desk.set_state, tenant, "suspended", actor=actor)
        await self._know(tenant)
        await self._workers.settle(tenant)

    async def resume_tenant(self, tenant: str, *, actor: str) -> None:
        """See `TenantActions`."""
        await self._disk(self._desk.set_state, tenant, "enabled", actor=actor)
        await self._know(tenant)
        await self._workers.settle(tenant)

    async def list_tokens(self, tenant: str) -> list[TokenView]:
        """See `TenantActions`."""
        return await self._disk(self._desk.tokens.list, tenant)

    async def get_token(self, tenant: str, token_id: str) -> TokenView:
        """See `TenantActions`."""
        return await self._disk(self._desk.tokens.get, tenant, token_id)

    async def create_token(self, tenant: str, wanted: CreateToken, *, actor: str) -> CreatedToken:
        """See `TenantActions`."""
        created = await self._disk(self._desk.tokens.create, tenant, wanted, actor=actor)
        await self._know(tenant)
        return created

    async def revoke_token(self, tenant: str, token_id: str, *, actor: str) -> None:
        """See `TenantActions`."""
        await self._disk(self._desk.tokens.revoke, tenant, token_id, actor=actor)
        await self._know(tenant)

    async def rotate_token(self, tenant: str, wanted: RotateToken, *, actor: str) -> CreatedToken:
        """See `TenantActions`."""
        created = await self._disk(self._desk.tokens.rotate, tenant, wanted, actor=actor)
        await self._know(tenant)
        return created

    async def tenant_status(self, tenant: str) -> TenantStatus:
        """See `TenantActions`."""
        view = await self.get_tenant(tenant)
        load = await self._load()
        status = self._workers.status(
            tenant, view.state, load.get(tenant, TenantLoad()), history=True
        )
        return (await self._with_use([status], {tenant: view.effective_limits}))[0]

    async def status(self, after: str, limit: int) -> list[TenantStatus]:
        """See `TenantActions`."""
        load = await self._load()
        wanted = heapq.nsmallest(limit, (name for name in self.rows if name > after))
        rows = [self.rows[name] for name in wanted]
        statuses = [
            self._workers.status(row.id, row.state, load.get(row.id, TenantLoad()), history=False)
            for row in rows
        ]
        effective = {row.id: shown(row.limits, self._desk.caps) for row in rows}
        return await self._with_use(statuses, effective)

    async def _with_use(
        self, statuses: list[TenantStatus], effective: dict[str, EffectiveLimits]
    ) -> list[TenantStatus]:
        """Add what these use, and what they may."""
        names = [status.tenant_id for status in statuses]
        used = await self._reading(self._around.groups.usages, names)
        return [
            _used(status, effective[status.tenant_id], used.get(status.tenant_id), self._around)
            for status in statuses
        ]

    async def reload(self, *, actor: str) -> Reloaded:
        """See `TenantActions`."""
        done = await self._around.reload()
        await self._disk(
            self._desk.record, "gateway.reloaded", actor, None, after=msgspec.to_builtins(done)
        )
        return done

    async def metrics(self) -> str:
        """See `TenantActions`."""
        snapshot = Snapshot(
            counted=copy.deepcopy(self._around.meters),
            front=await self._front_meters(),
            stopped=self._around.storage.stopped,
            disk=self._desk.tenants_directory,
            states=self._workers.states({row.id: row.state for row in self.rows.values()}),
            pids=self._around.pids,
        )
        try:
            return await self._reading(_exposition, snapshot)
        except Exception as error:
            # It is read from the disk at the first scrape, where an upgrade may have replaced it.
            self._log.exception("metrics cannot be written")
            msg = "the metrics cannot be written; the log says why"
            raise GatewayError(ErrorCode.INTERNAL, msg) from error

    async def read_audit(self, query: AuditQuery) -> AuditPage:
        """See `TenantActions`."""
        return await self._reading(self._desk.read_audit, query)

    async def record_failure(self, tenant: str, reason: str) -> None:
        """Write into the audit that a tenant is out of service until an operator acts."""
        with contextlib.suppress(GatewayError):  # the log and the alert say it too
            await self._disk(
                self._desk.record, "tenant.failed", "gateway", tenant, after="failed", reason=reason
            )

    async def close(self) -> None:
        """Stop what can be gone on with later, and wait for the rest."""
        self._stopped.set()
        await asyncio.gather(*self._deletions.values(), return_exceptions=True)
        self._wiping.close()
        self._reading.close()

    async def _load(self) -> dict[str, TenantLoad]:
        front = self._around.front
        if front is not None:
            with contextlib.suppress(LinkClosedError, TimeoutError):
                return await front.load()
        return {}

    async def _front_meters(self) -> FrontMeters | None:
        front = self._around.front
        if front is not None:
            try:
                return await front.meters()
            except (LinkClosedError, TimeoutError):
                pass
            except (msgspec.DecodeError, GatewayError) as error:
                self._log.error("front gave no meters", error=str(error))
        return None

    async def _know(self, tenant: str) -> None:
        """Have the front know what the registry has of a tenant."""
        # Read and told in one go: of two changes at once, the earlier must not be told last.
        async with self._telling:
            row, tokens = await self._disk(self._desk.access, tenant)
            if row.state == "deleting":
                return  # its deletion tells
            before, self.rows[tenant] = self.rows.get(tenant), row
            await self._around.tell_front(TenantsUpdate(known=[_access(row, {tenant: tokens})]))
            self._workers.tell_runs(tenant, row.quota.concurrent_runs)
            if before is None or before.quota != row.quota:
                await self._around.limit_spending(tenant)


def _access(row: Tenant, tokens: dict[str, dict[str, TokenGrant]]) -> TenantAccess:
    return TenantAccess(
        tenant=row.id,
        enabled=row.state == "enabled",
        tokens=tokens.get(row.id, {}),
        quota=row.quota,
    )


def _used(
    status: TenantStatus, limits: EffectiveLimits, used: Usage | None, around: Around
) -> TenantStatus:
    counted = around.storage.counted(status.tenant_id)
    refusal = around.storage.refusal(status.tenant_id)
    return msgspec.structs.replace(
        status,
        memory_bytes=used.memory_bytes if used else status.memory_bytes,
        cpu_seconds=round(used.cpu_seconds, 3) if used else status.cpu_seconds,
        pids=used.pids if used else None,
        disk_bytes=counted.bytes if counted else None,
        disk_inodes=counted.inodes if counted else None,
        stopped=refusal.message if refusal else None,
        blocked=around.quotas.blocked(status.tenant_id),
        limits=limits,
    )


def _exposition(snapshot: Snapshot) -> str:
    from supervisor.metrics import exposition  # noqa: PLC0415 - see there

    return exposition(snapshot)
