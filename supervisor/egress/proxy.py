"""A proxy for one sandbox: it opens the hosts of a profile, and nothing else.

It speaks HTTP/1.1 as proxies do (RFC 9110, sections 7.3.2 and 9.3.6): `CONNECT host:port` for a
tunnel, and requests with an absolute `http://` target, one a connection. Who calls is known from
the listener. Hosts are looked up here, once, and judged as every other address that egress reaches.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from supervisor.egress.addresses import Guard
from supervisor.egress.hosts import canonical

CONNECTIONS_PER_SANDBOX_MAX: Final = 64
HEAD_BYTES_MAX: Final = 16 * limits.KIB
HEAD_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 120.0
PIECE_BYTES: Final = 64 * limits.KIB
CHARGE_BYTES: Final = 16 * limits.MIB
"""So much is charged for at once; the rest at the end of a connection."""

_LINE: Final = re.compile(rb"([A-Z]{1,20}) ([!-~]{1,2048}) HTTP/1\.[01]")
_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/@]+):(?P<port>[0-9]{1,5})")
_PORT: Final = 80
# What is between a client and its next hop alone (RFC 9110, section 7.6.1).
_HOP: Final = (b"proxy-", b"connection", b"keep-alive", b"te", b"upgrade")
_REASONS: Final = {400: b"Bad Request", 403: b"Forbidden", 429: b"Too Many Requests"} | {
    502: b"Bad Gateway",
    431: b"Request Header Fields Too Large",
}


class _RefusedError(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Asked(NamedTuple):
    """Where to, and what is said there first; a tunnel says nothing."""

    host: str
    port: int
    first: bytes


class Proxy:
    """See the module.

    Args:
        hosts: The profile's, `host:port`, as they are now.
        allow_hosts: Internal addresses that the operator has opened.
        take_place: Counts a connection of the tenant's; says whether it may be.
        leave_place: Counts it no more.
        charge: Charges for bytes.
    """

    def __init__(
        self,
        hosts: Callable[[], Collection[str]],
        allow_hosts: Callable[[], tuple[str, ...]],
        take_place: Callable[[], bool],
        leave_place: Callable[[], None],
        charge: Callable[[int], None],
    ) -> None:
        self._hosts: Final = hosts
        self._allow_hosts: Final = allow_hosts
        self._take_place: Final = take_place
        self._leave_place: Final = leave_place
        self._charge: Final = charge
        self._serving: Final[set[asyncio.Task[None]]] = set()

    def close(self) -> None:
        """End every connection."""
        for task in self._serving:
            task.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            if len(self._serving) > CONNECTIONS_PER_SANDBOX_MAX or not self._take_place():
                writer.write(_answer(429, "too many connections"))
                return
            try:
                await self._serve(reader, writer)
            finally:
                self._leave_place()
        except (OSError, asyncio.CancelledError, asyncio.IncompleteReadError, TimeoutError):
            pass  # one of the two ends has gone, or the sandbox has ended
        finally:
            self._serving.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await _read_head(reader)
            asked = _understood(head)
            there, back = await self._connected(asked)
        except _RefusedError as refused:
            writer.write(_answer(refused.status, str(refused)))
            await writer.drain()
            return
        try:
            if asked.first:
                back.write(asked.first)
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            count = _Count(self._charge)
            try:
                await _both(reader, writer, there, back, count)
            finally:
                count.finish()
        finally:
            back.close()

    async def _connected(self, asked: _Asked) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            host = canonical(asked.host)
            if not any(host_and_port == (host, asked.port) for host_and_port in self._opened()):
                message = f"{asked.host}:{asked.port} is not open to this sandbox"
                raise _RefusedError(403, message)
            guard = Guard(self._allow_hosts())
            addresses = await guard.resolve(host, asked.port)
        except GatewayError as error:
            status = 403 if error.code is ErrorCode.FORBIDDEN else 502
            raise _RefusedError(status, error.message) from error
        for address in addresses:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await asyncio.open_connection(
                        address.ip, address.port, family=address.family, limit=PIECE_BYTES
                    )
        raise _RefusedError(502, f"{asked.host}:{asked.port} cannot be reached")

    def _opened(self) -> list[tuple[str, int]]:
        found = []
        for text in self._hosts():
            host, _, port = text.rpartition(":")
            found.append((canonical(host), int(port)))
        return found


class _Count:
    """Bytes that were moved, charged for in lots."""

    def __init__(self, charge: Callable[[int], None]) -> None:
        self._charge: Final = charge
        self._owed = 0

    def add(self, count: int) -> None:
        self._owed += count
        if self._owed >= CHARGE_BYTES:
            self.finish()

    def finish(self) -> None:
        if self._owed:
            owed, self._owed = self._owed, 0
            self._charge(owed)


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) > HEAD_BYTES_MAX:
            raise _RefusedError(431, "the head of the request is too long")
        more = await reader.read(PIECE_BYTES)
        if not more:
            raise ConnectionResetError
        head += more
    return head


def _understood(head: bytes) -> _Asked:
    """Read the head of a request, and what has come behind it.

    Raises:
        _RefusedError: it is none for a proxy.
    """
    before, _, behind = head.partition(b"\r\n\r\n")
    line, *fields = before.split(b"\r\n")
    found = _LINE.fullmatch(line)
    if found is None:
        raise _RefusedError(400, "this is no request of HTTP/1.1")
    verb, target = found[1], found[2].decode("ascii")
    if verb == b"CONNECT":
        if behind:
            raise _RefusedError(400, "nothing may follow CONNECT before it is answered")
        return _Asked(*_authority(target), b"")
    scheme, _, rest = target.partition("://")
    if scheme.lower() != "http":
        raise _RefusedError(400, "a proxy takes CONNECT, and http:// with the whole target")
    authority, slash, path = rest.partition("/")
    host, port = _authority(authority if ":" in authority else f"{authority}:{_PORT}")
    kept = [field for field in fields if not field.lower().startswith((b"host", *_HOP))]
    if any(b"\n" in field or b"\0" in field or field[:1] in b" \t" for field in fields):
        raise _RefusedError(400, "a header field is malformed")
    first = b"\r\n".join(
        (
            b"%b %b HTTP/1.1" % (verb, f"{slash or '/'}{path}".encode("ascii")),
            b"Host: %b" % authority.encode("ascii"),
            *kept,
            b"Connection: close",
        )
    )
    return _Asked(host, port, first + b"\r\n\r\n" + behind)


def _authority(text: str) -> tuple[str, int]:
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise _RefusedError(400, "the target must be host:port")
    return found["host"].strip("[]"), int(found["port"])


def _answer(status: int, why: str) -> bytes:
    body = f"{why}\n".encode()
    head = b"HTTP/1.1 %d %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    return b"%b%b%b" % (
        head % (status, _REASONS[status], len(body)),
        b"Connection: close\r\n\r\n",
        body,
    )


async def _both(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    there: asyncio.StreamReader,
    back: asyncio.StreamWriter,
    count: _Count,
) -> None:
    """Move bytes both ways until both have ended, or one is broken or silent."""
    async with asyncio.TaskGroup() as moving:
        moving.create_task(_pump(reader, back, count))
        moving.create_task(_pump(there, writer, count))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, count: _Count) -> None:
    while True:
        async with asyncio.timeout(IDLE_SECONDS):
            data = await source.read(PIECE_BYTES)
        if not data:
            break
        count.add(len(data))
        sink.write(data)
        async with asyncio.timeout(IDLE_SECONDS):
            await sink.drain()
    with contextlib.suppress(OSError):
        if sink.can_write_eof():
            sink.write_eof()
