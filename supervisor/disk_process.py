"""The supervisor's side of the process that counts what is on the disk."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from protocol import aio, frames, limits
from protocol.link import LIVENESS
from supervisor.caps.disk_messages import Counted, Floor, Forgotten, Left, Watched
from supervisor.child import FIRST_DESCRIPTOR, Child, Exit, start_python
from supervisor.logs import Log, LogPump

EXIT_SECONDS: Final = 5.0


class DiskProcess:
    """One such process, from its start to its end.

    Args:
        tenants: The directory of the tenants' directories.
        uid: As whom it runs.
        on_told: Gets what it has found.
        on_exit: Called once when it has ended.
        log: For what it writes to standard error.
    """

    def __init__(
        self,
        tenants: Path,
        uid: int,
        on_told: Callable[[Counted | Left], None],
        on_exit: Callable[["DiskProcess", Exit], None],
        log: Log,
    ) -> None:
        self._arguments: Final = (str(tenants), str(uid))
        self._on_told: Final = on_told
        self._on_exit: Final = on_exit
        self._log: Final = log
        self._end: aio.LinkEnd
        self._child: Child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._child.ended

    async def start(self) -> None:
        """Start the process; what it is told from here on waits until it reads.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe()
        command = ("-I", "-m", "supervisor.caps.disk", str(FIRST_DESCRIPTOR), *self._arguments)
        with theirs:
            pid = start_python(command, (theirs.fileno(),), writer)
        os.close(writer)
        LogPump(reader, self._log)
        self._child = Child(pid, lambda status: self._on_exit(self, status))
        self._end = await aio.attach(ours, LIVENESS | {frames.Event}, self)

    def watch(self, watched: Watched) -> None:
        """Have a tenant counted whenever it could have come over its bounds."""
        self._tell("watch", watched)

    def forget(self, tenant: str) -> None:
        """Have it counted no more."""
        self._tell("forget", Forgotten(tenant=tenant))

    def set_floor(self, floor_bytes: int) -> None:
        """Say what is to stay free."""
        self._tell("floor", Floor(bytes=floor_bytes))

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
                self._log.error("disk hangs")
                self.kill()

    async def stop(self) -> None:
        """End it: it leaves when its link is closed."""
        self._end.close()
        try:
            async with asyncio.timeout(EXIT_SECONDS):
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
        """See `LinkHandler`. As `on_call`."""

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. As `on_call`."""

    def on_notice(self, end: aio.LinkEnd, frame: frames.Frame) -> None:
        """See `LinkHandler`."""
        match frame:
            case frames.Event("counted", body):
                self._on_told(msgspec.json.decode(body, type=Counted))
            case frames.Event("left", body):
                self._on_told(msgspec.json.decode(body, type=Left))
            case _:
                pass

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`. Without its link it is of no use, and leaves by itself."""
        if reason is not None:
            self._log.error("disk broke its link", reason=str(reason))
            self.kill()
