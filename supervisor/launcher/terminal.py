"""One terminal: a sandbox with a pty, whose last output is kept for whoever watches it.

What the program says is read whether somebody watches or not, so that it never waits for nobody;
no faster than `TERMINAL_BYTES_PER_SECOND`, since one process holds the terminals of all tenants. It
waits for watchers before something is forgotten that none of them has had, but only for a while:
a watcher that takes nothing for `TERMINAL_STALL_SECONDS` sees by the numbers what it has missed.
"""

import asyncio
import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable
from math import inf
from typing import Final, NamedTuple, Protocol

import msgspec

from protocol import launching, limits
from protocol.errors import ErrorCode, GatewayError
from supervisor.launcher.engine import Job, Outcome, Size
from supervisor.launcher.readable import readable
from supervisor.launcher.scrollback import Scrollback

# As much as is read before others have their turn.
READ_BYTES: Final = 64 * limits.KIB
# So much output comes at once before the pace counts.
BURST_SECONDS: Final = 0.05
# What its programs have left in the kernel when all of them have ended; more is lost.
LEFT_BYTES_MAX: Final = 1 * limits.MIB
LEFT_SECONDS: Final = 2.0
_SIGKILL: Final = 9


class Stream(Protocol):
    """Where a watcher's chunks go."""

    on_credit: Callable[[], None] | None

    @property
    def credit(self) -> int:
        """How many chunks are taken now."""

    def send(self, chunk: bytes) -> None:
        """Send one; costs one credit."""

    def finish(self, ended: launching.Ended) -> None:
        """Send how the terminal ended; nothing comes after it."""


class Facts(NamedTuple):
    """What a terminal is, from its start on."""

    sandbox_id: str
    mode: launching.Mode
    name: str
    started_at_ms: int


class _Watcher:
    """Gives the output to one stream, as fast as that takes it.

    Attributes:
        next: The number of the byte that it gets next.
        stalled: It has taken nothing for too long; nobody waits for it.
    """

    def __init__(
        self,
        scrollback: Scrollback,
        stream: Stream,
        from_byte: int,
        on_progress: Callable[[], None],
    ) -> None:
        self.next = from_byte
        self.stalled = False
        self._scrollback: Final = scrollback
        self._stream: Final = stream
        self._on_progress: Final = on_progress
        stream.on_credit = self._go_on

    def pump(self) -> bool:
        """Send what there is and is taken; says whether that was anything."""
        before = self.next
        while self._stream.credit > 0 and self.next < self._scrollback.end:
            number, data = self._scrollback.read(self.next, limits.TERMINAL_CHUNK_BYTES_MAX)
            self._stream.send(launching.terminal_chunk(number, data))
            self.next = number + len(data)
        moved = self.next > before
        self.stalled = self.stalled and not moved
        return moved

    def finish(self, ended: launching.Ended) -> bool:
        """Tell of the end, if all before it has been sent."""
        if self.next < self._scrollback.end:
            return False
        self._stream.on_credit = None
        self._stream.finish(ended)
        return True

    def part(self) -> None:
        """Send nothing more."""
        self._stream.on_credit = None

    def _go_on(self) -> None:
        if self.pump():
            self._on_progress()


