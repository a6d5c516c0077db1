"""The workers of all tenants."""

import asyncio
from typing import Final

from protocol import limits
from protocol.control.shapes import TenantStatus
from protocol.errors import ErrorCode, GatewayError
from protocol.spawn import LinkLost, TenantLoad
from supervisor.lifecycle import Event
from supervisor.logs import Log
from supervisor.status import usage
from supervisor.surroundings import Surroundings
from supervisor.tenant_worker import TenantWorker


class Workers:
    """Finds the worker of a tenant, and does to all what is done to all.

    Args:
        around: What they live in.
        log: Where deaths are written.
    """

    def __init__(self, around: Surroundings, log: Log) -> None:
        self._around: Final = around
        self._log: Final = log
        self._tenants: Final[dict[str, TenantWorker]] = {}
        self._stopping = False

    async def wake(self, tenant: str) -> None:
        """Have a tenant's worker serve.

        Raises:
            GatewayError: UNAVAILABLE, with the reason.
        """
        await self._get(tenant).wake()

    async def restart(self, tenant: str) -> None:
        """Have a tenant's next generation serve.

        Raises:
            GatewayError: CONFLICT or UNAVAILABLE, with the reason.
        """
        await self._get(tenant).restart()

    async def suspend(self, tenant: str) -> None:
        """End a tenant's worker and refuse to start another."""
        await self._get(tenant).end(Event.SUSPEND, limits.DRAIN_SECONDS)

    def resume(self, tenant: str) -> None:
        """Allow a suspended tenant a worker again."""
        worker = self._tenants.get(tenant)
        if worker is not None:
            worker.resume()

    async def forget(self, tenant: str, seconds: float = limits.DRAIN_SECONDS) -> None:
        """End a tenant's worker and forget it."""
        worker = self._tenants.get(tenant)
        if worker is not None:
            await worker.end(Event.STOP, seconds)
            self._tenants.pop(tenant, None)

    async def stop_all(self, seconds: float = limits.DRAIN_SECONDS) -> None:
        """End all workers, at the same time."""
        self._stopping = True
        await asyncio.gather(*(self.forget(tenant, seconds) for tenant in list(self._tenants)))

    def kill_all(self) -> None:
        """End all workers at once."""
        self._stopping = True
        for worker in self._tenants.values():
            worker.kill("the gateway was told to stop at once")

    def link_all(self) -> None:
        """Hand a link to every ready worker to a front that is new."""
        for worker in self._tenants.values():
            worker.link_to_front()

    def link_lost(self, lost: LinkLost) -> None:
        """Take note of the front's word that a link has ended."""
        worker = self._tenants.get(lost.tenant)
        if worker is not None:
            worker.front_lost_link(lost.generation, lost.reason)

    def status(self, tenant: str, registered: str, load: TenantLoad) -> TenantStatus:
        """Say how a tenant's worker is.

        Args:
            tenant: Whose.
            registered: Its state in the registry.
            load: What the front has in flight for it.
        """
        worker = self._tenants.get(tenant)
        if worker is None:
            state = "suspended" if registered == "suspended" else "absent"
            return TenantStatus(
                tenant_id=tenant, state=state, deaths=0, in_flight=load.in_flight, held=load.held
            )
        life, process = worker.life, worker.current
        now = asyncio.get_running_loop().time()
        used = None if process is None or process.pid is None else usage(process.pid)
        return TenantStatus(
            tenant_id=tenant,
            state=life.state.value,
            reason=life.reason or None,
            pid=process.pid if process else None,
            generation=process.spec.generation if process else None,
            uptime_seconds=round(now - process.started_at, 3) if process else None,
            deaths=len(life.deaths),
            last_death=life.deaths[-1].cause if life.deaths else None,
            memory_bytes=used[0] if used else None,
            cpu_seconds=used[1] if used else None,
            in_flight=load.in_flight,
            held=load.held,
            next_wake_at_ms=worker.wake_at_ms,
        )

    async def watch(self) -> None:
        """Ping every worker every two seconds, for ever."""
        while True:
            await asyncio.sleep(limits.PING_INTERVAL_SECONDS)
            for worker in self._tenants.values():
                worker.check_alive()

    def _get(self, tenant: str) -> TenantWorker:
        if self._stopping:
            raise GatewayError(ErrorCode.UNAVAILABLE, "the gateway is stopping")
        worker = self._tenants.get(tenant)
        if worker is None:
            worker = self._tenants[tenant] = TenantWorker(tenant, self._around, self._log)
        return worker
