"""All workers: starts them when they are wanted, watches them, ends them.

What happens to a worker is decided by `supervisor.lifecycle`; this module does it.
"""

import asyncio
import signal
from collections.abc import Callable
from typing import Final, Protocol

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.spawn import WorkerLink, WorkerSpec
from supervisor.child import Exit
from supervisor.front_process import FrontProcess
from supervisor.lifecycle import Action, Death, Event, Lifecycle, State
from supervisor.logs import Log
from supervisor.worker_process import WorkerProcess
from supervisor.zygote.spec import JailSpec
from supervisor.zygote_process import SpawnError, ZygoteProcess

GENERATIONS_PER_EPOCH: Final = 1 << 20
_PINGED: Final = (State.READY, State.DRAINING)


class Surroundings(Protocol):
    """What the workers live in; the supervisor provides it."""

    @property
    def zygote(self) -> ZygoteProcess:
        """Who forks."""

    @property
    def front(self) -> FrontProcess | None:
        """Who gets links; None while it is being replaced."""

    async def jail_of(self, tenant: str) -> JailSpec:
        """Say how a tenant is jailed; its directory exists when this returns.

        Raises:
            GatewayError: there is no such tenant, or it may not run.
        """


class _Tenant:
    """What is known of one tenant's worker."""

    def __init__(self) -> None:
        self.life: Final = Lifecycle()
        self.process: WorkerProcess | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.waiting: list[asyncio.Future[None]] = []
        self.idle: asyncio.Event = asyncio.Event()
        """Set while there is no process."""
        self.idle.set()

    def set_timer(self, seconds: float, then: Callable[[], None]) -> None:
        self.cancel_timer()
        self.timer = asyncio.get_running_loop().call_later(seconds, then)

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Workers:
    """The workers of all tenants.

    Args:
        surroundings: What they live in.
        epoch: A number that no earlier supervisor on this state root had.
        log: Where deaths and refusals are written.
    """

    def __init__(self, surroundings: Surroundings, epoch: int, log: Log) -> None:
        self._around: Final = surroundings
        self._log: Final = log
        self._generation = epoch * GENERATIONS_PER_EPOCH
        self._tenants: dict[str, _Tenant] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    def states(self) -> dict[str, State]:
        """Give the state of every tenant that had a worker."""
        return {tenant: entry.life.state for tenant, entry in self._tenants.items()}

    async def wake(self, tenant: str) -> None:
        """Have a worker that serves; it has been handed to the front when this returns.

        Raises:
            GatewayError: UNAVAILABLE, with the reason; NOT_FOUND for no such tenant.
        """
        if self._stopping:
            raise GatewayError(ErrorCode.UNAVAILABLE, "the gateway is stopping")
        entry = self._tenants.setdefault(tenant, _Tenant())
        self._do(tenant, entry, entry.life.on(Event.WANTED, self._now()))
        if entry.life.state is State.FAILED:
            msg = f"the tenant's worker has failed: {entry.life.reason}"
            raise GatewayError(ErrorCode.UNAVAILABLE, msg)
        if entry.life.state is not State.READY:
            served = asyncio.get_running_loop().create_future()
            entry.waiting.append(served)
            await served

    async def stop(self, tenant: str, seconds: float = limits.DRAIN_SECONDS) -> None:
        """End a tenant's worker and forget the tenant."""
        entry = self._tenants.get(tenant)
        if entry is None:
            return
        action = entry.life.on(Event.STOP, self._now())
        if action is Action.DRAIN and entry.process is not None:
            entry.process.drain(seconds)
            entry.set_timer(
                seconds + limits.ABORT_GRACE_SECONDS, lambda: self._kill(entry, "drain")
            )
        else:
            self._do(tenant, entry, action)
        self._refuse(entry, GatewayError(ErrorCode.UNAVAILABLE, "the tenant's worker is ending"))
        await entry.idle.wait()
        entry.cancel_timer()
        self._tenants.pop(tenant, None)

    async def stop_all(self, seconds: float = limits.DRAIN_SECONDS) -> None:
        """End all workers, at the same time."""
        self._stopping = True
        await asyncio.gather(*(self.stop(tenant, seconds) for tenant in list(self._tenants)))

    def kill_all(self) -> None:
        """End all workers at once."""
        self._stopping = True
        for entry in self._tenants.values():
            self._kill(entry, "the gateway was told to stop at once")

    def link_all(self) -> None:
        """Hand a link to every ready worker to a front that is new."""
        for entry in self._tenants.values():
            if entry.life.state is State.READY and entry.process is not None:
                self._link(entry.process)

    async def watch(self) -> None:
        """Ping every worker every two seconds, for ever."""
        while True:
            await asyncio.sleep(limits.PING_INTERVAL_SECONDS)
            for tenant, entry in self._tenants.items():
                if entry.process is None or entry.life.state not in _PINGED:
                    continue
                if entry.process.ping() >= limits.PING_MISSES_MAX:
                    self._do(tenant, entry, entry.life.on(Event.HUNG, self._now()))

    # What is decided is done here.

    def _do(self, tenant: str, entry: _Tenant, action: Action) -> None:
        process = entry.process
        match action:
            case Action.SPAWN:
                entry.idle.clear()
                task = asyncio.get_running_loop().create_task(self._spawn(tenant, entry))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Action.SERVE if process is not None:
                entry.cancel_timer()
                self._link(process)
                for served in entry.waiting:
                    if not served.done():
                        served.set_result(None)
                entry.waiting.clear()
            case Action.ABORT if process is not None:
                process.signal(signal.SIGABRT, "hung or late")
                entry.set_timer(
                    limits.ABORT_GRACE_SECONDS, lambda: self._kill(entry, "hung or late")
                )
            case Action.KILL:
                self._kill(entry, "broke its link")
            case Action.WAIT:
                entry.set_timer(entry.life.next_delay(), lambda: self._retry(tenant, entry))
            case _:
                pass

    def _retry(self, tenant: str, entry: _Tenant) -> None:
        self._do(tenant, entry, entry.life.on(Event.RETRY, self._now()))

    def _kill(self, entry: _Tenant, reason: str) -> None:
        if entry.process is not None:
            entry.process.signal(signal.SIGKILL, reason)

    async def _spawn(self, tenant: str, entry: _Tenant) -> None:
        self._generation += 1
        spec = WorkerSpec(tenant=tenant, generation=self._generation)
        process = WorkerProcess(spec, self, self._log.bind(tenant=tenant, source="worker"))
        entry.process = process
        try:
            jail = await self._around.jail_of(tenant)
            await process.start(self._around.zygote, jail)
        except (SpawnError, GatewayError, OSError) as error:
            self._died(entry, process, None, f"could not be started: {error}")
            if isinstance(error, GatewayError):
                self._refuse(entry, error)
            return
        if entry.life.state is State.DRAINING:
            self._kill(entry, "stopped while it started")
        else:
            entry.set_timer(limits.WORKER_READY_SECONDS, lambda: self._late(tenant, entry))

    def _late(self, tenant: str, entry: _Tenant) -> None:
        self._do(tenant, entry, entry.life.on(Event.LATE, self._now()))

    def _link(self, process: WorkerProcess) -> None:
        front = self._around.front
        if front is None:
            return
        try:
            sock = process.new_front_link()
        except OSError as error:
            self._log.warning("no link", tenant=process.spec.tenant, error=str(error))
            return
        with sock:
            link = WorkerLink(tenant=process.spec.tenant, generation=process.spec.generation)
            front.give_link(link, sock)

    def _refuse(self, entry: _Tenant, error: GatewayError) -> None:
        for served in entry.waiting:
            if not served.done():
                served.set_exception(error)
        entry.waiting.clear()

    # WorkerOwner

    def on_ready(self, process: WorkerProcess) -> None:
        """See `WorkerOwner`."""
        entry = self._tenants[process.spec.tenant]
        self._do(process.spec.tenant, entry, entry.life.on(Event.READY, self._now()))

    def on_broken(self, process: WorkerProcess, reason: str) -> None:
        """See `WorkerOwner`."""
        process.exit_reason = process.exit_reason or reason
        entry = self._tenants[process.spec.tenant]
        if entry.life.state is not State.DRAINING:
            self._do(process.spec.tenant, entry, entry.life.on(Event.BROKE_LINK, self._now()))

    def on_exit(self, process: WorkerProcess, status: Exit) -> None:
        """See `WorkerOwner`."""
        entry = self._tenants[process.spec.tenant]
        cause = f"{status}; {process.exit_reason}" if process.exit_reason else str(status)
        self._died(entry, process, status, cause)

    def _died(
        self, entry: _Tenant, process: WorkerProcess, status: Exit | None, cause: str
    ) -> None:
        entry.cancel_timer()
        entry.process = None
        now = self._now()
        stopping = entry.life.state is State.DRAINING
        action = entry.life.on_death(
            Death(
                at=now,
                exit_code=status.code if status else None,
                signal=status.signal if status else None,
                cause=cause,
                uptime=now - process.started_at,
            )
        )
        entry.idle.set()
        if not stopping:
            self._log.warning(
                "worker died",
                tenant=process.spec.tenant,
                generation=process.spec.generation,
                cause=cause,
                state=entry.life.state.value,
            )
        if entry.life.state is State.FAILED:
            msg = f"the tenant's worker has failed: {entry.life.reason}"
            self._refuse(entry, GatewayError(ErrorCode.UNAVAILABLE, msg))
        self._do(process.spec.tenant, entry, action)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
