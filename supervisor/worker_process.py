"""The supervisor's side of one worker process: one generation of one tenant, start to end."""

import asyncio
import contextlib
import errno
import os
import select
import signal
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from protocol import aio, descriptors, frames, launching, limits
from protocol.egress import EGRESS
from protocol.egress import Place as EgressPlace
from protocol.errors import RemoteProtocolError
from protocol.launching import LAUNCHER
from protocol.meters import Histogram
from protocol.spawn import EXIT_OUT_OF_MEMORY, Idle, StorageRefusal, WorkerSettings, WorkerSpec
from supervisor.caps.tenants import Admission
from supervisor.child import Child, Exit
from supervisor.egress_process import EgressProcess
from supervisor.launcher_process import LauncherProcess
from supervisor.lifecycle import EXIT_CONFIGURATION, Death
from supervisor.logs import Log, LogPump
from supervisor.newborn import Newborn
from supervisor.zygote.spec import JailSpec
from supervisor.zygote_process import ZygoteProcess

ACCEPTS: Final = frozenset({frames.Pong, frames.Event, frames.Drained})
"""Each of them only when it is due: nothing that a worker could send without end is taken."""
HUNG: Final = f"{limits.PING_MISSES_MAX} pings were not answered"
LATE: Final = "it was not ready in time"
OVERDUE: Final = "did not end in time"
LINKS_LOST_MAX: Final = 3
LINKS_LOST_WINDOW_SECONDS: Final = 60.0
REASONS: Final = {
    EXIT_OUT_OF_MEMORY: "it reached its memory limit (worker.memory_bytes)",
    EXIT_CONFIGURATION: "its configuration or its files cannot be used; its log says which",
}
"""What an exit code means."""


class WorkerOwner(Protocol):
    """Who decides about the process."""

    def on_born(self, process: "WorkerProcess") -> None:
        """It can be handed things now, and has not been handed a front."""

    def on_ready(self, process: "WorkerProcess") -> None:
        """The readiness byte came."""

    def on_idle(self, process: "WorkerProcess", wake_at_ms: int | None) -> None:
        """It has had nothing to do for a while, and wants to be woken at that time (Unix ms)."""

    def on_broken(self, process: "WorkerProcess", reason: str) -> None:
        """It broke its link, or closed it."""

    def on_exit(self, process: "WorkerProcess", status: Exit) -> None:
        """It has ended."""


class Introducing(Protocol):
    """Who knows whom a worker is made known to."""

    @property
    def launcher(self) -> LauncherProcess | None:
        """The present launcher."""

    @property
    def egress(self) -> EgressProcess | None:
        """The present egress."""

    def place_of(self, tenant: str, generation: int) -> launching.Place:
        """Say what the launcher is told."""

    def egress_place_of(self, tenant: str, generation: int) -> EgressPlace:
        """Say what egress is told."""