class Terminal:
    """See the module.

    Args:
        facts: What it is.
        size: Its first.
        job: The sandbox, with a terminal.
        now: Monotonic seconds.
        now_ms: The time of day, in Unix ms.
        on_ended: Called once, when all is over and the job can be closed.
    """

    def __init__(
        self,
        facts: Facts,
        size: Size,
        job: Job,
        now: Callable[[], float],
        now_ms: Callable[[], int],
        on_ended: Callable[["Terminal"], None],
    ) -> None:
        assert job.terminal is not None
        self.facts: Final = facts
        self.ended: launching.Ended | None = None
        self.ended_at = inf
        self._size = size
        self._job: Final = job
        self._descriptor: Final[int] = job.terminal
        self._now: Final = now
        self._now_ms: Final = now_ms
        self._on_ended: Final = on_ended
        self._loop: Final = asyncio.get_running_loop()
        self._scrollback: Final = Scrollback(limits.TERMINAL_SCROLLBACK_BYTES_MAX)
        self._watchers: Final[dict[Stream, _Watcher]] = {}
        self._reason: launching.TerminalEnd = "exit"
        # Reading.
        self._is_reading = self._is_over = False
        self._paid_until = 0.0
        self._rest: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._end_of_output: Final = asyncio.Event()
        # Writing.
        self._turn: Final = asyncio.Lock()
        self._writes = 0
        self._had: Final[OrderedDict[str, int]] = OrderedDict()
        self._input_room: asyncio.Future[None] | None = None
        self._touch()
        self._read_on()
        self._end: Final = self._loop.create_task(self._wait())

    # What a tenant may know of it.

    @property
    def active_at(self) -> float:
        """When somebody last wrote to it or read from it, in monotonic seconds."""
        return self._active_at

    def view(self) -> launching.Terminal:
        """Give what it is now."""
        return launching.Terminal(
            sandbox_id=self.facts.sandbox_id,
            mode=self.facts.mode,
            name=self.facts.name,
            columns=self._size.columns,
            rows=self._size.rows,
            started_at_ms=self.facts.started_at_ms,
            active_at_ms=self._active_at_ms,
            from_byte=self._scrollback.start,
            next_byte=self._scrollback.end,
            attached=len(self._watchers),
            ended=self.ended,
        )

    # What a tenant may do.

    def attach(self, stream: Stream, from_byte: int | None) -> None:
        """Give what it is and the output to a stream, until it is detached or all is over.

        The stream takes at least one chunk.

        Raises:
            GatewayError: INVALID_REQUEST: that byte is not there yet; RATE_LIMITED: too many watch.
        """
        if from_byte is not None and from_byte > self._scrollback.end:
            msg = f"fromByte: there are only {self._scrollback.end} bytes so far"
            raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="fromByte")
        if len(self._watchers) >= limits.TERMINAL_WATCHERS_MAX:
            msg = f"at most {limits.TERMINAL_WATCHERS_MAX} can watch a terminal"
            raise GatewayError(ErrorCode.RATE_LIMITED, msg)
        stream.send(msgspec.json.encode(self.view()))
        first = max(self._scrollback.start, from_byte or 0)
        watcher = _Watcher(self._scrollback, stream, first, self._on_progress)
        self._watchers[stream] = watcher
        self._touch()
        self._pump()

    def detach(self, stream: Stream) -> None:
        """Give it nothing more."""
        watcher = self._watchers.pop(stream, None)
        if watcher is not None:
            watcher.part()
            self._look_for_stall()

    async def write(self, data: bytes, writer: str, at: int) -> int:
        """Type; gives how many of the bytes it has, all unless its program does not read.

        Args:
            data: What.
            writer: Who numbers its bytes; empty for one that does not.
            at: The number of the first byte.

        Raises:
            GatewayError: CONFLICT: it has ended; RATE_LIMITED: too many wait; INVALID_REQUEST:
                bytes before these are missing.
        """
        if self._writes >= limits.TERMINAL_WRITES_WAITING_MAX:
            msg = "too much waits to be written to the terminal; its program does not read"
            raise GatewayError(ErrorCode.RATE_LIMITED, msg)
        self._touch()
        had = at
        self._writes += 1
        try:
            async with asyncio.timeout(limits.TERMINAL_WRITE_SECONDS), self._turn:
                had = self._had.get(writer, 0) if writer else at
                if at > had:
                    msg = f"at: the terminal has had only {had} bytes of this writer"
                    raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="at")
                while had < at + len(data):
                    had += await self._write_some(memoryview(data)[had - at :])
                    self._note_writer(writer, had)
        except TimeoutError:
            pass
        finally:
            self._writes -= 1
        return min(max(had - at, 0), len(data))

    def resize(self, size: Size) -> None:
        """Give it another size, and tell its program.

        Raises:
            GatewayError: CONFLICT: it has ended.
        """
        self._check_runs()
        self._touch()
        self._size = size
        self._job.resize(size)

    def end(self, reason: launching.TerminalEnd) -> None:
        """End it and everything in it; without effect when it ends already."""
        if self._reason == "exit" and self.ended is None:
            self._reason = reason
            self._job.kill()

    async def wait(self) -> None:
        """Wait until all is over. Bound the wait outside."""
        await asyncio.shield(self._end)

    # Inside: reading.

    def _touch(self) -> None:
        self._active_at, self._active_at_ms = self._now(), self._now_ms()

    def _read_on(self) -> None:
        if not (self._is_reading or self._is_over or self._rest or self._end_of_output.is_set()):
            self._is_reading = True
            self._loop.add_reader(self._descriptor, self._on_readable)

    def _read_no_more(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._descriptor)

    def _on_readable(self) -> None:
        if self._must_wait():
            self._read_no_more()
            return
        count = self._read(READ_BYTES)
        now = self._loop.time()
        self._paid_until = max(now, self._paid_until) + count / limits.TERMINAL_BYTES_PER_SECOND
        if self._paid_until - now > BURST_SECONDS:
            self._read_no_more()
            self._rest = self._loop.call_at(self._paid_until, self._rested)
        self._pump()

    def _rested(self) -> None:
        self._rest = None
        self._read_on()

    def _read(self, most: int, *, forget: bool = True) -> int:
        """Read what there is, up to `most` and a little more; gives how much that was."""
        count = 0
        while count < most:
            try:
                data = os.read(self._descriptor, READ_BYTES)
            except BlockingIOError:
                break
            except OSError:  # EIO: nobody has the other side of a pty open any more
                data = b""
            if not data:
                self._read_no_more()
                self._end_of_output.set()
                break
            self._scrollback.add(data, forget=forget)
            count += len(data)
        return count

    def _pump(self) -> None:
        for stream, watcher in list(self._watchers.items()):
            if watcher.pump():
                self._touch()
            if self.ended is not None and watcher.finish(self.ended):
                del self._watchers[stream]

    # Inside: waiting for those who watch.

    def _must_wait(self) -> bool:
        """Say whether to read on would have bytes forgotten that nobody has had."""
        waited_for = [watcher.next for watcher in self._watchers.values() if not watcher.stalled]
        # A read may give as much again as was asked for.
        if not waited_for or self._scrollback.room(max(waited_for)) >= 2 * READ_BYTES:
            return False
        if self._stall is None:
            self._stall = self._loop.call_later(limits.TERMINAL_STALL_SECONDS, self._on_stall)
        return True

    def _on_stall(self) -> None:
        self._stall = None
        for watcher in self._watchers.values():
            watcher.stalled = True
        self._read_on()

    def _on_progress(self) -> None:
        self._touch()
        if self.ended is not None:
            self._pump()
        self._look_for_stall()

    def _look_for_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
            self._read_on()

    # Inside: writing.

    def _check_runs(self) -> None:
        if self.ended is not None:
            raise GatewayError(ErrorCode.CONFLICT, "the terminal has ended")

    async def _write_some(self, data: memoryview) -> int:
        while True:
            self._check_runs()
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                await self._wait_for_room()
            except OSError as error:
                # Its programs have all gone, and it is about to end.
                msg = "the terminal has ended"
                raise GatewayError(ErrorCode.CONFLICT, msg) from error

    async def _wait_for_room(self) -> None:
        self._input_room = room = self._loop.create_future()
        self._loop.add_writer(self._descriptor, self._on_input_room)
        try:
            await room
        finally:
            self._on_input_room()

    def _on_input_room(self) -> None:
        room, self._input_room = self._input_room, None
        if room is not None:
            self._loop.remove_writer(self._descriptor)
            if not room.done():
                room.set_result(None)

    def _note_writer(self, writer: str, had: int) -> None:
        if writer:
            self._had[writer] = had
            self._had.move_to_end(writer)
            if len(self._had) > limits.TERMINAL_WRITERS_MAX:
                self._had.popitem(last=False)

    # Inside: the end.

    async def _wait(self) -> None:
        try:
            outcome = await self._job.wait()
        except (GatewayError, OSError):
            outcome = Outcome(None, _SIGKILL)
        await self._read_what_is_left()
        self.ended = launching.Ended(
            exit_code=outcome.exit_code, signal=outcome.signal, reason=self._reason
        )
        self.ended_at = self._now()
        for timer in (self._rest, self._stall):
            if timer is not None:
                timer.cancel()
        self._read_no_more()
        self._on_input_room()
        self._pump()
        self._on_ended(self)

    async def _read_what_is_left(self) -> None:
        """Read on to the end of the output, which is near; nothing is forgotten for it any more."""
        self._read_no_more()
        self._is_over = True
        deadline = self._loop.time() + LEFT_SECONDS
        left = LEFT_BYTES_MAX
        while left > 0 and not self._end_of_output.is_set() and self._loop.time() < deadline:
            count = self._read(READ_BYTES, forget=False)
            left -= count
            self._pump()
            if not count and not self._end_of_output.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline):
                        await readable(self._descriptor)
