"""The bytes of responses: heads, errors, server-sent events."""

import math
import re
import time
from http import HTTPStatus
from typing import Any, Final, NewType

import msgspec

from protocol.errors import STATUS_PHRASES, ErrorCode, GatewayError
from protocol.names import encode_shown

RETRY_SECONDS_DEFAULT: Final = 1
RETRY_SECONDS_MAX: Final = 31 * 86400

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE: Final = b"Connection: close\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

# RFC 9110, section 15.5.22, and RFC 6455, section 4.2.2.
_UPGRADE: Final = b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
_COMMON: Final = b"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
_EVENTS: Final = b"Content-Type: text/event-stream\r\n"
_NO_CONTENT: Final = 204
_VERB: Final = re.compile(r"[A-Z]{1,16}\Z")
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


def _status_lines() -> dict[int, bytes]:
    lines = {}
    for code, phrase in STATUS_PHRASES.items():
        lines[code] = b"HTTP/1.1 %d %b\r\n" % (code, phrase.encode())
    return lines


_STATUS_LINES: Final = _status_lines()


Content = NewType("Content", dict[int, bytes])
"""A type of content, as the first lines of responses of each status."""


def _content(media_type: bytes) -> Content:
    line = b"Content-Type: %b\r\n" % media_type
    return Content({code: first + line + _COMMON for code, first in _STATUS_LINES.items()})


JSON: Final = _content(b"application/json")
PROBLEM: Final = _content(b"application/problem+json")
# https://prometheus.io/docs/instrumenting/exposition_formats/
METRICS: Final = _content(b"text/plain; version=0.0.4; charset=utf-8")


class _Date:
    """The `Date` line, made once a second (RFC 9110, section 6.6.1)."""

    def __init__(self) -> None:
        self._second = -1
        self._line = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            at = time.gmtime(second)
            day, month = _DAYS[at.tm_wday], _MONTHS[at.tm_mon - 1]
            clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
            text = f"Date: {day}, {at.tm_mday:02} {month} {at.tm_year} {clock} GMT\r\n"
            self._second, self._line = second, text.encode()
        return self._line


_date: Final = _Date()


def whole(
    status: int,
    body: bytes,
    headers: bytes = b"",
    *,
    only_head: bool = False,
    content: Content = JSON,
) -> bytes:
    """Give a complete response; without a body if that is empty and the status 204.

    Args:
        status: One that the standard library knows, or 499.
        body: What `content` says.
        headers: More header lines, each with its line end.
        only_head: The request was HEAD: the length is told, the body is not sent.
        content: What the body is.
    """
    if not body:
        length = b"" if status == _NO_CONTENT else b"Content-Length: 0\r\n"
        return b"%b%b%b%b%b\r\n" % (_STATUS_LINES[status], _COMMON, _date.line(), headers, length)
    return b"%b%b%bContent-Length: %d\r\n\r\n%b" % (
        content[status],
        _date.line(),
        headers,
        len(body),
        b"" if only_head else body,
    )


def last(error: GatewayError) -> bytes:
    """Give the response to who is refused unheard, on a connection that ends with it."""
    headers = error_headers(error) + CLOSE
    return whole(error.code.http_status, problem_body(error), headers, content=PROBLEM)


def is_status(status: int) -> bool:
    """Say whether `status` can be the final status of a response."""
    return status >= HTTPStatus.OK and status in _STATUS_LINES


def event_stream(headers: bytes) -> bytes:
    """Give the head of a stream of events."""
    return b"%b%b%b%b%b\r\n" % (_STATUS_LINES[200], _EVENTS, _COMMON, _date.line(), headers)


def event(name: bytes, data: bytes) -> bytes:
    """Give one server-sent event (https://html.spec.whatwg.org/#server-sent-events).

    A line end ends a field; in JSON it can only stand between tokens, so that a blank replaces it.
    """
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"event: %b\ndata: %b\n\n" % (name, data)


def chunk(data: bytes) -> bytes:
    """Give one chunk of a chunked body; `data` must not be empty, that would end it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def error_body(error: GatewayError) -> bytes:
    """Give the body of a refusal of a tenant's call that is no JSON-RPC: its error object alone."""
    return b'{"error":%b}' % encode_shown(error.body())


def problem_body(error: GatewayError) -> bytes:
    """Give the body of a refusal everywhere else: problem details (RFC 9457)."""
    return encode_shown(error.problem())


def error_headers(error: GatewayError) -> bytes:
    """Give the header lines that a refusal's status asks for."""
    status = error.code.http_status
    if status == HTTPStatus.UNAUTHORIZED:
        return b"WWW-Authenticate: Bearer\r\n"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return allow(error.details.get("allowed"))
    if status == HTTPStatus.UPGRADE_REQUIRED:
        return _UPGRADE
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return b"Retry-After: %d\r\n" % _retry_seconds(error.details.get("retryAfterMs"))
    return b""


def status_headers(status: int, body: bytes) -> bytes:
    """Give the header lines that go with another process's JSON answer, refusals above all."""
    if status < HTTPStatus.BAD_REQUEST:
        return b""
    try:
        details = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        details = {}
    code = next((code for code in ErrorCode if code.http_status == status), None)
    return b"" if code is None else error_headers(GatewayError(code, "", **details))


def allow(verbs: object) -> bytes:
    """Give the `Allow` line. What is no list of verbs gives none: it may come from a worker."""
    if not isinstance(verbs, list | tuple):
        return b""
    known = [verb for verb in verbs if isinstance(verb, str) and _VERB.match(verb)]
    return f"Allow: {', '.join(known)}\r\n".encode()


def _retry_seconds(milliseconds: object) -> int:
    if not isinstance(milliseconds, int | float) or not milliseconds > 0:
        return RETRY_SECONDS_DEFAULT
    return min(math.ceil(min(milliseconds, RETRY_SECONDS_MAX * 1000) / 1000), RETRY_SECONDS_MAX)
