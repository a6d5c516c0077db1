"""Clients' way to TLS. Each takes its place before the handshake: no flood of them is free."""

import asyncio
import socket
import ssl
from typing import Final, Protocol

from protocol import limits
from supervisor.front.connection import Connection, House

ACCEPTS_AT_ONCE: Final = 64
ACCEPT_PAUSE_SECONDS: Final = 0.1


class Hall(House, Protocol):
    """What those who come in share."""

    def expect(self, connection: Connection, address: str) -> bool:
        """Take a place for a connection that is to come; False when there is none."""

    def expect_no_more(self, connection: Connection, address: str) -> None:
        """Give the place back, unless the connection has come."""


class TlsReception:
    """Accepts connections and puts TLS between the socket and the connection proper.

    Args:
        hall: What is shared.
        listener: The listening socket; closed with this.
        context: With the certificate.
    """

    def __init__(self, hall: Hall, listener: socket.socket, context: ssl.SSLContext) -> None:
        self._hall: Final = hall
        self._listener: Final = listener
        self._context: Final = context
        self._loop: Final = asyncio.get_running_loop()
        self._handshakes: Final[set[asyncio.Task[None]]] = set()
        self._pause: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Accept no more; handshakes under way go on to their deadline."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _resume(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, peer = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors or memory: not for long, we hope
                self._hall.log.broken("accept", error)
                self._loop.remove_reader(self._listener)
                self._pause = self._loop.call_later(ACCEPT_PAUSE_SECONDS, self._resume)
                return
            self._receive(sock, str(peer[0]))

    def _receive(self, sock: socket.socket, address: str) -> None:
        connection = Connection(self._hall)
        if not self._hall.expect(connection, address):
            sock.close()  # in the clear there is nothing that could be said to it
            return
        task = self._loop.create_task(self._secure(sock, connection, address))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _secure(self, sock: socket.socket, connection: Connection, address: str) -> None:
        sock.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=self._context,
                ssl_handshake_timeout=limits.TLS_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=limits.TLS_SHUTDOWN_SECONDS,
            )
        except OSError:  # ssl.SSLError and a time-out among them; the socket is closed
            pass
        except Exception as error:  # noqa: BLE001 - nobody waits for this task
            self._hall.log.broken("TLS handshake", error)
        finally:
            self._hall.expect_no_more(connection, address)
