"""Fuzzes `/ws`: the upgrade, and the frames after it, whole and torn.

Whatever comes, nothing escapes and nothing of ours is broken; what is answered is HTTP or frames
that the library's client takes; and at the end the tenant has every byte back.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, cast

import atheris
from websockets.protocol import Protocol, Side, State

with atheris.instrument_imports(include=["supervisor.front"]):
    from protocol import names
    from protocol.aio import OnReply
    from protocol.errors import LinkClosedError
    from protocol.meters import FrontMeters
    from protocol.methods import ALL_SCOPES
    from protocol.spawn import TenantAccess, TokenGrant
    from supervisor.front.addresses import Proxies
    from supervisor.front.auth import TokenTable
    from supervisor.front.connection import Connection
    from supervisor.front.failures import Failures
    from supervisor.front.gate import Counts
    from supervisor.front.routes import Routes
    from supervisor.front.sockets import Sockets
    from supervisor.front.supervised import Supervised
    from supervisor.front.tenants import Tenant
from supervisor.front.turns import Turns
from tests.fuzz._corpus import plant

TOKEN = "tk_acme_" + "a1" * 16
HEAD = (
    f"GET /ws HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
).encode()
CALL = b'{"jsonrpc":"2.0","method":"m","id":1}'
SUBSCRIBE = b'{"jsonrpc":"2.0","method":"events.subscribe","id":"s","params":{"events":["chat"]}}'


def frame(data: bytes, first: int = 0x81) -> bytes:
    return bytes([first, 0x80 | len(data)]) + bytes(4) + data


# What comes is made of these, picked by byte.
TOKENS = [
    HEAD,
    b"\r\n",
    *(b"Origin: http://localhost\r\n", b"Origin: null\r\n", b"Content-Length: 1\r\n"),
    *(b"Sec-WebSocket-Protocol: openclaw.v1, bearer.x\r\n", b"Upgrade: h2c\r\n", b"X: \0\r\n"),
    *(frame(CALL), frame(SUBSCRIBE), frame(b"[%b,7,%b]" % (CALL, SUBSCRIBE[:40] + b'"}'))),
    *(frame(b"[]"), frame(b"\xff"), frame(b"", 0x80), frame(CALL[:9], 0x01), frame(CALL[9:], 0x80)),
    *(frame(b"p", 0x89), frame(b"", 0x8A), frame(b"\x03\xe8", 0x88), frame(b"\x03", 0x88)),
    *(frame(CALL, 0xC1), frame(CALL, 0x82), frame(b"", 0x8B), b"\x81\x05hello"),
    *(b"\x81\xff" + b"\x7f" + b"\xff" * 7, b"\x81\xfe\x00", b"\0", b"\xff" * 9),
]


class LoudLog:
    """Takes no mistake of our own."""

    def info(self, event: str, **_fields: object) -> None:
        pass

    def warning(self, event: str, **_fields: object) -> None:
        pass

    def broken(self, event: str, error: BaseException) -> None:
        raise AssertionError(event) from error


class Surroundings:
    """What a front is to its connections; no worker ever comes."""

    def __init__(self) -> None:
        self.log = LoudLog()
        self.incoming = memoryview(bytearray(64))
        self.turns = Turns()
        self.counts = Counts(lambda _counts: None)
        self.failures = Failures(cast("Any", self.log), Proxies)
        self.tokens = TokenTable()
        self.sockets = Sockets(8, lambda _address: None)
        self.draining = False
        self.hosts = frozenset({"localhost"})
        self.origins: frozenset[str] = frozenset()
        self.loaded = True
        self.condition = "ready"
        self.version = "1.2.3"
        self.notices: tuple[str, ...] = ()
        self.bytes_in_flight = 0
        self.control_calls = 0
        self.meters = FrontMeters()
        self.routes = Routes(self)  # type: ignore[arg-type]
        self.supervised = Supervised(frozenset(), self.ask_supervisor, self.now)
        self.acme = Tenant("acme", self)
        digests = {names.digest(TOKEN).hex(): TokenGrant(id="tok_1", scopes=int(ALL_SCOPES))}
        self.tokens.put(self.acme, TenantAccess(tenant="acme", enabled=True, tokens=digests))

    def now(self) -> float:
        return 1000.0

    def ask_supervisor(self, method: str, params: bytes, on_reply: OnReply) -> None:
        raise LinkClosedError(method)

    def holding(self, tenant: Tenant, *, holds: bool) -> None:
        pass

    def enter(self, _connection: object, _address: str) -> bool:
        return True

    def see_off(self, _connection: object) -> bool:
        return True

    def leave(self, _connection: object, _address: str) -> None:
        pass

    def pass_on(self, _connection: object) -> None:
        pass


class Transport:
    """Keeps what is written; is always at once taken."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.protocol: asyncio.Protocol | asyncio.BufferedProtocol
        self.closed = False

    def give(self, data: bytes) -> None:
        if isinstance(self.protocol, asyncio.BufferedProtocol):
            memoryview(self.protocol.get_buffer(-1))[: len(data)] = data
            self.protocol.buffer_updated(len(data))
        else:
            self.protocol.data_received(data)

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close
    write_eof = close

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol

    def get_extra_info(self, _name: str) -> tuple[str, int]:
        return "127.0.0.1", 1

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    resume_reading: Callable[["Transport"], None] = pause_reading


def check(written: bytes) -> None:
    """Read back what was answered, once there is a WebSocket."""
    head, mark, rest = written.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 ") or not mark:
        return
    client = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
    client.receive_data(rest)
    assert client.parser_exc is None


def test_one_input(data: bytes) -> None:
    """First byte: how long the pieces are; the others pick what comes."""
    size = 1 + data[0] % 64 if data else 64
    stream = b"".join(TOKENS[pick % len(TOKENS)] for pick in data[1:40])
    around, transport = Surroundings(), Transport()
    transport.protocol = Connection(around)  # type: ignore[arg-type]
    transport.protocol.connection_made(transport)  # type: ignore[arg-type]
    for start in range(0, len(stream), size):
        transport.give(stream[start : start + size])
    transport.protocol.connection_lost(None)
    check(bytes(transport.written))
    assert around.bytes_in_flight == 0
    assert len(around.sockets) == 0


def seeds() -> list[bytes]:
    """Handshakes that succeed, with frames after them, in pieces of some lengths."""
    return [
        bytes([63, 0, 1, 8, 9, 10, 17]),
        bytes([0, 0, 1, 14, 16, 15, 19]),
        bytes([7, 0, 2, 1, 8, 13]),
        bytes([63, 0, 5, 1]),
    ]


if __name__ == "__main__":
    plant(sys.argv, seeds())
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
