"""The supervisor's side of one worker process: one generation of one tenant, start to end."""

import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from protocol import aio, descriptors, frames, limits
from protocol.errors import RemoteProtocolError
from protocol.spawn import EXIT_OUT_OF_MEMORY, Idle, WorkerSpec
from supervisor.child import Child, Exit
from supervisor.logs import Log, LogPump
from supervisor.zygote.spec import JailSpec
from supervisor.zygote_process import SpawnDescriptors, ZygoteProcess

ACCEPTS: Final = frozenset({frames.Pong, frames.Event, frames.Drained})
"""Each of them only when it is due: nothing that a worker could send without end is taken."""
LINKS_LOST_MAX: Final = 3
LINKS_LOST_WINDOW_SECONDS: Final = 60.0
OUT_OF_MEMORY: Final = "it reached its memory limit (worker.memory_bytes)"


class WorkerOwner(Protocol):
    """Who decides about the process."""

    def on_ready(self, process: "WorkerProcess") -> None:
        """The readiness byte came."""

    def on_idle(self, process: "WorkerProcess", wake_at_ms: int | None) -> None:
        """It has had nothing to do for a while, and wants to be woken at that time (Unix ms)."""

    def on_broken(self, process: "WorkerProcess", reason: str) -> None:
        """It broke its link, or closed it."""

    def on_exit(self, process: "WorkerProcess", status: Exit) -> None:
        """It has ended."""


class WorkerProcess:
    """One worker process.

    Args:
        spec: What it is told.
        owner: Who decides.
        log: For what it writes to standard error, bound to its tenant.
    """

    def __init__(self, spec: WorkerSpec, owner: WorkerOwner, log: Log) -> None:
        self.spec: Final = spec
        self.started_at: Final = asyncio.get_running_loop().time()
        self._owner: Final = owner
        self._log: Final = log
        self._child: Child | None = None
        self._end: aio.LinkEnd | None = None
        self._channel: socket.socket | None = None
        self._ready_reader = -1
        self._timer: asyncio.TimerHandle | None = None
        self._drains = False
        self._links_lost: deque[float] = deque(maxlen=LINKS_LOST_MAX)
        self.is_ready = False
        """Whether its readiness byte has come."""
        self.exit_reason = ""
        """What we know of why it ends, when its own status does not say it."""

    @property
    def pid(self) -> int | None:
        """Its process id, once it is known."""
        return self._child.pid if self._child else None

    async def start(self, zygote: ZygoteProcess, jail: JailSpec) -> None:
        """Have it forked.

        Raises:
            SpawnError: the zygote could not.
        """
        loop = asyncio.get_running_loop()
        link, their_link = socket.socketpair()
        self._channel, their_channel = descriptors.pair()
        self._channel.setblocking(False)
        ready_reader, ready_writer = os.pipe()
        log_reader, log_writer = os.pipe()
        LogPump(log_reader, self._log)
        theirs = SpawnDescriptors(
            their_link.fileno(), their_channel.fileno(), ready_writer, log_writer
        )
        try:
            with their_link, their_channel:
                pid = await zygote.spawn(jail, msgspec.msgpack.encode(self.spec), theirs)
        except BaseException:
            os.close(ready_reader)
            link.close()
            self._channel.close()
            raise
        finally:
            os.close(ready_writer)
            os.close(log_writer)
        self._child = Child(pid, self._on_exit)
        self._ready_reader = ready_reader
        os.set_blocking(ready_reader, False)
        loop.add_reader(ready_reader, self._on_ready_pipe)
        self._end = await aio.attach(link, ACCEPTS, self)

    def new_front_link(self) -> socket.socket:
        """Make a link between the worker and a front; gives the front's end, to be closed.

        Raises:
            OSError: the worker is gone, or takes none any more.
        """
        assert self._channel is not None
        front, worker = socket.socketpair()
        with worker:
            descriptors.send(self._channel, b"front", [worker.fileno()])
        return front

    def loses_links(self) -> bool:
        """Note that it closed its link to the front; say whether it does so all the time."""
        now = asyncio.get_running_loop().time()
        lost = self._links_lost
        often = len(lost) == LINKS_LOST_MAX and now - lost[0] < LINKS_LOST_WINDOW_SECONDS
        lost.append(now)
        return often

    def ping(self) -> int:
        """Ask for a sign of life; gives how many earlier ones were not answered."""
        if self._end is None or self._end.closed:
            return 0
        missed = self._end.link.ping()
        self._end.flush()
        return missed

    def drain(self, seconds: float) -> None:
        """Have it finish what it does, and end."""
        if self._end is not None and not self._end.closed:
            self._drains = True
            self._end.link.send(frames.Drain(seconds))
            self._end.flush()

    def signal(self, number: signal.Signals, reason: str = "") -> None:
        """Send it a signal, and keep why."""
        if self._child is not None and not self._child.ended:
            self.exit_reason = self.exit_reason or reason
            self._child.signal(number)

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
        if self._channel is not None:
            self._channel.close()
        if status.code == EXIT_OUT_OF_MEMORY:
            self.exit_reason = self.exit_reason or OUT_OF_MEMORY
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
        if not 0 < self.spec.idle_seconds <= age:
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
