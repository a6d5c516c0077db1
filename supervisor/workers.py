"""The workers of all tenants."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from protocol import limits
from protocol.control.shapes import TenantStatus
from protocol.errors import ErrorCode, GatewayError, LinkClosedError
from protocol.spawn import LinkLost, StorageRefusal, TenantLoad, WorkerSettings
from supervisor.lifecycle import Event, State
from supervisor.logs import Log
from supervisor.memory import Memory
from supervisor.meters import outcome
from supervisor.reconcile import Step, Wanted
from supervisor.status import death_record, usage
from supervisor.surroundings import Surroundings
from supervisor.tenant_worker import TenantWorker

PASSES_PER_TURN: Final = 100
"""Of the event loop; each takes some microseconds."""


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
        self._memory: Final = Memory()
        self._due: Final = asyncio.Event()
        self._stopping = False

    async def wake(self, tenant: str) -> None:
        """Have a tenant's worker serve.

        Raises:
            GatewayError: NOT_FOUND, or UNAVAILABLE with the reason.
        """
        counted, asked_at = self._around.meters, asyncio.get_running_loop().time()
        with _ending(counted.wakes):
            await self._get(tenant).wake()
            counted.wake_seconds.observe(asyncio.get_running_loop().time() - asked_at)

    async def restart(self, tenant: str) -> None:
        """Have a tenant's next generation serve.

        Raises:
            GatewayError: NOT_FOUND, or CONFLICT or UNAVAILABLE with the reason.
        """
        with _ending(self._around.meters.restarts):
            await self._get(tenant).restart()

    def reconcile(self) -> None:
        """Have every worker brought nearer to what the registry wants of its tenant, soon."""
        self._due.set()

    def _reconcile(self, worker: TenantWorker) -> None:
        if worker.reconcile() is Step.FORGET:
            self._tenants.pop(worker.tenant, None)
            self._around.storage.forget(worker.tenant)

    async def settle(self, tenant: str) -> None:
        """Bring a tenant's worker to what the registry wants; what has to end has ended then."""
        if self._stopping:
            return
        worker = self._tenants.get(tenant)
        if worker is not None:
            self._reconcile(worker)
        if self._around.wanted(tenant) is Wanted.ENABLED:
            return
        if worker is not None:
            await worker.ended()
            self._reconcile(worker)
        if self._around.launcher is not None:  # terminals outlive workers
            with contextlib.suppress(LinkClosedError):
                await self._around.launcher.end_tenant(tenant)
        # It may have been taken back meanwhile, and have another worker.
        gone = worker is None or worker.actual.processes == 0
        if gone and self._around.wanted(tenant) is not Wanted.ENABLED:
            await self._around.groups.release(tenant, ended=True)

    async def stop_all(self, seconds: float = limits.DRAIN_SECONDS) -> None:
        """End all workers, at the same time."""
        self._stopping = True
        for worker in self._tenants.values():
            worker.end(Event.STOP, seconds)
        await asyncio.gather(*(worker.ended() for worker in self._tenants.values()))

    def kill_all(self) -> None:
        """End all workers at once."""
        self._stopping = True
        for worker in self._tenants.values():
            worker.kill("the gateway was told to stop at once")

    def change_settings(self, settings: WorkerSettings) -> None:
        """Give all workers other settings."""
        for worker in self._tenants.values():
            for process in worker.processes():
                process.change_settings(settings)

    def tell_storage(self, tenant: str, refusal: StorageRefusal | None) -> None:
        """Have a tenant's worker write no more, or again."""
        worker = self._tenants.get(tenant)
        if worker is not None:
            for process in worker.processes():
                process.tell_storage(refusal)
            if refusal is None:
                worker.release()

    def tell_runs(self, tenant: str, most: int | None) -> None:
        """Have a tenant's worker run so many turns at a time, None for the bound."""
        worker = self._tenants.get(tenant)
        for process in worker.processes() if worker is not None else ():
            process.tell_runs(most)

    def hold_back(self, tenant: str, reason: str) -> None:
        """End a tenant's worker, and start no other one before it may write again."""
        worker = self._tenants.get(tenant)
        if worker is not None:
            worker.kill(reason, outlaw=True)

    def link_lost(self, lost: LinkLost) -> None:
        """Take note of the front's word that a link has ended."""
        worker = self._tenants.get(lost.tenant)
        if worker is not None:
            worker.front_lost_link(lost.generation, lost.reason)

    def shared_lost_link(self, process: str, lost: LinkLost) -> None:
        """Take note of the word of the launcher, or of egress, that a link has ended."""
        worker = self._tenants.get(lost.tenant)
        if worker is not None and lost.reason is not None:
            worker.broke_link(lost.generation, f"link to {process}: {lost.reason}")

    def status(
        self, tenant: str, registered: str, load: TenantLoad, *, history: bool = False
    ) -> TenantStatus:
        """Say how a tenant's worker is.

        Args:
            tenant: Whose.
            registered: Its state in the registry.
            load: What the front has in flight for it.
            history: With its deaths one by one.
        """
        worker = self._tenants.get(tenant)
        if worker is None:
            return TenantStatus(
                tenant_id=tenant,
                state=_without_worker(registered),
                deaths=0,
                in_flight=load.in_flight,
                held=load.held,
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
            restarts=life.restarts,
            deaths=len(life.deaths),
            last_death=life.deaths[-1].cause if life.deaths else None,
            memory_bytes=used[0] if used else None,
            cpu_seconds=used[1] if used else None,
            in_flight=load.in_flight,
            held=load.held,
            next_wake_at_ms=worker.wake_at_ms,
            death_history=tuple(
                death_record(death, now - death.at, self._around.unix_ms())
                for death in (life.deaths if history else ())
            ),
        )

    def states(self, registered: Mapping[str, str]) -> Counter[str]:
        """Count tenants by the state of their worker.

        Args:
            registered: Every tenant's state in the registry.
        """
        found = Counter({state.value: 0 for state in State})
        for tenant, state in registered.items():
            worker = self._tenants.get(tenant)
            if worker is not None:
                found[worker.life.state.value] += 1
            else:
                found[_without_worker(state)] += 1
        return found

    async def watch(self) -> None:
        """Reconcile every two seconds and when it is asked for; ping as often. For ever."""
        loop = asyncio.get_running_loop()
        ping_at = loop.time() + limits.PING_INTERVAL_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(ping_at):
                    await self._due.wait()
            self._due.clear()
            pings = loop.time() >= ping_at
            if pings:
                ping_at = loop.time() + limits.PING_INTERVAL_SECONDS
                self._memory.look()
                await self._around.groups.tidy()
            for number, worker in enumerate(list(self._tenants.values()), 1):
                if pings:
                    worker.check_alive()
                if not self._stopping:
                    self._reconcile(worker)
                if number % PASSES_PER_TURN == 0:
                    await asyncio.sleep(0)  # thousands of tenants must not keep others waiting

    def _get(self, tenant: str) -> TenantWorker:
        if self._stopping:
            raise GatewayError(ErrorCode.UNAVAILABLE, "the gateway is stopping")
        worker = self._tenants.get(tenant)
        if worker is None:
            if self._around.wanted(tenant) is Wanted.GONE:
                raise GatewayError(ErrorCode.NOT_FOUND, f"no such tenant: {tenant}")
            worker = TenantWorker(tenant, self._around, self._memory, self._log)
            self._tenants[tenant] = worker
        self._reconcile(worker)  # what was decided about it may be newer than its state
        return worker


def _without_worker(registered: str) -> str:
    state = State.SUSPENDED if registered == "suspended" else State.ABSENT
    return str(state.value)


@contextlib.contextmanager
def _ending(outcomes: Counter[str]) -> Iterator[None]:
    """Count how what is in the block ends."""
    try:
        yield
    except GatewayError as error:
        outcomes[outcome(error)] += 1
        raise
    outcomes[outcome(None)] += 1
