"""The proxy of sandboxes that have a network: at the door of each, a listener in its own namespace.

Who asks is known from the listener, so that nobody says who it is. A profile names hosts and ports;
anything else is refused before a name is looked up, and what is named goes through the guard of all
that goes out. What is passed on is counted and charged.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

from protocol import egress, limits
from protocol.errors import STATUS_PHRASES, ErrorCode, GatewayError
from protocol.pace import Pace
from supervisor.egress.addresses import Guard
from supervisor.egress.hosts import host_port
from supervisor.egress.proxy_head import read_head
from supervisor.front.log import Log
from supervisor.handed import Handed

CHUNK_BYTES: Final = 64 * limits.KIB
LOOK_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 10.0
_ACCEPTED_AT_ONCE: Final = 16
_PAUSE_SECONDS: Final = 0.1
_DESCRIPTORS: Final = {egress.Listener: 1, egress.Closed: 0}
_FULL: Final = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"

Moved = Callable[[str, str, int], None]
"""Charges a tenant for bytes, of a kind."""
MaySpend = Callable[[str], None]
"""Raises the GatewayError QUOTA_EXCEEDED for a tenant that may spend nothing now."""


class _Door:
    """One sandbox's: its listener, its connections and what they have moved."""

    def __init__(self, listener: egress.Listener, sock: socket.socket) -> None:
        self.tenant: Final = listener.tenant
        self.profile: Final = listener.profile
        self.socket: Final = sock
        self.connections: Final[set[_Connection]] = set()
        self.pace: Final = Pace(limits.PROXY_CONNECTIONS_PER_SECOND, limits.PROXY_CONNECTIONS_BURST)
        self.moved = 0
        self.charged_at = 0.0


class Proxies:
    """All of them. Belongs to the running event loop.

    Args:
        settings: What is in force.
        moved: See `Moved`.
        may_spend: See `MaySpend`.
        log: For what only an operator must know.
    """

    def __init__(
        self,
        settings: Callable[[], egress.Settings],
        moved: Moved,
        may_spend: MaySpend,
        log: Log,
    ) -> None:
        self._settings: Final = settings
        self._moved: Final = moved
        self._may_spend: Final = may_spend
        self._log: Final = log
        self._loop: Final = asyncio.get_running_loop()
        self._handed: Handed[Any] | None = None
        self._doors: Final[dict[str, _Door]] = {}
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._looking: asyncio.TimerHandle | None = None
        self._known: tuple[egress.Settings, Guard] | None = None

    def use(self, channel: socket.socket) -> None:
        """Take listeners from another launcher; those of the one before it are closed."""
        self.close()
        channel.setblocking(False)
        self._handed = Handed(channel, egress.Door, _DESCRIPTORS, self._take, self._log)

    def close(self) -> None:
        """Accept nothing any more."""
        if self._handed is not None:
            self._handed.close()
        for sandbox_id in list(self._doors):
            self._end(sandbox_id)

    async def _take(self, message: egress.Door, ends: list[socket.socket]) -> None:
        self._end(message.sandbox_id)
        if isinstance(message, egress.Listener):
            (sock,) = ends
            sock.setblocking(False)
            door = self._doors[message.sandbox_id] = _Door(message, sock)
            door.charged_at = self._loop.time()
            self._listen(door)
            if self._looking is None:
                self._looking = self._loop.call_later(LOOK_SECONDS, self._look)

    def _end(self, sandbox_id: str) -> None:
        door = self._doors.pop(sandbox_id, None)
        if door is not None:
            self._loop.remove_reader(door.socket)
            door.socket.close()
            for connection in list(door.connections):
                connection.close()
            self._settle(door)

    # Connections.

    def _listen(self, door: _Door) -> None:
        if door.socket.fileno() >= 0:
            self._loop.add_reader(door.socket, self._accept, door)

    def _accept(self, door: _Door) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            if not door.pace.take(self._loop.time()):
                self._pause(door)
                return
            try:
                sock, _ = door.socket.accept()
            except BlockingIOError:
                return
            except OSError:
                # No descriptors are left, or it is no listener any more: not again at once.
                self._pause(door)
                return
            if self._is_full(door):
                with contextlib.suppress(OSError), sock:
                    sock.send(_FULL, socket.MSG_DONTWAIT)
                continue
            sock.setblocking(False)
            connection = _Connection(self, door, sock)
            door.connections.add(connection)
            self._run(connection.serve())

    def _pause(self, door: _Door) -> None:
        self._loop.remove_reader(door.socket)
        self._loop.call_later(_PAUSE_SECONDS, self._listen, door)

    def _is_full(self, door: _Door) -> bool:
        others = [each for each in self._doors.values() if each.tenant == door.tenant]
        return (
            len(door.connections) >= limits.PROXY_CONNECTIONS_PER_SANDBOX_MAX
            or sum(len(each.connections) for each in others)
            >= limits.PROXY_CONNECTIONS_PER_TENANT_MAX
            or len(self._tasks) >= limits.PROXY_CONNECTIONS_MAX
        )

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._log.broken("proxy", error)

    def check(self, door: _Door, host: str, port: int) -> None:
        """Let pass what a profile names, while its tenant may spend.

        Raises:
            GatewayError: FORBIDDEN; QUOTA_EXCEEDED.
        """
        self._may_spend(door.tenant)
        opened = self._settings().sandbox_hosts.get(door.profile, ())
        if (host, port) not in map(host_port, opened):
            message = f"{host}:{port}: is not among the hosts of the network {door.profile}"
            raise GatewayError(ErrorCode.FORBIDDEN, message, host=host)

    def guard(self) -> Guard:
        """Give what judges addresses now."""
        settings = self._settings()
        if self._known is None or self._known[0] is not settings:
            self._known = settings, Guard(settings.allow_hosts)
        return self._known[1]

    # What comes with time.

    def _look(self) -> None:
        now = self._loop.time()
        for door in self._doors.values():
            for connection in list(door.connections):
                if now - connection.active_at >= limits.PROXY_IDLE_SECONDS:
                    connection.close()
            if now - door.charged_at >= limits.PROXY_CHARGE_SECONDS:
                self._settle(door)
        self._looking = self._loop.call_later(LOOK_SECONDS, self._look) if self._doors else None

    def count(self, door: _Door, moved: int) -> None:
        """Take note of bytes that were passed on."""
        door.moved += moved
        if door.moved >= limits.PROXY_CHARGE_BYTES:
            self._settle(door)

    def _settle(self, door: _Door) -> None:
        door.charged_at = self._loop.time()
        moved, door.moved = door.moved, 0
        if moved:
            self._moved(door.tenant, "sandbox", moved)
            try:
                self._may_spend(door.tenant)
            except GatewayError:
                for connection in list(door.connections):
                    connection.close()


