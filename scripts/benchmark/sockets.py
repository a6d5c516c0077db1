"""WebSockets: calls over them against calls over HTTP, and what idle ones cost."""

import asyncio
import base64
import ipaddress
import json
import resource
import socket
import statistics
import struct
import time
from typing import Any, Final, cast

import psutil
import uvloop

from scripts.benchmark import load
from tests.e2e.gateway import Gateway

IDLE_PER_TENANT: Final = 1000
IDLE_PER_ADDRESS: Final = 1000
HOME: Final = ipaddress.IPv4Address("127.0.0.2")
_KEY: Final = base64.b64encode(bytes(16)).decode()


def upgrade(token: str) -> bytes:
    """Give the bytes of a request that opens one."""
    return (
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {_KEY}\r\n\r\n"
    ).encode()


def text(data: bytes) -> bytes:
    """Give a frame as a client sends it; a mask of zeros leaves the text as it is."""
    size = len(data)
    length = struct.pack("!B", 0x80 | size) if size < 126 else struct.pack("!BH", 0xFE, size)  # noqa: PLR2004 - RFC 6455, section 5.2
    return b"\x81" + length + bytes(4) + data


class _Socket(asyncio.Protocol):
    """Sends its next call when the last is answered."""

    def __init__(self, token: str, call: bytes, latencies: list[float], stop_at: float) -> None:
        self.done: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        self.failures = 0
        self._upgrade: Final = upgrade(token)
        self._call: Final = call
        self._latencies: Final = latencies
        self._stop_at: Final = stop_at
        self._buffer = b""
        self._opened = False
        self._transport: asyncio.Transport
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses
        self._transport.write(self._upgrade)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._opened:
            head, mark, self._buffer = self._buffer.partition(b"\r\n\r\n")
            if not mark:
                self._buffer = head
                return
            self._opened = True
            self._send()
            return
        if not _is_whole(self._buffer):
            return
        now = time.perf_counter()
        self._latencies.append(now - self._sent_at)
        self.failures += b'"result"' not in self._buffer[:64]
        self._buffer = b""
        if now < self._stop_at:
            self._send()
        else:
            self._transport.close()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._call)

    def connection_lost(self, exc: Exception | None) -> None:
        self.failures += exc is not None or bool(self._buffer)
        if not self.done.done():
            self.done.set_result(None)


def _is_whole(data: bytes) -> bool:
    """Say whether a server's frame has come in to its end."""
    size = data[1] if len(data) > 1 else 1 << 62
    head = 2
    if size == 126 and len(data) >= 4:  # noqa: PLR2004 - RFC 6455, section 5.2
        head, size = 4, int.from_bytes(data[2:4], "big")
    elif size == 127 and len(data) >= 10:  # noqa: PLR2004 - as above
        head, size = 10, int.from_bytes(data[2:10], "big")
    return len(data) >= head + size


def run(
    address: tuple[str, int], token: str, call: bytes, connections: int, seconds: float
) -> load.Load:
    """Send a call over and over on all connections; gives rate and latencies."""
    latencies: list[float] = []
    message = text(call)

    async def drive() -> int:
        loop = asyncio.get_running_loop()
        stop_at = time.perf_counter() + seconds
        opened = [
            (
                await loop.create_connection(
                    lambda: _Socket(token, message, latencies, stop_at), *address
                )
            )[1]
            for _ in range(connections)
        ]
        await asyncio.gather(*(connection.done for connection in opened))
        return sum(connection.failures for connection in opened)

    started = time.perf_counter()
    failures = uvloop.run(drive())
    elapsed = time.perf_counter() - started
    return load.Load(
        len(latencies) / elapsed,
        load.percentile(latencies, 50) * 1000,
        load.percentile(latencies, 99) * 1000,
        failures,
    )


def against_http(gateway: Gateway, rounds: int, seconds: float) -> dict[str, Any]:
    """`sessions.list` of 50 sessions at 64 connections, over the one and over the other."""
    token = gateway.create("sockets")
    for number in range(50):
        gateway.rpc(token, "sessions.create", label=f"session {number}")
    call = json.dumps(
        {"jsonrpc": "2.0", "id": 1, "method": "sessions.list", "params": {}}, separators=(",", ":")
    ).encode()
    host, port = gateway.address.split(":")
    address = host, int(port)
    sockets, http = [], []
    for _ in range(rounds):
        sockets.append(run(address, token, call, 64, seconds))
        http.append(load.run(address, [load.post("/rpc", call, token)], 64, seconds))
    return {
        "websocket": load.summary(sockets),
        "http": load.summary(http),
        "rate_ratio": round(
            statistics.median(
                one.requests_per_second / other.requests_per_second
                for one, other in zip(sockets, http, strict=True)
            ),
            3,
        ),
    }


def idle(gateway: Gateway, count: int) -> dict[str, Any]:
    """What the front grows by for each WebSocket that is open and silent."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    host, port = gateway.address.split(":")
    front = gateway.process("openclaw: front")
    tenants = -(-count // IDLE_PER_TENANT)
    tokens = [gateway.create(f"idle-{number}") for number in range(tenants)]
    opened: list[socket.socket] = []
    try:
        # What the first ones bring with them is no cost of each.
        opened += [_open((host, int(port)), tokens[0], HOME) for _ in range(50)]
        before = psutil.Process(front.pid).memory_info().rss
        for number in range(count):
            # Of one address there may be only so many.
            home = HOME + 1 + number // IDLE_PER_ADDRESS
            opened.append(_open((host, int(port)), tokens[number // IDLE_PER_TENANT], home))
        after = psutil.Process(front.pid).memory_info().rss
    finally:
        for sock in opened:
            sock.close()
    return {"idle": count, "bytes_each": round((after - before) / count)}


def _open(address: tuple[str, int], token: str, home: ipaddress.IPv4Address) -> socket.socket:
    sock = socket.create_connection(address, timeout=20, source_address=(str(home), 0))
    sock.sendall(upgrade(token))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(4096)
    if not head.startswith(b"HTTP/1.1 101 "):
        msg = f"no WebSocket: {head[:200]!r}"
        raise RuntimeError(msg)
    return sock
