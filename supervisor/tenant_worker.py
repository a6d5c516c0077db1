"""One tenant's worker: what `supervisor.lifecycle` decides is done here.

Processes at a time: the present generation, a next one that starts beside it, and an earlier one
(two after a suspension in the middle of a restart) that finishes what it has in flight.
"""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Final

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.spawn import WorkerSpec
from supervisor.child import Exit
from supervisor.front_link import FrontLink
from supervisor.lifecycle import ENDING, SERVING, Action, Death, Event, Lifecycle, State
from supervisor.logs import Log
from supervisor.memory import Memory
from supervisor.reconcile import Actual, Step, Wanted, due, step
from supervisor.surroundings import Surroundings
from supervisor.waiting import Waiting
from supervisor.worker_process import HUNG, OVERDUE, WorkerProcess
from supervisor.zygote_process import SpawnError

FAILED_RETRY_MS: Final = 60_000
GONE_DRAIN_SECONDS: Final = 2.0
"""A tenant that is deleted waits for no answer any more."""
UNBORN: Final = "ended while it started"


class TenantWorker:
    """The life of one tenant's worker.

    Args:
        tenant: Whose.
        around: What it lives in.
        memory: Tells a worker that the kernel ended for want of memory.
        log: Where deaths are written.
    """

    def __init__(self, tenant: str, around: Surroundings, memory: Memory, log: Log) -> None:
        self.tenant: Final = tenant
        self.life: Final = Lifecycle()
        self.current: WorkerProcess | None = None
        self.wake_at_ms: int | None = None
        """When it asked to be woken, in Unix ms."""
        self._next: WorkerProcess | None = None
        self._retiring: list[WorkerProcess] = []
        self._over = False
        self._outlawed = False
        self._around: Final = around
        self._memory: Final = memory
        self._log: Final = log.bind(tenant=tenant)
        self._loop: Final = asyncio.get_running_loop()
        self._link: Final = FrontLink(tenant, around, self._log)
        self._timer: asyncio.TimerHandle | None = None
        self._retry_at = 0.0
        self._ends_by = 0.0
        self._waiting: Final = Waiting()
        self._restarts: Final = Waiting()
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
        if self.life.state not in SERVING:
            await self._waiting.wait()

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
        await self._restarts.wait()

    def end(self, event: Event, seconds: float) -> None:
        """Begin to end it on purpose.

        Args:
            event: STOP or SUSPEND.
            seconds: How long it may take to finish what it has in flight.
        """
        self._over = self._over or event is Event.STOP
        self._expect_end(seconds)
        self._take(event, drain_seconds=seconds)
        self._answer(GatewayError(ErrorCode.UNAVAILABLE, "the tenant's worker is ending"))
        self._changed.set()

    async def ended(self) -> None:
        """Wait until every process that it has now has ended."""
        ending = self.processes()
        while any(process in ending for process in self.processes()):
            await self._next_change()

    def kill(self, reason: str, *, outlaw: bool = False) -> None:
        """End all its processes at once; if `outlaw`, no other one starts before `release`."""
        self._outlawed = self._outlawed or outlaw
        for process in self.processes():
            process.is_outlawed = outlaw
            process.signal(signal.SIGKILL, reason)

    # What it should be, against what it is.

    @property
    def actual(self) -> Actual:
        """How it is, for `supervisor.reconcile`."""
        processes, state = len(self.processes()), self.life.state
        wake_at = None
        if self.wake_at_ms is not None:
            # By the time of day, which may be set meanwhile.
            wake_at = self._loop.time() + (self.wake_at_ms - self._around.unix_ms()) / 1000
        ends_by = self._ends_by if processes else None
        due_at = due(state, self._link.due_at, self._retry_at, wake_at, ends_by)
        return Actual(state, processes, due_at)

    def reconcile(self) -> Step:
        """Take the step that brings it nearer to what is wanted; gives it."""
        for process in self.processes():
            process.introduce(self._around)
        taken = step(self._around.wanted(self.tenant), self.actual, self._loop.time())
        match taken:
            case Step.LINK if self.current is not None:
                self._give_link(self.current)
            case Step.WAKE:
                self._take(Event.WANTED)
            case Step.RETRY:
                self._take(Event.RETRY)
            case Step.SUSPEND:
                self.end(Event.SUSPEND, limits.DRAIN_SECONDS)
            case Step.RESUME:
                self._take(Event.RESUME)
            case Step.STOP:
                self.end(Event.STOP, GONE_DRAIN_SECONDS)
            case Step.KILL:
                self.kill(OVERDUE)
                self._expect_end(0)
            case _:
                pass
        if taken is not Step.NOTHING or self._timer is None:
            self._set_timer()
        return taken

    def _set_timer(self) -> None:
        """Have a pass run when the next step is due, rather than when all are looked at."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_at = self.actual.due_at
        if due_at is not None:
            self._timer = self._loop.call_at(due_at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.reconcile()

    def _expect_end(self, seconds: float) -> None:
        # Its processes have timers of their own, which run out well before.
        self._ends_by = self._loop.time() + seconds + 2 * limits.ABORT_GRACE_SECONDS

    # What its processes are seen to do.

    def release(self) -> None:
        """Let it start again, if it was outlawed."""
        if self._outlawed and self.life.state is State.FAILED:
            self._take(Event.RESUME)
        self._outlawed = False

    def check_alive(self) -> None:
        """Ping every process that has said it is ready; act on three misses."""
        for process in self.processes():
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
        for process in self.processes():
            if process.spec.generation == generation and self.life.state not in ENDING:
                if reason is not None:
                    self.on_broken(process, f"link to the front: {reason}")
                elif process is not self.current:
                    continue
                elif process.loses_links():
                    self.on_broken(process, "it closes its link to the front again and again")
                else:
                    self._link.lost()
                    self._set_timer()

    def broke_link(self, generation: int, reason: str) -> None:
        """Take note that a generation has said to the launcher what it must not."""
        for process in self.processes():
            if process.spec.generation == generation:
                self.on_broken(process, reason)

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
                self.current = self._spawn()
            case Action.REPLACE if self.current is not None:
                self._retiring.append(self.current)
                self.current = self._spawn()
            case Action.SPAWN_NEXT:
                self._next = self._spawn(supersedes=True)
            case Action.SERVE:
                self._answer()
            case Action.SWITCH:
                self._switch()
            case Action.PROMOTE:
                self.current, self._next = self._next, None
            case Action.KEEP:
                self._refuse_restarts(
                    "the next generation did not start", "; the present one serves on"
                )
            case Action.DRAIN if self.current is not None:
                self._expect_end(drain_seconds)
                if self._next is not None:
                    self._next.signal(signal.SIGKILL, UNBORN)
                self._run(self._drain(self.current, drain_seconds))
            case Action.ABORT if self.current is not None:
                self.current.abort()
            case Action.ABORT_NEXT if self._next is not None:
                self._next.abort()
            case Action.KILL if self.current is not None:
                self.current.signal(signal.SIGKILL, HUNG if self.current.is_ready else UNBORN)
            case Action.WAIT:
                self._retry_at = self._loop.time() + self.life.next_delay()
            case _:
                pass
        self._set_timer()

    def _spawn(self, *, supersedes: bool = False) -> WorkerProcess:
        self.wake_at_ms = None
        settings = self._around.worker_settings
        spec = WorkerSpec(
            tenant=self.tenant,
            generation=self._around.next_generation(),
            living=tuple(process.spec.generation for process in self.processes()),
            idle_seconds=settings.idle_seconds,
            agents=settings.agents,
            concurrent_runs=self._around.concurrent_runs(self.tenant),
            supersedes=supersedes,
            storage=self._around.storage.refusal(self.tenant),
        )
        self._around.storage.awake(self.tenant)
        log, lag = self._log.bind(source="worker"), self._around.meters.worker_lag
        process = WorkerProcess(spec, self, log, lag)
        self._run(self._start(process))
        return process

    async def _start(self, process: WorkerProcess) -> None:
        try:
            jail = await self._around.jail_of(self.tenant)
            async with self._around.groups.admission(self.tenant) as admission:
                # Last: who waits for something else may be left with one that is retired by then.
                await process.start(await self._around.zygote(), jail, admission)
        except (SpawnError, GatewayError, OSError) as error:
            if isinstance(error, OSError):
                # The gateway's own want (descriptors, say), which no waiting for this tenant ends.
                self._answer(GatewayError(ErrorCode.UNAVAILABLE, "no worker can be started now"))
            self._ended(process, None, f"could not be started: {error}")
            return
        if not process.is_ready:
            process.set_timer(limits.WORKER_READY_SECONDS, lambda: self._late(process))

    def _late(self, process: WorkerProcess) -> None:
        if process is self.current:
            self._take(Event.LATE)
        elif process is self._next:
            self._take(Event.NEXT_LATE)

    def _switch(self) -> None:
        old, self.current, self._next = self.current, self._next, None
        self._answer()
        if old is not None:
            self._retiring.append(old)
            self._run(self._drain(old, limits.DRAIN_SECONDS))

    async def _drain(self, process: WorkerProcess, seconds: float) -> None:
        """Take the front off a process first, so that no call meets one that is ending."""
        process.end_within(seconds)
        await self._link.detach(process)
        process.drain(seconds)

    def _give_link(self, process: WorkerProcess) -> bool:
        try:
            self._link.give(process)
        except OSError as error:
            self.on_broken(process, f"it takes no link to the front: {error}")
            return False
        return True

    # supervisor.worker_process.WorkerOwner

    def on_born(self, process: WorkerProcess) -> None:
        """See `WorkerOwner`."""
        process.introduce(self._around)

    def on_ready(self, process: WorkerProcess) -> None:
        """See `WorkerOwner`."""
        if process.exit_reason:
            return  # too late: it has been told to end
        if self.life.state not in ENDING and not self._give_link(process):
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
        starved = self._starvation() if process.was_killed_by_others(status) else ""
        if starved:
            cause = f"{cause}; {starved}"
        death = process.death(status, cause, starved=bool(starved))
        action = self._judge(process, death)
        if not self.processes():
            self._around.storage.asleep(self.tenant)
        if self.life.deaths and self.life.deaths[-1] is death:
            self._around.meters.died(status)
            self._log.warning(
                "worker died",
                generation=death.generation,
                cause=death.cause,
                uptime=round(death.uptime, 3),
            )
        self._do(action)
        if action is Action.REFUSE:
            self._refuse_restarts("the worker did not start", "")
            self._answer(self._refusal())
            self._around.alert(self.tenant, self.life.reason)
        elif action is Action.WAIT:
            self._refuse_restarts("the worker did not start", "; it will be tried again")
        if not self.processes():
            wanted = self._around.wanted(self.tenant)
            self._run(self._around.groups.release(self.tenant, ended=wanted is not Wanted.ENABLED))
        self._changed.set()

    def _starvation(self) -> str:
        """Say of a worker that was killed that it was for want of memory; "" if it was not."""
        known = self._around.groups.starved(self.tenant)
        if known is not None:
            return known
        return "the system was out of memory" if self._memory.is_short() else ""

    def _judge(self, process: WorkerProcess, death: Death) -> Action:
        if process in self._retiring:
            self._retiring.remove(process)
            self.life.on_old_death(death)
        elif process is self._next:
            self._next = None
            if self.life.state is State.RESTARTING:
                return self.life.on_next_death(death)
        elif process is self.current:
            self.current = None
            return self.life.on_death(death)
        return Action.NOTHING

    # Those who wait.

    def _answer(self, refusal: GatewayError | None = None) -> None:
        self._restarts.answer(refusal)
        self._waiting.answer(refusal)

    def _refuse_restarts(self, what: str, consequence: str) -> None:
        msg = f"{what} ({self.life.deaths[-1].cause}){consequence}"
        self._restarts.answer(GatewayError(ErrorCode.UNAVAILABLE, msg))

    def _refusal(self) -> GatewayError:
        # Why is the operator's to know: `tenants status` and the log say it.
        msg = f"the tenant is {self.life.state.value} until its operator acts"
        return GatewayError(ErrorCode.UNAVAILABLE, msg, retryAfterMs=FAILED_RETRY_MS)

    # Inside.

    def processes(self) -> list[WorkerProcess]:
        """Give all that it has now."""
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
