"""The supervisor's side of a process that all tenants share, and that is spoken to over a link."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from protocol import aio, descriptors, frames, limits
from supervisor.child import FIRST_DESCRIPTOR, Child, Exit, start_python
from supervisor.logs import Log, LogPump

EXIT_SECONDS: Final = 5.0


class Greeting(NamedTuple):
    """The first message on a descriptor channel, with the descriptors that come with it."""

    message: msgspec.Struct
    given: Sequence[int] = ()


class Told(NamedTuple):
    """An event that the process sends: what its body is, and who takes it."""

    kind: type[Any]
    take: Callable[[Any], None]


class SharedProcess:
    """One such process, from its start to its end.

    Args:
        name: What the log calls it.
        events: What it may tell, by topic; other topics are passed over.
        on_exit: Called once when it has ended.
        log: For what it writes to standard error.
    """

    def __init__(
        self, name: str, events: Mapping[str, Told], on_exit: Callable[[Exit], None], log: Log
    ) -> None:
        self._name: Final = name
        self._events: Final = events
        self._on_exit: Final = on_exit
        self._log: Final = log
        self._end: aio.LinkEnd
        self._channel: socket.socket | None = None
        self._child: Child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._child.ended

    async def _begin(
        self,
        program: Sequence[str],
        accepts: frozenset[type],
        *arguments: str,
        greeting: Greeting | None = None,
    ) -> None:
        """Start the process; what it is told from here on waits until it reads.

        Args:
            program: What the interpreter runs; its first arguments are the numbers of its
                descriptors.
            accepts: The frames that it may send.
            arguments: Its others.
            greeting: With it there is a descriptor channel beside the link, which begins with it.

        Raises:
            OSError: it cannot be started.
        """
        ours, link = socket.socketpair()
        reader, writer = os.pipe()
        with contextlib.ExitStack() as theirs:
            given = [theirs.enter_context(link)]
            if greeting is not None:
                self._channel, channel = descriptors.pair()
                given.append(theirs.enter_context(channel))
            numbers = [str(FIRST_DESCRIPTOR + place) for place in range(len(given))]
            pid = start_python(
                (*program, *numbers, *arguments), [sock.fileno() for sock in given], writer
            )
        os.close(writer)
        LogPump(reader, self._log)
        self._child = Child(pid, self._on_exit)
        if self._channel is not None and greeting is not None:
            self._channel.setblocking(False)
            self._send(*greeting)
        self._end = await aio.attach(ours, accepts, self)

    def _send(self, message: msgspec.Struct, given: Sequence[int]) -> None:
        assert self._channel is not None
        descriptors.send(self._channel, msgspec.msgpack.encode(message), given)

    def _hand(self, message: msgspec.Struct, given: Sequence[int], what: str, tenant: str) -> None:
        """Hand it descriptors of a tenant's; one that does not take them is replaced."""
        try:
            self._send(message, given)
        except OSError as error:
            # Its queue is full or it is gone: in both cases the next one gets all of them again.
            self._log.warning(f"{self._name} takes no {what}", tenant=tenant, error=str(error))
            self.kill()

    def _tell(self, topic: str, message: msgspec.Struct) -> None:
        if not self._end.closed:
            self._end.link.send(frames.Event(topic, msgspec.json.encode(message)))
            self._end.flush()

    def check_alive(self) -> None:
        """Ping it; one that has missed three is killed and will be replaced."""
        if not self._end.closed:
            missed = self._end.link.ping()
            self._end.flush()
            if missed >= limits.PING_MISSES_MAX:
                self._log.error(f"{self._name} hangs")
                self.kill()

    async def stop(self) -> None:
        """End it: it leaves when its link is closed, and what it started goes with it."""
        self._end.close()
        await self._end_within(EXIT_SECONDS)

    async def _end_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._child.wait()
        except TimeoutError:
            self.kill()
            await self._child.wait()

    def kill(self) -> None:
        """End it at once."""
        self._child.signal(signal.SIGKILL)

    # protocol.aio.LinkHandler

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        """See `LinkHandler`. The link takes no calls."""

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. Whatever it asks for is short and is not cut off."""

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. Nothing is streamed to it."""

    def on_notice(self, end: aio.LinkEnd, frame: frames.Frame) -> None:
        """See `LinkHandler`."""
        if isinstance(frame, frames.Event) and frame.topic in self._events:
            told = self._events[frame.topic]
            told.take(msgspec.json.decode(frame.body, type=told.kind))

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`. Without its link it is of no use, and leaves by itself."""
        if self._channel is not None:
            self._channel.close()
        if reason is not None:
            self._log.error(f"{self._name} broke its link", reason=str(reason))
            self.kill()
