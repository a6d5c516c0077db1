"""The least that any two-process gateway does: parse HTTP, one msgspec frame there and one back.

`python baseline.py <answer file>` prints its port. No authentication, no limits, no routing.
"""

import abc
import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Final, cast

import httptools
import msgspec
import uvloop

_PREFIX: Final = 4


class Message(msgspec.Struct, array_like=True):
    """The one frame there is."""

    id: int
    body: bytes


_encode: Final = msgspec.msgpack.encode
_decode: Final = msgspec.msgpack.Decoder(Message).decode


class Frames(asyncio.Protocol, abc.ABC):
    """Cuts a stream into frames."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses

    def send(self, message: Message) -> None:
        body = _encode(message)
        self.transport.write(len(body).to_bytes(_PREFIX, "little") + body)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= _PREFIX:
            size = int.from_bytes(self._buffer[:_PREFIX], "little")
            if len(self._buffer) < _PREFIX + size:
                return
            frame = bytes(self._buffer[_PREFIX : _PREFIX + size])
            del self._buffer[: _PREFIX + size]
            self.on_message(_decode(frame))

    @abc.abstractmethod
    def on_message(self, message: Message) -> None:
        """Act on one frame."""


class Answering(Frames):
    """The second process: answers every frame with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self._answer: Final = answer

    def on_message(self, message: Message) -> None:
        self.send(Message(message.id, self._answer))

    def connection_lost(self, exc: Exception | None) -> None:
        os._exit(0)


class Forwarding(Frames):
    """The first process's end."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[int, Client] = {}
        self.last = 0

    def forward(self, client: "Client", body: bytes) -> None:
        self.last += 1
        self.waiting[self.last] = client
        self.send(Message(self.last, body))

    def on_message(self, message: Message) -> None:
        self.waiting.pop(message.id).answer(message.body)


class Client(asyncio.Protocol):
    """An HTTP connection."""

    def __init__(self, forwarding: Forwarding) -> None:
        self._forwarding: Final = forwarding
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        self._forwarding.forward(self, body)

    def answer(self, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )


async def answer_forever(sock: socket.socket, answer: bytes) -> None:
    """Run the second process."""
    await asyncio.get_running_loop().create_connection(lambda: Answering(answer), sock=sock)
    await asyncio.Event().wait()


async def forward_forever(sock: socket.socket) -> None:
    """Run the first process."""
    loop = asyncio.get_running_loop()
    _, forwarding = await loop.create_connection(Forwarding, sock=sock)
    server = await loop.create_server(lambda: Client(forwarding), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Start both processes."""
    answer = Path(sys.argv[1]).read_bytes()
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        uvloop.run(answer_forever(theirs, answer))
    else:
        theirs.close()
        uvloop.run(forward_forever(ours))


if __name__ == "__main__":
    main()
