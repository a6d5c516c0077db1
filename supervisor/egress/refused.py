"""What a tenant is told when a provider refuses, is silent or cannot be reached.

A provider's own words may hold a secret: the key that it was sent, or an account's name. They are
quoted where a tenant needs them, about what is wrong with its request, and then bounded and
without anything that looks like one.
"""

import email.utils
import re
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

import aiohttp
import msgspec

from protocol.errors import ErrorCode, GatewayError
from supervisor.egress.upstream import Target

WORDS_BYTES_MAX: Final = 16 * 1024
WORDS_SECONDS: Final = 2.0
WORDS_CHARS_MAX: Final = 300
RETRY_AFTER_SECONDS_MOST: Final = 86_400.0
_SECRET_PART: Final = 6
"""A piece of the key of this length gives it away."""
# Long, and with a digit: no field's name, and nearly every key.
_TOKEN: Final = re.compile(r"(?=[A-Za-z_\-+/=.~]*[0-9])[A-Za-z0-9_\-+/=.~]{16,}")
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]+")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?\Z")

_QUOTED: Final = {
    400: ErrorCode.INVALID_REQUEST,
    404: ErrorCode.NOT_FOUND,
    413: ErrorCode.PAYLOAD_TOO_LARGE,
    422: ErrorCode.INVALID_REQUEST,
}
_AGAIN: Final = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
_NO_CREDIT: Final = frozenset({"insufficient_quota", "billing_error", "billing_not_active"})
_UNAUTHORIZED, _NO_MONEY, _FORBIDDEN, _TOO_MANY = 401, 402, 403, 429
_LATE: Final = (408, 504)


class Refusal(NamedTuple):
    """A request that was not answered."""

    error: GatewayError
    again: bool
    """Whether the same may be answered a little later."""
    after_seconds: float = 0.0
    """Before which it will not be, as the provider says."""


class _Said(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None


class _Body(msgspec.Struct):
    error: _Said | str | None = None
    message: str | None = None


_decode: Final = msgspec.json.Decoder(_Body).decode


def by_exception(who: str, error: Exception, /, **details: str) -> Refusal:
    """Judge a request that got no head of an answer.

    Args:
        who: Was asked, as the message begins.
        error: aiohttp's.
        details: Of the error.
    """
    code, again = ErrorCode.UNAVAILABLE, True
    match error:
        case aiohttp.ConnectionTimeoutError():
            msg = "does not accept the connection in time"
        case aiohttp.ServerTimeoutError() | TimeoutError():
            msg, code, again = "does not answer in time", ErrorCode.TIMEOUT, False
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            msg, again = "its certificate is not to be trusted, or TLS failed", False
        case aiohttp.ClientConnectorError():
            msg = "cannot be reached"
        case aiohttp.ClientOSError() | aiohttp.ServerDisconnectedError():
            msg = "ended the connection without an answer"
        case _:
            msg, again = "does not speak HTTP as it should", False
    return Refusal(GatewayError(code, f"{who}: {msg}", **details), again)


def by_status(target: Target, status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
    """Judge an answer that is not 200.

    Args:
        target: Who gave it.
        status: Its.
        headers: Its.
        body: The beginning of its.
    """
    name = target.model.provider
    said = _said(body)
    if code := _QUOTED.get(status):
        msg = f"provider {name}: {words(said.message, target.key) or 'refused the request'}"
        return Refusal(GatewayError(code, msg, provider=name, model=target.model_id), again=False)
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        msg = f"provider {name}: does not accept the key"
        return Refusal(GatewayError(ErrorCode.FORBIDDEN, msg, provider=name), again=False)
    if status == _NO_MONEY or not _NO_CREDIT.isdisjoint((said.type, said.code)):
        msg = f"provider {name}: the account of the key has no credit"
        return Refusal(GatewayError(ErrorCode.UNAVAILABLE, msg, provider=name), again=False)
    after = retry_after(headers)
    again = status in _AGAIN and headers.get("x-should-retry") != "false"
    details = {"retryAfterMs": round(after * 1000)} if after else {}
    if status == _TOO_MANY:
        msg = f"provider {name}: takes no more requests for now"
        error = GatewayError(ErrorCode.RATE_LIMITED, msg, provider=name, **details)
    elif status in _LATE:
        msg = f"provider {name}: does not answer in time"
        error = GatewayError(ErrorCode.TIMEOUT, msg, provider=name)
    else:
        msg = f"provider {name}: failed with status {status}"
        error = GatewayError(ErrorCode.UNAVAILABLE, msg, provider=name, **details)
    return Refusal(error, again, after)


def by_nonsense(target: Target) -> GatewayError:
    """Give the error of an answer that is none of the API's."""
    name = target.model.provider
    msg = f"provider {name}: its answer is none of the API that it is configured for"
    return GatewayError(ErrorCode.UNAVAILABLE, msg, provider=name)


def by_error_object(target: Target) -> GatewayError:
    """Give the error of an error that was sent with the status 200."""
    name = target.model.provider
    return GatewayError(ErrorCode.UNAVAILABLE, f"provider {name}: failed", provider=name)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float:
    """Give the seconds of `Retry-After`, a number or a date (RFC 9110, section 10.2.3), 0 without.

    Args:
        headers: Of an answer.
        now: Unix seconds.
    """
    milliseconds = headers.get("retry-after-ms", "")
    if _SECONDS.match(milliseconds):
        return min(float(milliseconds) / 1000, RETRY_AFTER_SECONDS_MOST)
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.match(text):
        return min(float(text), RETRY_AFTER_SECONDS_MOST)
    try:
        at = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(at - (time.time() if now is None else now), 0.0), RETRY_AFTER_SECONDS_MOST)


def words(text: str | None, key: str) -> str:
    """Give what a provider says, bounded and without what could be a secret; empty for nothing.

    What holds any part of the key, or could, is not quoted at all.

    Args:
        text: What it says.
        key: What it was sent.
    """
    if not text:
        return ""
    folded = text.casefold()
    secret = key.casefold()
    parts = (secret[at : at + _SECRET_PART] for at in range(max(1, len(secret) - _SECRET_PART + 1)))
    if secret and any(part in folded for part in parts):
        return ""
    return _TOKEN.sub("…", _UNPRINTABLE.sub(" ", text[: 4 * WORDS_CHARS_MAX]))[:WORDS_CHARS_MAX]


def _said(body: bytes) -> _Said:
    try:
        found = _decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return _Said()
    if isinstance(found.error, _Said):
        return found.error
    return _Said(message=found.error or found.message)
