"""The doors of sandboxes, as the launcher hands them over: a proxy answers at each."""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from protocol import descriptors
from protocol.egress import Closed, Door, Listener, Settings
from supervisor.egress.proxy import PIECE_BYTES, Proxy
from supervisor.front.log import Log

CONNECTIONS_PER_TENANT_MAX: Final = 256
RETRY_SECONDS: Final = 0.1
_decode: Final = msgspec.msgpack.Decoder(Door).decode

Moved = Callable[[str, str, int], None]
"""Charges a tenant for bytes, of a kind."""


class Proxies:
    """See the module.

    Args:
        settings: What is in force.
        moved: Charges for what goes through.
        log: For what only an operator must know.
    """

    def __init__(self, settings: Callable[[], Settings], moved: Moved, log: Log) -> None:
        self._settings: Final = settings
        self._moved: Final = moved
        self._log: Final = log
        self._loop: Final = asyncio.get_running_loop()
        self._channel: socket.socket | None = None
        self._open: Final[dict[str, _Door]] = {}
        self._connections: Final[Counter[str]] = Counter()

    def use(self, channel: socket.socket) -> None:
        """Take doors from the present launcher; those of an earlier one have ended with it."""
        self.close()
        channel.setblocking(False)
        self._channel = channel
        self._loop.add_reader(channel, self._receive, channel)

    def close(self) -> None:
        """Close all doors."""
        if self._channel is not None:
            self._loop.remove_reader(self._channel)
            self._channel.close()
            self._channel = None
        for sandbox_id in list(self._open):
            self._shut(sandbox_id)

    def _receive(self, channel: socket.socket) -> None:
        while channel is self._channel:
            try:
                payload, received = descriptors.receive(channel, 1)
            except BlockingIOError:
                return
            except (EOFError, OSError, descriptors.DescriptorMessageError):
                self.close()
                return
            try:
                message = _decode(payload)
            except msgspec.DecodeError as error:
                self._log.broken("channel of listeners", error)
                message = None
            if isinstance(message, Listener) and received:
                self._admit(message, socket.socket(fileno=received.pop()))
            elif isinstance(message, Closed):
                self._shut(message.sandbox_id)
            for descriptor in received:
                os.close(descriptor)

    def _admit(self, listener: Listener, sock: socket.socket) -> None:
        if listener.sandbox_id in self._open:
            sock.close()
            return
        tenant = listener.tenant
        proxy = Proxy(
            lambda: self._settings().sandbox_hosts.get(listener.profile, ()),
            lambda: self._settings().allow_hosts,
            lambda: self._take_place(tenant),
            lambda: self._leave_place(tenant),
            lambda count: self._moved(tenant, "sandbox", count),
        )
        sock.setblocking(False)
        door = self._open[listener.sandbox_id] = _Door(sock, proxy)
        door.watch()

    def _shut(self, sandbox_id: str) -> None:
        door = self._open.pop(sandbox_id, None)
        if door is not None:
            door.close()

    def _take_place(self, tenant: str) -> bool:
        if self._connections[tenant] >= CONNECTIONS_PER_TENANT_MAX:
            return False
        self._connections[tenant] += 1
        return True

    def _leave_place(self, tenant: str) -> None:
        self._connections[tenant] -= 1
        if not self._connections[tenant]:
            del self._connections[tenant]


class _Door:
    """One listener, and who answers there.

    It listens already: egress itself may not make anything listen, so that is not asked of a server
    of asyncio's.
    """

    def __init__(self, listener: socket.socket, proxy: Proxy) -> None:
        self._listener: Final = listener
        self._proxy: Final = proxy
        self._loop: Final = asyncio.get_running_loop()
        self._meeting: Final[set[asyncio.Task[None]]] = set()
        self._again: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Take who comes."""
        self._again = None
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Take nobody, and let go of who came."""
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        self._proxy.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # there are no descriptors left: others have to go first
            self._loop.remove_reader(self._listener)
            self._again = self._loop.call_later(RETRY_SECONDS, self.watch)
            return
        sock.setblocking(False)
        task = self._loop.create_task(self._meet(sock))
        self._meeting.add(task)
        task.add_done_callback(self._meeting.discard)

    async def _meet(self, sock: socket.socket) -> None:
        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(
                asyncio.StreamReader(limit=PIECE_BYTES), self._proxy.serve
            )

        try:
            await self._loop.connect_accepted_socket(protocol, sock)
        except OSError:
            sock.close()
