"""The head of one request, collected piece by piece within its limits, and how strict we are."""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from protocol import limits
from protocol.errors import ErrorCode, GatewayError

_KEPT: Final = frozenset(
    {
        b"accept",
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"idempotency-key",
        b"origin",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"transfer-encoding",
        b"upgrade",
        b"x-forwarded-for",
        b"x-openclaw-session-key",
    }
)
# Given more than once they are one list (RFC 9110, section 5.3).
_LISTS: Final = frozenset({b"accept", b"sec-websocket-protocol", b"upgrade", b"x-forwarded-for"})
_HOST: Final = re.compile(rb"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::[0-9]{1,5})?\Z")
_BEARER: Final = re.compile(
    rb"bearer +([\x21-\x7e]{1,%d})\Z" % limits.BEARER_CHARS_MAX, re.IGNORECASE
)
_IDEMPOTENCY_KEY: Final = re.compile(rb"[\x21-\x7e]{1,%d}\Z" % limits.IDEMPOTENCY_KEY_CHARS_MAX)
# A token or the admin key, but not the end of a word: an account may be named `break_room`.
_SECRET_IN_URL: Final = re.compile(rb"(?<![a-z0-9_-])[ta]k_", re.IGNORECASE)
_FIELD_OVERHEAD: Final = len(": \r\n")


class Head:
    """Target and kept fields of a connection's present request.

    Attributes:
        target: The request target.
        fields: The kept fields, by lower-case name; a new dictionary for each request.
        content_length: The declared bytes of body, 0 when none are; known with the complete head.
        heard: A piece has come in since this was last set to False.
    """

    __slots__ = ("_bytes", "_complete", "_count", "content_length", "fields", "heard", "target")

    def __init__(self) -> None:
        self.heard = False
        self.reset()

    def reset(self) -> None:
        """Begin with the next request."""
        self.target = b""
        self.fields: dict[bytes, bytes] = {}
        self.content_length = 0
        self._complete = False
        self._bytes = 0
        self._count = 0

    def add_target(self, piece: bytes) -> None:
        """Take a piece of the request target.

        Raises:
            GatewayError: TARGET_TOO_LONG.
        """
        self.heard = True
        self.target += piece
        if len(self.target) > limits.HTTP_TARGET_BYTES_MAX:
            msg = f"the request target is over {limits.HTTP_TARGET_BYTES_MAX} bytes"
            raise GatewayError(ErrorCode.TARGET_TOO_LONG, msg)

    def add_field(self, name: bytes, value: bytes) -> None:
        """Take a field; after the head is complete it is a trailer, counted and dropped.

        Raises:
            GatewayError: HEADERS_TOO_LARGE, or MALFORMED_REQUEST for a repeated field.
        """
        self.heard = True
        self._count += 1
        self._bytes += len(name) + len(value) + _FIELD_OVERHEAD
        if self._count > limits.HTTP_HEADER_COUNT_MAX or self._bytes > limits.HTTP_HEADER_BYTES_MAX:
            raise too_large()
        name = name.lower()
        if name not in _KEPT or self._complete:
            return
        if name in self.fields:
            if name not in _LISTS:
                raise malformed(f"{name.decode()}: given more than once")
            value = self.fields[name] + b"," + value
        self.fields[name] = value

    def finish(self, version: str) -> None:
        """Check the complete head against what its version asks for (RFC 9112).

        Raises:
            GatewayError: MALFORMED_REQUEST.
        """
        self._complete = True
        fields = self.fields
        # The parser has checked that this is one number, and that it stands alone.
        self.content_length = int(fields.get(b"content-length", b"0"))
        if version not in ("1.1", "1.0"):
            raise malformed("only HTTP/1.1 and HTTP/1.0 are served")
        if b"transfer-encoding" in fields and (
            version == "1.0" or fields[b"transfer-encoding"].lower() != b"chunked"
        ):
            raise malformed("transfer-encoding: only chunked is known, and not in HTTP/1.0")
        if version == "1.1" and b"host" not in fields:
            raise malformed("host: missing")
        if b"expect" in fields and fields[b"expect"].lower() != b"100-continue":
            raise malformed("expect: only 100-continue is known")

    def check_target(self) -> str:
        """Give the target.

        Raises:
            GatewayError: MALFORMED_REQUEST.
        """
        if not self.target.startswith(b"/") or b"#" in self.target:
            raise malformed("the request target must be a path")
        if _SECRET_IN_URL.search(unquote_to_bytes(self.target)):
            raise malformed("a token must not be in a URL; send it as Authorization: Bearer")
        return self.target.decode("ascii")

    @property
    def is_json(self) -> bool:
        """Whether the body is declared to be JSON, as it is and not compressed."""
        if self.fields.get(b"content-encoding", b"identity").lower() != b"identity":
            return False
        media_type = self.fields.get(b"content-type", b"").partition(b";")[0]
        return media_type.strip().lower() == b"application/json"

    @property
    def accepts_events(self) -> bool:
        """Whether the caller asks for a stream of events."""
        return b"text/event-stream" in self.fields.get(b"accept", b"").lower()

    @property
    def session_key(self) -> str | None:
        """The session that the caller names, as it came."""
        key = self.fields.get(b"x-openclaw-session-key")
        return None if key is None else key.decode("latin-1")

    @property
    def idempotency_key(self) -> str | None:
        """The caller's own name for this request.

        Raises:
            GatewayError: it is empty, too long or not printable ASCII.
        """
        key = self.fields.get(b"idempotency-key")
        if key is None:
            return None
        if not _IDEMPOTENCY_KEY.match(key):
            longest = limits.IDEMPOTENCY_KEY_CHARS_MAX
            msg = f"idempotency-key: must be 1 to {longest} printable ASCII characters, no blanks"
            raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="Idempotency-Key")
        return key.decode("ascii")


def host_name(value: bytes) -> str | None:
    """Give the name in a `Host` field, lower case, without port and brackets; None for no name."""
    match = _HOST.match(value.lower())
    return match.group(1).decode("ascii").strip("[]") if match else None


def bearer_secret(value: bytes | None) -> str:
    """Give the secret of an `Authorization` field; empty for anything that is no bearer secret."""
    match = _BEARER.match(value) if value else None
    return match.group(1).decode("ascii") if match else ""


def malformed(reason: str) -> GatewayError:
    """Give the refusal of what is no proper HTTP/1.1 request."""
    return GatewayError(ErrorCode.MALFORMED_REQUEST, reason)


def too_large() -> GatewayError:
    """Give the refusal of a head over its limits."""
    msg = (
        f"a head has at most {limits.HTTP_HEADER_COUNT_MAX} fields"
        f" and {limits.HTTP_HEADER_BYTES_MAX} bytes"
    )
    return GatewayError(ErrorCode.HEADERS_TOO_LARGE, msg)
