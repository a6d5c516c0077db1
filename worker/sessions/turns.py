"""Who runs which turn when: one at a time in a session, sessions side by side.

The running turn of a session is a row that names its generation and a lease, never a variable: a
second generation of the worker, beside this one or after it, sees the same rows and takes a turn
only by claiming its row. What is kept here is only what this process is doing.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Final

import apsw
from msgspec import UnsetType

from protocol import limits
from protocol.errors import GatewayError
from protocol.methods.config import AgentSection
from protocol.methods.events import SessionChange
from protocol.spawn import WorkerSpec
from worker import log, refusal
from worker.agents.catalogue import Catalogue, bounded, system_prompt
from worker.agents.run import AgentRun
from worker.agents.tool import Means, ToolContext
from worker.clock import Clock
from worker.config.overlay import OverlayFile
from worker.events.bus import Events
from worker.events.turn import TurnEvents, session_changed
from worker.sessions import aborts, admissions, reads, writes
from worker.sessions.audience import Audience
from worker.sessions.feed import Feed, TurnResult
from worker.sessions.feeds import LOOK_SECONDS, Feeds
from worker.store.database import Database

LEASE_SECONDS: Final = 30.0
RENEW_SECONDS: Final = 10.0
# Other generations leave turns behind until they have drained, or their leases have run out.
LOOK_AROUND_SECONDS: Final = 0.1
LOOK_AROUND_UNTIL_SECONDS: Final = 2 * (limits.DRAIN_SECONDS + LEASE_SECONDS)
RETRY_SECONDS: Final = 2.0
ABORT_SECONDS: Final = 2.0
SESSIONS_WAITING_MAX: Final = 1000
TAKEN_AWAY: Final = "another worker has taken the turn"
STOPPING: Final = "the turn was cut off: its worker was stopped"


class Turns:
    """The turns that this generation runs.

    Args:
        database: Where the rows are.
        catalogue: What agents use, unless the tenant's configuration says otherwise.
        overlay: That configuration.
        clock: For leases and rows.
        events: Where turns are told of.
        means: What tools work with.
        spec: What the supervisor told us: our own generation, and those alive at our start.
    """

    def __init__(
        self,
        database: Database,
        catalogue: Catalogue,
        overlay: OverlayFile,
        clock: Clock,
        events: Events,
        means: Means,
        spec: WorkerSpec,
    ) -> None:
        self._database: Final = database
        self._catalogue: Final = catalogue
        self.settings = spec.agents
        """What holds for turns that begin from now on."""
        self._overlay: Final = overlay
        self._clock: Final = clock
        self._events: Final = events
        self._means: Final = means
        self._generation: Final = spec.generation
        self._most = _most(spec.concurrent_runs)
        self._living: Final = tuple(other for other in spec.living if other != spec.generation)
        self._running: Final[dict[str, asyncio.Task[None]]] = {}
        self._answering: Final[dict[str, asyncio.Task[None]]] = {}
        self._starting = 0
        self._waiting: Final[dict[int, None]] = {}
        self._waiting_cut = False
        self._orphans_left = False
        self.feeds: Final = Feeds(database)
        self._draining: Final = asyncio.Event()
        self._aborting = False
        self._cuts: Final[dict[str, str]] = {}
        self._renewal: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._look_until = 0.0
        self._changed: Final = asyncio.Event()

    # What earlier and other generations leave behind.

    async def recover(self) -> None:
        """Open the store and mark what died with earlier generations as interrupted.

        Raises:
            GatewayError: the storage refused; the ends of their leases will do it later.
            apsw.Error: as `Database.open`, like its other errors.
        """
        self._orphans_left = True
        self._database.open()
        now = self._clock.now_ms()
        if reads.has_orphans(self._database.read(), self._living):
            count = await self._database.write(
                lambda connection: writes.interrupt_orphans(connection, self._living, now),
                grows=False,
            )
            log.write("warning", "turns interrupted", count=count)
        self._orphans_left = False

    def resume(self) -> None:
        """Take over the turns that wait; while others may leave some behind, look again."""
        if self._living or self._orphans_left:
            self._look_until = self._clock.monotonic() + LOOK_AROUND_UNTIL_SECONDS
        self.look_around()

    def look_around(self) -> None:
        """Take what other generations have left."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self._draining.is_set():
            return
        if self._database.is_open:
            try:
                self._take_over()
            except (GatewayError, apsw.Error) as error:
                log.failure("cannot look for turns", error)
        if self._clock.monotonic() < self._look_until:
            self._look_later()

    def _look_later(self) -> None:
        if self._looking is None:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(LOOK_AROUND_SECONDS, self.look_around)

    def _take_over(self) -> None:
        reader, now = self._database.read(), self._clock.now_ms()
        if reads.has_expired(reader, self._generation, now):
            self._database.submit(
                partial(writes.interrupt_expired, mine=self._generation, now=now), grows=False
            ).add_done_callback(_log_failure)
        queued = reads.queued_sessions(reader, SESSIONS_WAITING_MAX)
        self._waiting_cut = len(queued) == SESSIONS_WAITING_MAX
        self._waiting.update(dict.fromkeys(queued))
        self._pump()

    # New turns.

    async def admit(self, admission: admissions.Admission) -> admissions.Admitted:
        """Write a request down and start its turn, or let that wait.

        Once this has been called the request is written, whether or not the caller goes on.

        Raises:
            GatewayError: as `admissions.admit`, or the storage refused.
        """
        starts = admission.turn is not None and not self._waiting and self._has_room()
        lease = self._lease() if starts else None
        future = self._database.submit(partial(admissions.admit, admission=admission, lease=lease))
        self._starting += starts
        future.add_done_callback(partial(self._on_admitted, reserved=starts))
        return await asyncio.shield(future)

    def _has_room(self) -> bool:
        busy = len(self._running) + self._starting
        return not self._draining.is_set() and busy < self._most

    def limit(self, concurrent_runs: int | None) -> None:
        """Run so many at a time from now on, None for the bound; what runs goes on."""
        self._most = _most(concurrent_runs)
        self._pump()

    def _lease(self) -> writes.Lease:
        expires_at = self._clock.now_ms() + round(LEASE_SECONDS * 1000)
        return writes.Lease(self._generation, expires_at)

    def _on_admitted(
        self, future: "asyncio.Future[admissions.Admitted]", *, reserved: bool
    ) -> None:
        self._starting -= reserved
        if future.exception() is None:
            admitted = future.result()
            run = admitted.run
            if admitted.created or (run is not None and not admitted.repeated):
                reason: SessionChange = "created" if admitted.created else "message"
                session_changed(self._events, self._clock, admitted.key, reason)
            if run is not None and not admitted.repeated:
                if run.state == "running":
                    self._start(run.claimed(admitted.key))
                else:
                    self._waiting[run.session] = None
        self._pump()

    # Turns that waited.

    def _pump(self) -> None:
        """Claim turns in the sessions that wait, as many as there is room for."""
        while self._waiting and self._has_room():
            session = next(iter(self._waiting))
            del self._waiting[session]
            lease, now = self._lease(), self._clock.now_ms()
            operation = partial(writes.claim, session=session, lease=lease, now=now)
            try:
                future = self._database.submit(operation)
            except GatewayError as error:
                self._claim_later(session, error)
                return
            self._starting += 1
            future.add_done_callback(partial(self._on_claimed, session))
        if self._waiting_cut and not self._waiting:
            self._look_later()
        self._changed.set()

    def _on_claimed(
        self, session: int, future: "asyncio.Future[writes.ClaimedRun | writes.NothingToClaim]"
    ) -> None:
        self._starting -= 1
        error = future.exception()
        if error is not None:
            self._claim_later(session, error)
            return
        claimed = future.result()
        if isinstance(claimed, writes.ClaimedRun):
            self._start(claimed)
        elif claimed.held:
            # Whoever holds it may die, and then only the end of its lease tells.
            self._look_until = self._clock.monotonic() + 2 * LEASE_SECONDS
            self._look_later()
        self._pump()

    def _claim_later(self, session: int, error: BaseException) -> None:
        log.failure("cannot claim a turn", error)

        def retry() -> None:
            self._waiting[session] = None
            self._pump()

        asyncio.get_running_loop().call_later(RETRY_SECONDS, retry)
        self._changed.set()

    def catalogue(self, agent: AgentSection | UnsetType) -> Catalogue:
        """Give what agents use now under a tenant's configuration."""
        return self._catalogue.configured(self.settings, agent)

    # One turn.

    def _start(self, run: writes.ClaimedRun) -> None:
        loop = asyncio.get_running_loop()
        feed = self.feeds.of_running(run.id)
        self._running[run.id] = loop.create_task(self._run(run, feed))
        if self._renewal is None:
            self._renewal = loop.call_later(RENEW_SECONDS, self._renew)

    async def _run(self, run: writes.ClaimedRun, feed: Feed) -> None:
        more = False
        told = TurnEvents(self._events, self._clock, run.id, run.session_key)
        try:
            told.started()
            ending = await self._answer(run, feed, told)
            result, more = await self._end(run, ending)
            told.ended(result)
            feed.finish(result)
        except Exception as error:  # noqa: BLE001 - whatever it is, the session must go on
            more = await self._settle(run, feed, told, error)
        finally:
            del self._running[run.id]
            self._cuts.pop(run.id, None)
            self.feeds.forget(run.id)
            if more:
                self._waiting[run.session] = None
            self._pump()

    async def _answer(self, run: writes.ClaimedRun, feed: Feed, told: TurnEvents) -> writes.Ending:
        settings = (await self._overlay.usable()).agent
        reader = self._database.read()
        prompt = reads.prompt(reader, run.session, run.seq)
        told_before = system_prompt(settings, reads.instructions(reader, run.seq))
        audience = Audience(feed, told)
        context = ToolContext(run.session_key, run.id, audience.text, self._means, run.sandbox)
        agent = AgentRun(
            self.catalogue(settings),
            [*told_before, *prompt],
            context,
            bounded(self.settings, settings),
            audience,
        )
        if self._aborting:
            self._cuts.setdefault(run.id, STOPPING)
        if run.id in self._cuts:
            return agent.interrupted(self._cuts[run.id])
        task = self._running[run.id]
        self._answering[run.id] = task
        try:
            return await agent.execute()
        except asyncio.CancelledError:
            task.uncancel()
            return agent.interrupted(self._cuts[run.id])
        finally:
            del self._answering[run.id]

    async def _end(self, run: writes.ClaimedRun, ending: writes.Ending) -> tuple[TurnResult, bool]:
        now = self._clock.now_ms()
        operation = partial(writes.end, run=run, owner=self._generation, ending=ending, now=now)
        ended = await self._database.write(operation, grows=False)
        if ended is None:
            return TurnResult("interrupted", error=TAKEN_AWAY), True
        reply = None
        if ended.reply_seq is not None:
            reply = reads.message(self._database.read(), ended.reply_seq)
        result = TurnResult(
            ending.state, reply, ending.usage, ending.error, ending.refusal, ending.error_code
        )
        return result, ended.more

    async def _settle(
        self, run: writes.ClaimedRun, feed: Feed, told: TurnEvents, error: Exception
    ) -> bool:
        """Give up a turn whose end cannot be written: tell the watchers now, the rows when it can.

        Says whether other turns wait in the session. Until then none of them starts.
        """
        answer = refusal.of(error, run=run.id)
        told.ended(answer)
        feed.finish(answer)
        ending = writes.Ending("error", error=answer.message, error_code=answer.code.name)
        while True:
            try:
                return (await self._end(run, ending))[1]
            except Exception as again:  # noqa: BLE001 - as in `_run`
                log.failure("cannot end a turn", again, run=run.id)
            try:
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._draining.wait()
            except TimeoutError:
                continue
            return False  # the next generation finds it

    def _renew(self) -> None:
        self._renewal = None
        if not self._running:
            return
        ours = frozenset(self._running)
        try:
            future = self._database.submit(partial(writes.renew, lease=self._lease()), grows=False)
        except GatewayError as error:
            log.failure("cannot renew leases", error)
        else:
            future.add_done_callback(partial(self._on_renewed, ours))
        self._renewal = asyncio.get_running_loop().call_later(RENEW_SECONDS, self._renew)

    def _on_renewed(self, ours: frozenset[str], future: "asyncio.Future[set[str]]") -> None:
        error = future.exception()
        if error is not None:
            log.failure("cannot renew leases", error)
            return
        for run_id in ours - future.result():
            self._cut(run_id, TAKEN_AWAY)

    # Cutting off.

    def end_aborted(self, run_ids: Iterable[str]) -> None:
        """Cut off those of these turns that run here: their rows say so already.

        The generation that runs another one hears of it through its row.
        """
        for run_id in run_ids:
            self._cut(run_id, aborts.ABORTED)
        self.feeds.look()

    def _cut(self, run_id: str, reason: str) -> None:
        if run_id in self._running and run_id not in self._cuts:
            self._cuts[run_id] = reason
            task = self._answering.get(run_id)
            if task is not None:
                task.cancel()

    def _cut_aborted(self) -> None:
        """Find what was aborted through another generation, which has the calls now."""
        try:
            for run_id in aborts.asked_of(self._database.read(), self._generation):
                self._cut(run_id, aborts.ABORTED)
        except (GatewayError, apsw.Error) as error:
            log.failure("cannot look for aborted turns", error)

    # Whether there is something to do.

    @property
    def busy(self) -> bool:
        """Whether a turn runs or waits to run."""
        return bool(self._running or self._starting or self._waiting)

    def left_open(self) -> bool:
        """Say whether the store has turns that run or wait, in whichever generation."""
        try:
            return self._database.is_open and reads.has_open(self._database.read())
        except (GatewayError, apsw.Error) as error:
            log.failure("cannot look for turns", error)
            return False

    # The end.

    async def drain(self, seconds: float) -> None:
        """Start nothing more, wait for what runs, then cut it off; what waits stays queued."""
        self._draining.set()
        for timer in (self._looking, self._renewal if not self._running else None):
            if timer is not None:
                timer.cancel()
        if await self._wait_until_idle(seconds):
            return
        self._aborting = True
        for run_id in list(self._running):
            self._cut(run_id, STOPPING)
        await self._wait_until_idle(ABORT_SECONDS)

    async def _wait_until_idle(self, seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._running or self._starting:
            self._cut_aborted()
            left = deadline - loop.time()
            if left <= 0:
                return False
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_SECONDS)):
                    await self._changed.wait()
        return True


def _most(concurrent_runs: int | None) -> int:
    bound = limits.TURNS_RUNNING_PER_TENANT_MAX
    return bound if concurrent_runs is None else min(concurrent_runs, bound)


def _log_failure(future: "asyncio.Future[int]") -> None:
    error = future.exception()
    if error is not None:
        log.failure("cannot interrupt turns", error)