class WorkerProcess:
    """One worker process.

    Args:
        spec: What it is told.
        owner: Who decides.
        log: For what it writes to standard error, bound to its tenant.
        lag: Where it is counted how long it takes to answer a ping.
    """

    def __init__(self, spec: WorkerSpec, owner: WorkerOwner, log: Log, lag: Histogram) -> None:
        self.spec: Final = spec
        self.started_at: Final = asyncio.get_running_loop().time()
        self._owner: Final = owner
        self._log: Final = log
        self._lag: Final = lag
        # When pings were sent that are not answered yet; a link numbers them from 1.
        self._pinged_at: dict[int, float] = {}
        self._pings = 0
        self._newborn: Newborn | None = None
        self._child: Child | None = None
        self._end: aio.LinkEnd | None = None
        self._channel: socket.socket | None = None
        self._first_front: socket.socket | None = None
        self._ready_reader = -1
        self._timer: asyncio.TimerHandle | None = None
        self._drains = False
        self._ends_at_birth = False
        self._idle_seconds_min = spec.idle_seconds
        self._links_lost: deque[float] = deque(maxlen=LINKS_LOST_MAX)
        self.storage = spec.storage
        self._runs = spec.concurrent_runs
        """Why it may not write, if it may not."""
        self.is_outlawed = False
        """Whether it was ended for what another one must not go on with."""
        self.is_ready = False
        """Whether its readiness byte has come."""
        # Who has been told of it.
        self._launcher: LauncherProcess | None = None
        self._egress: EgressProcess | None = None
        self.exit_reason = ""
        """What we know of why it ends, when its own status does not say it."""

    @property
    def pid(self) -> int | None:
        """Its process id, once it is known."""
        return self._child.pid if self._child else None

    async def start(
        self,
        zygote: ZygoteProcess,
        jail: JailSpec,
        admission: Admission | None = None,
    ) -> None:
        """Have it forked.

        Args:
            zygote: By whom.
            jail: How it is jailed.
            admission: Puts it under its tenant's caps; that it is ready is not heard before.

        Raises:
            SpawnError: the zygote could not.
            OSError: there are no descriptors left.
        """
        entrances = () if admission is None else admission.entrances
        newborn = await zygote.spawn(jail, msgspec.msgpack.encode(self.spec), entrances)
        LogPump(newborn.stderr, self._log)
        if admission is not None:
            try:
                await admission.admit(newborn.child.pid)
            except OSError as error:
                self.signal(signal.SIGKILL, f"it cannot be put into its cgroup: {error}")
        self._newborn = newborn
        self._child, self._channel = newborn.child, newborn.channel
        newborn.adopt(self._on_exit)
        if self._ends_at_birth:
            self._child.signal(signal.SIGKILL)
        # Its launcher first: the front's first call may need it.
        self._owner.on_born(self)
        with contextlib.suppress(OSError):  # it has ended, and its status will say why
            self._first_front = self.new_front_link()
        self._ready_reader = newborn.ready
        os.set_blocking(self._ready_reader, False)
        asyncio.get_running_loop().add_reader(self._ready_reader, self._on_ready_pipe)
        self._end = await aio.attach(newborn.link, ACCEPTS, self)
        if self.storage != self.spec.storage:  # it has changed meanwhile
            self.tell_storage(self.storage)
        if self._runs != self.spec.concurrent_runs:
            self._send_runs()

    def new_front_link(self) -> socket.socket:
        """Make a link between the worker and a front; gives the front's end, to be closed.

        Raises:
            OSError: the worker is gone, or takes none any more.
        """
        if self._first_front is not None:
            front, self._first_front = self._first_front, None
            poll = select.poll()
            poll.register(front, select.POLLHUP)
            if poll.poll(0):  # it has thrown its end away
                front.close()
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            return front
        assert self._channel is not None
        front, worker = socket.socketpair()
        with worker:
            descriptors.send(self._channel, b"front", [worker.fileno()])
        return front

    def introduce(self, around: Introducing) -> None:
        """Make it known to the present launcher and egress, unless they know it."""
        if self.pid is None:
            return
        tenant, generation = self.spec.tenant, self.spec.generation
        launcher, present = around.launcher, around.egress
        with contextlib.suppress(OSError):  # it has ended, or takes nothing any more
            if launcher is not None and self._launcher is not launcher:
                self._launcher = launcher
                self._meet_launcher(launcher, around.place_of(tenant, generation))
            if present is not None and self._egress is not present:
                self._egress = present
                self._meet_egress(present, around.egress_place_of(tenant, generation))

    def _meet_launcher(self, launcher: LauncherProcess, place: launching.Place) -> None:
        assert self._channel is not None
        link, theirs = socket.socketpair()
        channel, their_channel = descriptors.pair()
        channel.shutdown(socket.SHUT_RD)  # a worker hands over nothing
        with link, theirs, channel, their_channel:
            ends = [theirs.fileno(), their_channel.fileno()]
            payload = LAUNCHER + msgspec.msgpack.encode(place.ceilings)
            descriptors.send(self._channel, payload, ends)
            launcher.place(place, link, channel)

    def _meet_egress(self, present: EgressProcess, place: EgressPlace) -> None:
        assert self._channel is not None
        link, theirs = socket.socketpair()
        with link, theirs:
            descriptors.send(self._channel, EGRESS, [theirs.fileno()])
            present.place(place, link)

    def loses_links(self) -> bool:
        """Note that it closed its link to the front; say whether it does so all the time."""
        now = asyncio.get_running_loop().time()
        lost = self._links_lost
        often = len(lost) == LINKS_LOST_MAX and now - lost[0] < LINKS_LOST_WINDOW_SECONDS
        lost.append(now)
        return often

    def was_killed_by_others(self, status: Exit | None) -> bool:
        """Say whether it was killed, and not by us."""
        return status is not None and status.signal == signal.SIGKILL and not self.exit_reason

    def death(self, status: Exit | None, cause: str, *, starved: bool) -> Death:
        """Give its end; `status` is None for one that could not be started.

        `starved` is one that the kernel ended for want of memory, as it looks.
        """
        now = asyncio.get_running_loop().time()
        code, number = status or (None, None)
        uptime = now - self.started_at
        out_of_memory = starved or code == EXIT_OUT_OF_MEMORY
        generation, outlawed = self.spec.generation, self.is_outlawed
        return Death(now, code, number, cause, uptime, generation, out_of_memory, outlawed)

    def ping(self) -> int:
        """Ask for a sign of life; gives how many earlier ones were not answered."""
        if self._end is None or self._end.closed:
            return 0
        missed = self._end.link.ping()
        self._end.flush()
        self._pings += 1
        self._pinged_at[self._pings] = asyncio.get_running_loop().time()
        return missed

    def change_settings(self, settings: WorkerSettings) -> None:
        """Give it other settings than those of its start."""
        if self._end is not None and not self._end.closed:
            told = (self._idle_seconds_min, settings.idle_seconds)
            # What it says now may still be by the old one.
            self._idle_seconds_min = min((seconds for seconds in told if seconds > 0), default=0.0)
            self._end.link.send(frames.Event("settings", msgspec.json.encode(settings)))
            self._end.flush()

    def tell_storage(self, refusal: StorageRefusal | None) -> None:
        """Have it write no more, or again."""
        self.storage = refusal
        if self._end is not None and not self._end.closed:
            self._end.link.send(frames.Event("storage", msgspec.json.encode(refusal)))
            self._end.flush()

    def tell_runs(self, most: int | None) -> None:
        """Have it run so many turns at a time, None for the bound."""
        if self._runs != most:
            self._runs = most
            self._send_runs()

    def _send_runs(self) -> None:
        if self._end is not None and not self._end.closed:
            self._end.link.send(frames.Event("runs", msgspec.json.encode(self._runs)))
            self._end.flush()

    def drain(self, seconds: float) -> None:
        """Have it finish what it does, and end."""
        if self._end is not None and not self._end.closed:
            self._drains = True
            self._end.link.send(frames.Drain(seconds))
            self._end.flush()

    def signal(self, number: signal.Signals, reason: str = "") -> None:
        """Send it a signal, and keep why; one that is not forked yet is ended when it is."""
        if self._child is None:
            self._ends_at_birth = True
            self.exit_reason = self.exit_reason or reason
        elif not self._child.ended:
            self.exit_reason = self.exit_reason or reason
            self._child.signal(number)

    def abort(self) -> None:
        """Have it say where it hangs, and end it soon after."""
        reason = HUNG if self.is_ready else LATE
        self.signal(signal.SIGABRT, reason)
        self.set_timer(limits.ABORT_GRACE_SECONDS, lambda: self.signal(signal.SIGKILL, reason))

    def end_within(self, seconds: float) -> None:
        """End it when it has not done so itself by then, and a little later."""
        seconds += limits.ABORT_GRACE_SECONDS
        self.set_timer(seconds, lambda: self.signal(signal.SIGKILL, OVERDUE))

    def set_timer(self, seconds: float, then: Callable[[], object]) -> None:
        """Do something after a while, unless it has ended, is ready or another timer is set."""
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, then)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_ready_pipe(self) -> None:
        try:
            data = os.read(self._ready_reader, 1)
        except BlockingIOError:
            return
        self._close_ready_pipe()
        if data:
            self.is_ready = True
            if self._newborn is not None:
                self._newborn.note_start()
            if not self.exit_reason:  # else the timer is what ends it
                self._cancel_timer()
            self._owner.on_ready(self)

    def _close_ready_pipe(self) -> None:
        if self._ready_reader >= 0:
            asyncio.get_running_loop().remove_reader(self._ready_reader)
            os.close(self._ready_reader)
            self._ready_reader = -1

    def _on_exit(self, status: Exit) -> None:
        self._cancel_timer()
        self._close_ready_pipe()
        if self._end is not None:
            self._end.close()
        for sock in (self._channel, self._first_front):
            if sock is not None:
                sock.close()
        if status.code is not None:
            self.exit_reason = self.exit_reason or REASONS.get(status.code, "")
        self._owner.on_exit(self, status)

    # protocol.aio.LinkHandler

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        """See `LinkHandler`. A worker may ask the supervisor for nothing: its link ends before."""

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. As `on_call`."""

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. As `on_call`."""

    def on_notice(self, end: aio.LinkEnd, frame: frames.Frame) -> None:
        """See `LinkHandler`. `Drained` is followed by its exit, which is what counts.

        Raises:
            RemoteProtocolError: it is not the time for this.
        """
        match frame:
            case frames.Pong(nonce):
                self._lag.observe(asyncio.get_running_loop().time() - self._pinged_at[nonce])
                self._pinged_at = {at: sent for at, sent in self._pinged_at.items() if at > nonce}
            case frames.Drained() if not self._drains:
                reason = "it says that it has drained, unasked"
                raise RemoteProtocolError(reason)
            case frames.Event("idle", body):
                self._owner.on_idle(self, self._read_idle(body).wake_at_ms)
            case frames.Event():
                reason = "an event that nobody knows"
                raise RemoteProtocolError(reason)
            case _:
                pass

    def _read_idle(self, body: bytes) -> Idle:
        age = asyncio.get_running_loop().time() - self.started_at
        if not 0 < self._idle_seconds_min <= age:
            # One that parks whenever it likes would have the zygote fork all the time.
            reason = f"it says that it was idle, {age:.3f} s old"
            raise RemoteProtocolError(reason)
        try:
            return msgspec.json.decode(body, type=Idle)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            reason = f"an idle event that cannot be read: {error}"
            raise RemoteProtocolError(reason) from error

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`."""
        # Closed with something unread, it looks reset; that is no breach.
        if reason is not None and not isinstance(reason, OSError):
            self._owner.on_broken(self, str(reason))
        else:
            # Mostly it has just ended, and its status says more than its link does.
            asyncio.get_running_loop().call_later(limits.ABORT_GRACE_SECONDS, self._on_link_closed)

    def _on_link_closed(self) -> None:
        if self._child is not None and not self._child.ended:
            self._owner.on_broken(self, "it closed its link")