class _Connection:
    """One client's connection, and the one made for it.

    Args:
        owner: Where it is one of many.
        door: Whose.
        sock: The client's, taken over.
    """

    def __init__(self, owner: Proxies, door: _Door, sock: socket.socket) -> None:
        self._owner: Final = owner
        self._door: Final = door
        self._sock: Final = sock
        self._loop: Final = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self.active_at = self._loop.time()

    def close(self) -> None:
        """End both."""
        if self._task is not None:
            self._task.cancel()

    async def serve(self) -> None:
        """Serve it to its end."""
        self._task = asyncio.current_task()
        writers: list[asyncio.StreamWriter] = []
        try:
            reader, writer = await self._accepted()
            writers.append(writer)
            try:
                there = await self._outward(reader, writer, writers)
            except GatewayError as error:
                writer.write(_refusal(error))
            else:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(reader, there[1]))
                    both.create_task(self._pump(there[0], writer))
            writer.close()
            async with asyncio.timeout(limits.PROXY_HEAD_SECONDS):
                await writer.wait_closed()
        except* (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            pass  # one of them has gone, or takes nothing, or has been ended
        finally:
            self._door.connections.discard(self)
            for each in writers:
                each.transport.abort()
            if not writers:
                self._sock.close()

    async def _accepted(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader = asyncio.StreamReader(limit=limits.PROXY_HEAD_BYTES_MAX)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, self._sock)
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)

    async def _outward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        writers: list[asyncio.StreamWriter],
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Read what is asked for, and connect.

        Raises:
            GatewayError: it may not be had, or cannot.
        """
        try:
            async with asyncio.timeout(limits.PROXY_HEAD_SECONDS):
                data = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.LimitOverrunError, TimeoutError) as error:
            message = "proxy: the head of the request is too long, or does not come"
            raise GatewayError(ErrorCode.INVALID_REQUEST, message) from error
        asked = read_head(data)
        self._owner.check(self._door, asked.host, asked.port)
        there = await self._connect(asked.host, asked.port)
        writers.append(there[1])
        if asked.head is None:
            writer.write(_ESTABLISHED)
        else:
            there[1].write(asked.head)
            self._owner.count(self._door, len(asked.head))
        return there

    async def _connect(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        addresses = await self._owner.guard().resolve(host, port)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_SECONDS):
                for address in addresses:
                    with contextlib.suppress(OSError):
                        return await asyncio.open_connection(
                            address.ip, address.port, limit=CHUNK_BYTES
                        )
        raise GatewayError(ErrorCode.UNAVAILABLE, f"{host}:{port}: cannot be reached now")

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            self.active_at = self._loop.time()
            self._owner.count(self._door, len(data))
            writer.write(data)
            await writer.drain()
            self.active_at = self._loop.time()
        if writer.can_write_eof():
            writer.write_eof()


def _refusal(error: GatewayError) -> bytes:
    body = f"{error.message}\n".encode()
    status = error.code.http_status
    head = (
        b"HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"
        b"Connection: close\r\n\r\n"
    )
    return head % (status, STATUS_PHRASES[status].encode(), len(body)) + body
