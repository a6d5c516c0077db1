"""The supervisor's side of a process that can become one worker, and waits to be told whose."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Final

from protocol import descriptors
from supervisor.child import Child, Exit
from supervisor.zygote.spec import TOLD, WAITING


class Newborn:
    """One process that the zygote is asked for. Whoever takes it over closes its ends.

    Raises:
        OSError: there are no descriptors left.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as undo:
            self.link, self._their_link = (undo.enter_context(end) for end in socket.socketpair())
            self.channel, self._their_channel = map(undo.enter_context, descriptors.pair())
            pipes: list[int] = []
            for _ in range(2):
                pipes += os.pipe()
                undo.callback(os.close, pipes[-1])
                undo.callback(os.close, pipes[-2])
            undo.pop_all()
        self.ready, self._their_ready, self.stderr, self._their_stderr = pipes
        self.channel.setblocking(False)
        self._child: Child | None = None
        self._status: Exit | None = None
        self._on_exit: Callable[[Exit], None] = lambda _: None
        self._loop: Final = asyncio.get_running_loop()
        self.waits: Final[asyncio.Future[bool]] = self._loop.create_future()
        """Whether it has got as far as to wait for its order."""
        self.started: Final[asyncio.Future[None]] = self._loop.create_future()
        """Done when it serves, or has ended; told by who has taken it over."""
        self._told: Final[asyncio.Future[bool]] = self._loop.create_future()

    @property
    def child(self) -> Child:
        """The process, once it runs."""
        assert self._child is not None
        return self._child

    @property
    def theirs(self) -> tuple[int, int, int, int]:
        """What it is born with, in the order in which the zygote expects it."""
        ends = self._their_link.fileno(), self._their_channel.fileno()
        return (*ends, self._their_ready, self._their_stderr)

    def close_theirs(self) -> None:
        """Close our copies of its ends, when the zygote has been asked."""
        self._their_link.close()
        self._their_channel.close()
        os.close(self._their_ready)
        os.close(self._their_stderr)

    def runs(self, pid: int, on_exit: Callable[[Exit], None]) -> None:
        """Watch it from here on; until `adopt` its end is told to `on_exit`."""
        self._on_exit = on_exit
        self._child = Child(pid, self._ended)
        self._loop.add_reader(self.channel, self._on_channel)

    def tell(self, order: bytes, entrances: Sequence[int] = ()) -> bool:
        """Send it its order, and by what it enters its cgroup; False if it is gone."""
        try:
            descriptors.send(self.channel, order, entrances)
        except OSError:
            return False
        return True

    async def told(self) -> bool:
        """Wait until it has read its order; False if it has ended. Bound the wait outside."""
        return await asyncio.shield(self._told)

    def adopt(self, on_exit: Callable[[Exit], None]) -> None:
        """Have its end told to somebody else, also if it has come already."""
        self._on_exit = on_exit
        if self._status is not None:
            self._loop.call_soon(on_exit, self._status)

    def note_start(self) -> None:
        """Say that it serves."""
        if not self.started.done():
            self.started.set_result(None)

    def close(self) -> None:
        """Close our ends, at which it ends if it has not been told anything."""
        self._stop_reading()
        self.link.close()
        self.channel.close()
        os.close(self.ready)
        os.close(self.stderr)

    def kill(self) -> None:
        """End it at once."""
        self.child.signal(signal.SIGKILL)

    def _on_channel(self) -> None:
        try:
            message, _ = descriptors.receive(self.channel, descriptors_max=0)
        except BlockingIOError:
            return
        except (EOFError, OSError, descriptors.DescriptorMessageError):
            self._stop_reading()
            return
        if message == WAITING and not self.waits.done():
            self.waits.set_result(True)
        elif message == TOLD:
            # From here on it is a worker's, which has nothing to say here.
            self._loop.remove_reader(self.channel)
            if not self._told.done():
                self._told.set_result(True)

    def _stop_reading(self) -> None:
        if self.channel.fileno() >= 0:
            self._loop.remove_reader(self.channel)
        for answer in (self.waits, self._told):
            if not answer.done():
                answer.set_result(False)

    def _ended(self, status: Exit) -> None:
        self._status = status
        self._stop_reading()
        self.note_start()
        self._on_exit(status)
