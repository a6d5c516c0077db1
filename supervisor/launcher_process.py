"""The supervisor's side of the launcher: start it, hand it the workers, replace it."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from protocol import aio, descriptors, frames, launching, limits
from protocol.errors import GatewayError
from protocol.link import ANSWERS, LIVENESS
from protocol.spawn import LinkLost
from supervisor.child import FIRST_DESCRIPTOR, Child, Exit, start_python
from supervisor.logs import Log, LogPump

ACCEPTS: Final = ANSWERS | LIVENESS | {frames.Event}
END_SECONDS: Final = 10.0
EXIT_SECONDS: Final = 5.0
COMMAND: Final = (
    "-I",
    "-m",
    "supervisor.launcher",
    str(FIRST_DESCRIPTOR),
    str(FIRST_DESCRIPTOR + 1),
)


class LauncherProcess:
    """One launcher process, from its start to its end.

    Args:
        spec: What it is told first.
        on_link_lost: Gets its word that a link to a worker has ended.
        on_terminal: Gets its word that a terminal has begun or ended.
        on_exit: Called once when it has ended.
        log: For what it writes to standard error.
    """

    def __init__(
        self,
        spec: launching.LauncherSpec,
        on_link_lost: Callable[[LinkLost], None],
        on_terminal: Callable[[launching.TerminalEvent], None],
        on_exit: Callable[["LauncherProcess", Exit], None],
        log: Log,
    ) -> None:
        self._spec: Final = spec
        self._on_link_lost: Final = on_link_lost
        self._on_terminal: Final = on_terminal
        self._on_exit: Final = on_exit
        self._log: Final = log
        self._end: aio.LinkEnd
        self._channel: socket.socket
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
        """Start the process; what it is handed from here on waits until it serves.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = socket.socketpair()
        self._channel, their_channel = descriptors.pair()
        reader, writer = os.pipe()
        with theirs, their_channel:
            pid = start_python(COMMAND, (theirs.fileno(), their_channel.fileno()), writer)
        os.close(writer)
        LogPump(reader, self._log)
        self._child = Child(pid, lambda status: self._on_exit(self, status))
        self._channel.setblocking(False)
        descriptors.send(self._channel, msgspec.msgpack.encode(self._spec))
        self._end = await aio.attach(ours, ACCEPTS, self)

    def place(self, place: launching.Place, link: socket.socket, channel: socket.socket) -> None:
        """Hand it a worker: its end of the data link and of the descriptor channel."""
        try:
            message = msgspec.msgpack.encode(place)
            descriptors.send(self._channel, message, [link.fileno(), channel.fileno()])
        except OSError as error:
            # Its queue is full or it is gone: in both cases a new launcher gets all of them again.
            self._log.warning("launcher takes no worker", tenant=place.tenant, error=str(error))
            self.kill()

    async def end_tenant(self, tenant: str) -> None:
        """Have everything end that runs for a tenant, and wait for it, not for ever.

        A process that the kernel cannot end (in the middle of a slow disk, say) must not cost the
        other tenants theirs: that it still ends is said, and gone on.

        Raises:
            LinkClosedError: it has ended, and its sandboxes with it.
        """
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._end.call("tenant.end", launching.TenantEnd(tenant=tenant))
        except (GatewayError, TimeoutError) as error:
            self._log.error("sandboxes still end", tenant=tenant, error=str(error))

    def hold(self, hold: launching.Hold) -> None:
        """Have a tenant run nothing, or again."""
        if not self._end.closed:
            self._end.link.send(frames.Event("hold", msgspec.json.encode(hold)))
            self._end.flush()

    def check_alive(self) -> None:
        """Ping it; one that has missed three is killed and will be replaced."""
        if not self._end.closed:
            missed = self._end.link.ping()
            self._end.flush()
            if missed >= limits.PING_MISSES_MAX:
                self._log.error("launcher hangs")
                self.kill()

    async def stop(self) -> None:
        """End it: it leaves when its link is closed, and what it started goes with it."""
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
            case frames.Event("worker.link_lost", body):
                self._on_link_lost(msgspec.json.decode(body, type=LinkLost))
            case frames.Event("terminal.event", body):
                self._on_terminal(msgspec.json.decode(body, type=launching.TerminalEvent))

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`. A launcher without its link is of no use, and leaves by itself."""
        self._channel.close()
        if reason is not None:
            self._log.error("launcher broke its link", reason=str(reason))
            self.kill()
