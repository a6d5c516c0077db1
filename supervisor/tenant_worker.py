"""One tenant's worker: what `supervisor.lifecycle` decides is done here.

Processes at a time: the present generation, a next one that starts beside it, and an earlier one
(two after a suspension in the middle of a restart) that finishes what it has in flight.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

from protocol import limits
from protocol.errors import ErrorCode, GatewayError, LinkClosedError
from protocol.spawn import WorkerLink, WorkerSpec
from supervisor.child import Exit
from supervisor.front_process import FrontProcess
from supervisor.lifecycle import ENDING, Action, Death, Event, Lifecycle, State
from supervisor.logs import Log
from supervisor.surroundings import Surroundings
from supervisor.worker_process import WorkerProcess
from supervisor.zygote_process import SpawnError

HUNG: Final = f"{limits.PING_MISSES_MAX} pings were not answered"
LATE: Final = "it was not ready in time"


FAILED_RETRY_MS: Final = 60_000


class TenantWorker:
    """The life of one tenant's worker.

    Args:
        tenant: Whose.
        around: What it lives in.
        log: Where deaths are written.
    """

    def __init__(self, tenant: str, around: Surroundings, log: Log) -> None:
        self.tenant: Final = tenant
        self.life: Final = Lifecycle()
        self.current: WorkerProcess | None = None
        self.wake_at_ms: int | None = None
        """When it asked to be woken, in Unix ms."""
        self._next: WorkerProcess | None = None
        self._retiring: list[WorkerProcess] = []
        self._over = False
        self._around: Final = around
        self._log: Final = log.bind(tenant=tenant)
        self._loop: Final = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._restarts: list[asyncio.Future[None]] = []
        self._changed: Final = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # What is asked of it.

    async def wake(self) -> None:
        """Have it serve; the front has its link when this returns.

        Raises:
            GatewayError: UNAVAILABLE, with the reason.
        """
        self._check_not_over()
        if self._take(Event.WANTED) is Action.REFUSE:
            raise self._refusal()
        if self.life.state not in (State.READY, State.RESTARTING):
            served = self._loop.create_future()
            self._waiting.append(served)
            await served

    async def restart(self) -> None:
        """Have the next generation serve; where it cannot, the present one serves on.

        Raises:
            GatewayError: CONFLICT when this cannot be had now, UNAVAILABLE when the next generation
                did not start.
        """
        while self._retiring:  # at most one generation drains
            await self._next_change()
        self._check_not_over()
        action = self._take(Event.RESTART)
        if action is Action.REFUSE:
            msg = f"the tenant is {self.life.state.value}; a restart is not possible now"
            raise GatewayError(ErrorCode.CONFLICT, msg)
        served = self._loop.create_future()
        self._restarts.append(served)
        await served

    async def end(self, event: Event, seconds: float) -> None:
        """End it on purpose.

        Args:
            event: STOP or SUSPEND.
            seconds: How long it may take to finish what it has in flight.
        """
        self._over = self._over or event is Event.STOP
        ending = self._processes()
        self._take(event, drain_seconds=seconds)
        self._cancel_timer()
        self._refuse(GatewayError(ErrorCode.UNAVAILABLE, "the tenant's worker is ending"))
        self._changed.set()
        while any(process in ending for process in self._processes()):
            await self._next_change()

    def resume(self) -> None:
        """Let it serve again after SUSPEND."""
        if self.life.state in (State.SUSPENDED, State.SUSPENDING):
            self._take(Event.RESUME)

    def kill(self, reason: str) -> None:
        """End all its processes at once."""
        for process in self._processes():
            process.signal(signal.SIGKILL, reason)

    def link_to_front(self) -> None:
        """Hand the present front a link."""
        if self.current is not None and self.life.state in (State.READY, State.RESTARTING):
            self._link(self.current)

    def check_alive(self) -> None:
        """Ping every process that has said it is ready; act on three misses."""
        for process in self._processes():
            if (
                not process.is_ready
                or process.exit_reason
                or process.ping() < limits.PING_MISSES_MAX
            ):
                continue
            if process is self.current:
                self._take(Event.HUNG)
            else:
                process.signal(signal.SIGKILL, HUNG)

    def front_lost_link(self, generation: int, reason: str | None) -> None:
        """Take note that the front's link to a generation has ended."""
        for process in self._processes():
            if process.spec.generation == generation and self.life.state not in ENDING:
                if reason is not None:
                    self.on_broken(process, f"link to the front: {reason}")
                elif process is not self.current:
                    continue
                elif process.loses_links():
                    self.on_broken(process, "it closes its link to the front again and again")
                else:
                    # Mostly it has just ended.
                    self._loop.call_later(
                        limits.ABORT_GRACE_SECONDS, self._restore_link, process, self._around.front
                    )

    # The table decides, this does.

    def _take(self, event: Event, *, drain_seconds: float = limits.DRAIN_SECONDS) -> Action:
        action = self.life.on(event, self._loop.time())
        self._do(action, drain_seconds)
        return action

    def _do(  # noqa: PLR0912 - one case an action
        self, action: Action, drain_seconds: float = limits.DRAIN_SECONDS
    ) -> None:
        match action:
            case Action.SPAWN:
                self._cancel_timer()
                self.current = self._spawn()
            case Action.REPLACE if self.current is not None:
                self._retiring.append(self.current)
                self.current = self._spawn()
            case Action.SPAWN_NEXT:
                self._next = self._spawn()
            case Action.SERVE:
                self._answer(self._restarts)
                self._answer(self._waiting)
            case Action.SWITCH:
                self._switch()
            case Action.PROMOTE:
                self.current, self._next = self._next, None
            case Action.KEEP:
                self._refuse_restarts(
                    "the next generation did not start", "; the present one serves on"
                )
            case Action.DRAIN if self.current is not None:
                self._run(self._drain(self.current, drain_seconds))
            case Action.ABORT if self.current is not None:
                self._abort(self.current)
            case Action.ABORT_NEXT if self._next is not None:
                self._abort(self._next)
            case Action.KILL if self.current is not None:
                self.current.signal(signal.SIGKILL, "broke its link or did not end in time")
            case Action.WAIT:
                self._set_timer(self.life.next_delay(), lambda: self._take(Event.RETRY))
            case Action.SLEEP:
                self._sleep()
            case _:
                pass

    def _spawn(self) -> WorkerProcess:
        self.wake_at_ms = None
        spec = WorkerSpec(
            tenant=self.tenant,
            generation=self._around.next_generation(),
            living=tuple(process.spec.generation for process in self._processes()),
            idle_seconds=self._around.idle_seconds,
        )
        process = WorkerProcess(spec, self, self._log.bind(source="worker"))
        self._run(self._start(process))
        return process

    async def _start(self, process: WorkerProcess) -> None:
        try:
            jail = await self._around.jail_of(self.tenant)
            await process.start(self._around.zygote, jail)
        except (SpawnError, GatewayError, OSError) as error:
            if isinstance(error, OSError):
                # The gateway's own want (descriptors, say), which no waiting for this tenant ends.
                self._refuse(GatewayError(ErrorCode.UNAVAILABLE, "no worker can be started now"))
            self._ended(process, None, f"could not be started: {error}")
            return
        if self.life.state in ENDING:
            process.signal(signal.SIGKILL, "ended while it started")
        elif not process.is_ready:
            process.set_timer(limits.WORKER_READY_SECONDS, lambda: self._late(process))

    def _late(self, process: WorkerProcess) -> None:
        if process is self.current:
            self._take(Event.LATE)
        elif process is self._next:
            self._take(Event.NEXT_LATE)

    def _switch(self) -> None:
        old, self.current, self._next = self.current, self._next, None
        self._answer(self._restarts)
        self._answer(self._waiting)
        if old is not None:
            self._retiring.append(old)
            self._run(self._drain(old, limits.DRAIN_SECONDS))

    async def _drain(self, process: WorkerProcess, seconds: float) -> None:
        """Take the front off a process first, so that no call meets one that is ending."""
        if self._next is not None:
            self._next.signal(signal.SIGKILL, "ended while it started")
        process.set_timer(
            seconds + limits.ABORT_GRACE_SECONDS,
            lambda: process.signal(signal.SIGKILL, "did not end in time"),
        )
        front = self._around.front
        if front is not None:
            try:
                await front.detach(self.tenant, process.spec.generation)
            except (LinkClosedError, GatewayError, TimeoutError) as error:
                self._log.warning("front was not detached", error=str(error))
        process.drain(seconds)

    def _abort(self, process: WorkerProcess) -> None:
        reason = HUNG if process.is_ready else LATE
        process.signal(signal.SIGABRT, reason)
        process.set_timer(
            limits.ABORT_GRACE_SECONDS, lambda: process.signal(signal.SIGKILL, reason)
        )

    def _sleep(self) -> None:
        if self.wake_at_ms is not None:
            delay = max(0.0, (self.wake_at_ms - self._around.unix_ms()) / 1000)
            self._set_timer(delay, lambda: self._take(Event.WANTED))

    def _link(self, process: WorkerProcess) -> bool:
        front = self._around.front
        if front is None:
            return True  # the next front is handed all links
        try:
            sock = process.new_front_link()
        except OSError as error:
            self.on_broken(process, f"it takes no link to the front: {error}")
            return False
        with sock:
            link = WorkerLink(tenant=self.tenant, generation=process.spec.generation)
            front.give_link(link, sock)
        return True

    def _restore_link(self, process: WorkerProcess, front: FrontProcess | None) -> None:
        if process is self.current and front is self._around.front:  # a new one has a link already
            self.link_to_front()

    # supervisor.worker_process.WorkerOwner

    def on_ready(self, process: WorkerProcess) -> None:
        """See `WorkerOwner`."""
        if process.exit_reason:
            return  # too late: it has been told to end
        if self.life.state not in ENDING and not self._link(process):
            return  # ready, but nobody could reach it
        self._take(Event.NEXT_READY if process is self._next else Event.READY)

    def on_idle(self, process: WorkerProcess, wake_at_ms: int | None) -> None:
        """See `WorkerOwner`."""
        if process is self.current and self.life.state is State.READY:
            self.wake_at_ms = wake_at_ms
            self._take(Event.IDLE)

    def on_broken(self, process: WorkerProcess, reason: str) -> None:
        """See `WorkerOwner`."""
        if process is self.current and self.life.state not in ENDING:
            process.exit_reason = process.exit_reason or reason
            self._take(Event.BROKE_LINK)
        else:
            process.signal(signal.SIGKILL, reason)

    def on_exit(self, process: WorkerProcess, status: Exit) -> None:
        """See `WorkerOwner`."""
        cause = f"{status}; {process.exit_reason}" if process.exit_reason else str(status)
        self._ended(process, status, cause)

    def _ended(self, process: WorkerProcess, status: Exit | None, cause: str) -> None:
        now = self._loop.time()
        code, number = status or (None, None)
        death = Death(now, code, number, cause, uptime=now - process.started_at)
        self._note_death(process, death)
        if process in self._retiring:
            self._retiring.remove(process)
        elif process is self._next:
            self._next = None
            if self.life.state is State.RESTARTING:
                self._do(self.life.on_next_death(death))
        elif process is self.current:
            self.current = None
            action = self.life.on_death(death)
            self._do(action)
            if action is Action.REFUSE:
                self._refuse_restarts("the worker did not start", "")
                self._refuse_restarts("the worker did not start", "")
                self._refuse(self._refusal())
                self._around.alert(self.tenant, self.life.reason)
            elif action is Action.WAIT:
                self._refuse_restarts("the worker did not start", "; it will be tried again")
        self._changed.set()

    def _note_death(self, process: WorkerProcess, death: Death) -> None:
        meant = process in self._retiring or self.life.state in ENDING
        if not meant or death.exit_code != 0:
            self._log.warning(
                "worker died",
                generation=process.spec.generation,
                cause=death.cause,
                uptime=round(death.uptime, 3),
            )

    # Those who wait.

    @staticmethod
    def _answer(waiting: "list[asyncio.Future[None]]", refusal: GatewayError | None = None) -> None:
        for served in waiting:
            if served.done():
                continue
            if refusal is None:
                served.set_result(None)
            else:
                served.set_exception(refusal)
        waiting.clear()

    def _refuse(self, error: GatewayError) -> None:
        self._answer(self._waiting, error)
        self._answer(self._restarts, error)

    def _refuse_restarts(self, what: str, consequence: str) -> None:
        msg = f"{what} ({self.life.deaths[-1].cause}){consequence}"
        self._answer(self._restarts, GatewayError(ErrorCode.UNAVAILABLE, msg))

    def _refusal(self) -> GatewayError:
        # Why is the operator's to know: `tenants status` and the log say it.
        msg = f"the tenant is {self.life.state.value} until its operator acts"
        return GatewayError(ErrorCode.UNAVAILABLE, msg, retryAfterMs=FAILED_RETRY_MS)

    # Inside.

    def _processes(self) -> list[WorkerProcess]:
        others = (process for process in (self.current, self._next) if process is not None)
        return [*others, *self._retiring]

    def _check_not_over(self) -> None:
        if self._over:
            raise GatewayError(ErrorCode.UNAVAILABLE, "the tenant's worker is ending")

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set_timer(self, seconds: float, then: Callable[[], object]) -> None:
        self._cancel_timer()
        self._timer = self._loop.call_later(seconds, then)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
