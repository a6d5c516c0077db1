"""A WebSocket client that can break every rule, and the library's for the good path."""

import json
import os
import struct
from typing import Any, Final, NamedTuple

from tests.supervisor.front.harness import ACME, Client, Front, request, soon

TEXT, BINARY, CLOSE, PING, PONG, CONT = 1, 2, 8, 9, 10, 0
KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455, section 1.3
ACCEPT: Final = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
UPGRADE: Final = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {KEY}",
)


def upgrade(*extra: str, token: str | None = ACME, host: str = "localhost") -> bytes:
    """Give a request that opens a WebSocket."""
    return request("/ws", None, *UPGRADE, *extra, token=token, host=host)


def frame(
    data: bytes = b"",
    opcode: int = TEXT,
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """Give a frame (RFC 6455, section 5.2); `length` is what it claims to have."""
    first = fin << 7 | reserved << 4 | opcode
    size = len(data) if length is None else length
    mask_bit = masked << 7
    if size < 126:
        head = struct.pack("!BB", first, mask_bit | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, mask_bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, size)
    if not masked:
        return head + data
    mask = os.urandom(4)
    whole = mask * (len(data) // 4 + 1)
    bits = int.from_bytes(data, "big") ^ int.from_bytes(whole[: len(data)], "big")
    return head + mask + bits.to_bytes(len(data), "big")


def message(method: str = "echo", request_id: Any = 1, **more: Any) -> bytes:
    """Give a frame with a call."""
    call = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {}} | more
    return frame(json.dumps(call).encode())


class Received(NamedTuple):
    """One frame from the front."""

    opcode: int
    data: bytes

    @property
    def code(self) -> int:
        """The number in a close frame."""
        assert self.opcode == CLOSE, self
        return int(struct.unpack("!H", self.data[:2])[0])

    @property
    def json(self) -> Any:
        assert self.opcode == TEXT, self
        return json.loads(self.data)


class RawSocket:
    """An open WebSocket."""

    def __init__(self, client: Client) -> None:
        self.client: Final = client

    async def send(self, data: bytes) -> None:
        await self.client.send(data)

    async def receive(self) -> Received:
        reader = self.client.reader
        first, size = await soon(reader.readexactly(2))
        assert first & 0x70 == 0
        assert first & 0x80
        assert size & 0x80 == 0, "a server masks nothing"
        if size == 126:
            (size,) = struct.unpack("!H", await soon(reader.readexactly(2)))
        elif size == 127:
            (size,) = struct.unpack("!Q", await soon(reader.readexactly(8)))
        return Received(first & 0x0F, await soon(reader.readexactly(size)))

    async def ask(self, data: bytes) -> Any:
        await self.send(data)
        return (await self.receive()).json

    async def subscribe(self, **params: Any) -> None:
        answer = await self.ask(message("events.subscribe", "subscribe", params=params))
        assert answer["result"] == {"subscribed": True}

    async def closed_with(self) -> int:
        """The code with which the front has closed, and nothing after it."""
        code = (await self.receive()).code
        assert await self.client.at_end()
        return code

    async def close(self) -> None:
        await self.client.close()


async def open_socket(
    front: Front, *extra: str, token: str | None = ACME, receive_buffer: int = 0
) -> RawSocket:
    client = await front.connect(receive_buffer=receive_buffer)
    await client.send(upgrade(*extra, token=token))
    head = await client.head()
    assert head.status == 101, head
    assert head.headers["sec-websocket-accept"] == ACCEPT
    return RawSocket(client)
