"""A client of `/terminal`, for tests of the whole gateway."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.e2e.gateway import Gateway

SECONDS = 20.0


class Terminal:
    """An open WebSocket, and all that has come on it."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.told: list[dict[str, Any]] = []
        self.data = b""
        self.next = 0
        self.first()

    def first(self) -> None:
        self._take(self._connection.recv(SECONDS))
        if self.told[-1]["type"] == "attached":
            self.next = self.told[-1]["fromByte"]

    @property
    def id(self) -> str:
        assert self.told[0]["type"] == "attached", self.told
        return str(self.told[0]["terminalId"])

    def _take(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self.data += message
            self.next += len(message)
        else:
            self.told.append(json.loads(message))

    def send(self, data: bytes) -> None:
        self._connection.send(data)

    def control(self, **told: Any) -> None:
        self._connection.send(json.dumps(told))

    def until(self, holds: Callable[[bytes], object]) -> bytes:
        """Take what comes until this holds for all of it; gives and forgets that."""
        deadline = time.monotonic() + SECONDS
        while not holds(self.data):
            assert time.monotonic() < deadline, self.data[-2000:]
            self._take(self._connection.recv(SECONDS))
        seen, self.data = self.data, b""
        return seen

    def word(self) -> dict[str, Any]:
        """Take what comes until something is told."""
        count = len(self.told)
        while len(self.told) == count:
            self._take(self._connection.recv(SECONDS))
        return self.told[-1]

    def expect(self, text: bytes) -> bytes:
        return self.until(lambda data: text in data)

    def run(self, line: str) -> str:
        """Have a shell run a line whose output has none like it; gives the output."""
        self.send(f"{line}; echo E''ND\n".encode())
        seen = self.until(lambda data: b"END\r\n" in data).decode()
        return seen.rpartition("END\r\n")[0].partition("ND\r\n")[2]

    def end(self) -> dict[str, Any]:
        """Take what comes to the end; gives what was told last."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._take(self._connection.recv(SECONDS))
        return self.told[-1]

    @property
    def closed_with(self) -> int | None:
        return self._connection.close_code

    def drop(self) -> None:
        """Lose the connection, without a word."""
        self._connection.socket.close()


@contextmanager
def terminal(gateway: Gateway, token: str, **query: Any) -> Iterator[Terminal]:
    protocols = [Subprotocol("openclaw.terminal.v1"), Subprotocol(f"bearer.{token}")]
    address = f"ws://{gateway.address}/terminal?{urlencode(query)}"
    with connect(
        address, subprotocols=protocols, compression=None, max_size=None, close_timeout=1
    ) as connection:
        yield Terminal(connection)
