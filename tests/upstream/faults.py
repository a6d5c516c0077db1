"""What the fake upstream does wrong, by `fault:KIND`.

| before an answer | |
|---|---|
| `hang` | says nothing |
| `reset`, `close` | ends the connection, by RST or in order |
| `400`, `429`, `503` … | an error of that status in the API's shape |
| `quota` | 429 that waiting does not mend: `insufficient_quota` |
| `plain-500` | an error that is no JSON |
| `key`, `key-400` | 401 or 400 whose body and headers repeat the key that was sent |
| `redirect` | 302 to `169.254.169.254` |
| `empty`, `malformed`, `type`, `shape` | 200 with nothing, no JSON, HTML, other JSON |
| `deep`, `error` | 200 with 100,000 brackets, an error object |
| `huge` | 200 and a body of 100 MB |
| `head` | a head of 1 MB |
| `drip` | 200 and the right body, a byte a second |
| `gzip` | 200 and a compressed body of 100 MB of blanks, which nobody has asked for |

| in the middle of one | after the first pieces of a stream, or half of a body |
|---|---|
| `hang-middle`, `reset-middle`, `close-middle` | as above |
| `end-middle` | a stream ends in order, without its last events |
| `malformed-middle`, `shape-middle` | an event that is no JSON, or other JSON |
| `error-middle` | an event that is an error |
| `huge-middle` | a line of 100 MB |
| `drip-middle` | the rest, a byte a second |
| `chunk-middle` | what is no HTTP chunk |
| `torn` | the whole stream right, each byte by itself |
"""

import asyncio
import functools
import zlib
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from tests.upstream.dialects import Dialect
from tests.upstream.script import Plan

MEGABYTES: Final = 100
PIECES_BEFORE: Final = 4
_BLOCK: Final = 65_536
_STATUS_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Out(Protocol):
    """A connection, as far as a fault needs it."""

    key: str
    chunked: bool

    def head(self, status: int, *fields: bytes, length: int | None = None) -> None: ...

    def body(self, data: bytes) -> None: ...

    def raw(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def close(self) -> None: ...

    def reset(self) -> None: ...

    async def taken(self) -> None: ...


Act = Callable[[Out, Plan, Dialect], Awaitable[None]]
_JSON: Final = b"Content-Type: application/json"
_EVENTS: Final = b"Content-Type: text/event-stream; charset=utf-8"


def whole(out: Out, status: int, body: bytes, *fields: bytes) -> None:
    """Give a complete answer."""
    out.head(status, *fields or (_JSON,), length=len(body))
    out.body(body)
    out.end()


async def before(kind: str, out: Out, plan: Plan, dialect: Dialect) -> bool:  # noqa: C901, PLR0912 - a table
    """Do what is wrong before an answer; False if it is none of these."""
    match kind:
        case "hang":
            await asyncio.Event().wait()
        case "reset":
            out.reset()
        case "close":
            out.close()
        case "quota":
            whole(out, 429, dialect.error("insufficient_quota", "You exceeded your quota"))
        case "plain-500":
            whole(out, 500, b"<html>it broke</html>", b"Content-Type: text/html")
        case "key" | "key-400":
            body = dialect.error("authentication_error", f"Incorrect API key: {out.key}")
            status = 401 if kind == "key" else 400
            whole(out, status, body, _JSON, b"X-Key: " + out.key.encode())
        case "redirect":
            target = b"Location: http://169.254.169.254/latest/meta-data/"
            whole(out, 302, b"", target)
        case "empty":
            whole(out, 200, b"")
        case "malformed":
            whole(out, 200, b'{"choices": [{"mess')
        case "type":
            whole(out, 200, b"<html>welcome</html>", b"Content-Type: text/html")
        case "shape":
            whole(out, 200, b'{"choices": {"0": 7}, "content": "text", "usage": []}')
        case "deep":
            whole(out, 200, b"[" * 100_000 + b"]" * 100_000)
        case "error":
            whole(out, 200, dialect.error("api_error", "Provider returned error"))
        case "huge":
            out.head(200, _JSON, length=MEGABYTES << 20)
            await _blocks(out)
            out.end()
        case "head":
            out.head(200, _JSON, *[b"X-%d: " % at + b"a" * 1000 for at in range(1000)], length=0)
            out.end()
        case "gzip":
            whole(out, 200, _bomb(), _JSON, b"Content-Encoding: gzip")
        case "drip":
            body = dialect.whole(plan)
            out.head(200, _JSON, length=len(body))
            await _drip(out, body)
        case _ if kind.isdecimal():
            status = int(kind)
            after = [
                b"Retry-After: " + each.encode() for each in (plan.options.get("after"),) if each
            ]
            whole(out, status, dialect.error(_STATUS_KINDS[status], "as asked"), _JSON, *after)
        case _:
            return False
    return True


async def middle(kind: str, out: Out, plan: Plan, dialect: Dialect) -> None:
    """Begin an answer, and do what is wrong."""
    if plan.stream:
        parts = [b"\n".join(lines) + b"\n\n" for lines in dialect.events(plan)]
        out.head(200, _EVENTS)
    else:
        body = dialect.whole(plan)
        parts = [body[: len(body) // 2], body[len(body) // 2 :]]
        out.head(200, _JSON, length=len(body))
    if kind == "torn":
        for byte in b"".join(parts):
            out.body(bytes([byte]))
            await out.taken()
        out.end()
        return
    count = PIECES_BEFORE if plan.stream else 1
    for part in parts[:count]:
        out.body(part)
    await _break(kind, out, dialect, b"".join(parts[count:]))


async def _break(kind: str, out: Out, dialect: Dialect, rest: bytes) -> None:
    match kind:
        case "hang-middle":
            await asyncio.Event().wait()
        case "reset-middle":
            out.reset()
        case "close-middle":
            out.close()
        case "malformed-middle":
            out.body(b'data: {"choices": [{"del\n\n')
        case "shape-middle":
            out.body(b'event: content_block_delta\ndata: {"type": 7, "choices": [7]}\n\n')
        case "error-middle":
            out.body(b"\n".join(dialect.error_event("Overloaded")) + b"\n\n")
        case "huge-middle":
            await _blocks(out)
        case "drip-middle":
            await _drip(out, rest)
        case "chunk-middle":
            out.raw(b"zz\r\nno chunk\r\n")
        case "end-middle":
            if not out.chunked:
                out.close()
        case _:
            raise ValueError(kind)
    out.end()


@functools.cache
def _bomb() -> bytes:
    packed = zlib.compressobj(level=1, wbits=31)
    return packed.compress(b" " * (MEGABYTES << 20)) + packed.flush()


async def _blocks(out: Out) -> None:
    for _ in range((MEGABYTES << 20) // _BLOCK):
        out.body(b"a" * _BLOCK)
        await out.taken()


async def _drip(out: Out, data: bytes) -> None:
    for byte in data:
        out.body(bytes([byte]))
        await asyncio.sleep(1)
