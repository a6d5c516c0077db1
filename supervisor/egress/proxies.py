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
from supervisor.egress.proxy import CONNECTIONS_PER_SANDBOX_MAX, Proxy
from supervisor.front.log import Log

CONNECTIONS_PER_TENANT_MAX: Final = 256
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
        self._open: Final[dict[str, asyncio.Server]] = {}
        self._proxies: Final[dict[str, Proxy]] = {}
        self._connections: Final[Counter[str]] = Counter()
        self._starting: Final[set[asyncio.Task[None]]] = set()

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
        for sandbox_id in list(self._proxies):
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
        if listener.sandbox_id in self._proxies:
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
        self._proxies[listener.sandbox_id] = proxy
        task = self._loop.create_task(self._serve(listener.sandbox_id, proxy, sock))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _serve(self, sandbox_id: str, proxy: Proxy, sock: socket.socket) -> None:
        sock.setblocking(False)
        server = await asyncio.start_server(
            proxy.serve, sock=sock, backlog=CONNECTIONS_PER_SANDBOX_MAX
        )
        if self._proxies.get(sandbox_id) is proxy:
            self._open[sandbox_id] = server
        else:  # it has been shut meanwhile
            server.close()

    def _shut(self, sandbox_id: str) -> None:
        proxy = self._proxies.pop(sandbox_id, None)
        server = self._open.pop(sandbox_id, None)
        if server is not None:
            server.close()
        if proxy is not None:
            proxy.close()

    def _take_place(self, tenant: str) -> bool:
        if self._connections[tenant] >= CONNECTIONS_PER_TENANT_MAX:
            return False
        self._connections[tenant] += 1
        return True

    def _leave_place(self, tenant: str) -> None:
        self._connections[tenant] -= 1
        if not self._connections[tenant]:
            del self._connections[tenant]
