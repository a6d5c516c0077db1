"""The error table: string code, JSON-RPC code and HTTP status, written once.

The numeric codes from -32700 to -32603 are JSON-RPC 2.0's own (section 5.1 of its specification);
the rest lie in the range that it leaves to servers.
"""

from enum import Enum
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec

from protocol.limits import ERROR_MESSAGE_CHARS_MAX

STATUS_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus} | {
    499: "Client Closed Request"  # nobody's standard, for what the caller has cancelled
}


class ErrorKind(NamedTuple):
    """One row of the table."""

    rpc_code: int
    http_status: int
    retryable: bool


class ErrorCode(Enum):
    """Every error a client can be answered with."""

    PARSE_ERROR = ErrorKind(-32700, 400, retryable=False)
    MALFORMED_REQUEST = ErrorKind(-32600, 400, retryable=False)
    METHOD_NOT_FOUND = ErrorKind(-32601, 404, retryable=False)
    INVALID_REQUEST = ErrorKind(-32602, 400, retryable=False)
    INTERNAL = ErrorKind(-32603, 500, retryable=False)
    UNAUTHORIZED = ErrorKind(-32001, 401, retryable=False)
    FORBIDDEN = ErrorKind(-32003, 403, retryable=False)
    NOT_FOUND = ErrorKind(-32004, 404, retryable=False)
    METHOD_NOT_ALLOWED = ErrorKind(-32005, 405, retryable=False)
    REQUEST_TIMEOUT = ErrorKind(-32008, 408, retryable=True)
    CONFLICT = ErrorKind(-32009, 409, retryable=False)
    PAYLOAD_TOO_LARGE = ErrorKind(-32013, 413, retryable=False)
    TARGET_TOO_LONG = ErrorKind(-32014, 414, retryable=False)
    UNSUPPORTED_MEDIA_TYPE = ErrorKind(-32015, 415, retryable=False)
    IDEMPOTENCY_KEY_REUSED = ErrorKind(-32022, 422, retryable=False)
    UPGRADE_REQUIRED = ErrorKind(-32026, 426, retryable=False)
    RATE_LIMITED = ErrorKind(-32029, 429, retryable=True)
    QUOTA_EXCEEDED = ErrorKind(-32030, 429, retryable=True)
    HEADERS_TOO_LARGE = ErrorKind(-32031, 431, retryable=False)
    CANCELLED = ErrorKind(-32040, 499, retryable=False)
    UNAVAILABLE = ErrorKind(-32050, 503, retryable=True)
    TIMEOUT = ErrorKind(-32054, 504, retryable=True)

    @property
    def rpc_code(self) -> int:
        """The number a JSON-RPC client sees."""
        return self.value.rpc_code

    @property
    def http_status(self) -> int:
        """The status a single HTTP call is answered with."""
        return self.value.http_status

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later."""
        return self.value.retryable


class ErrorBody(msgspec.Struct, frozen=True, gc=False):
    """The JSON-RPC error object (section 5.1): `{code, message, data: {code, …details}}`."""

    code: int
    message: str
    data: dict[str, Any]


class GatewayError(Exception):
    """An answer to a client that is not a result.

    Args:
        code: The row of the error table.
        message: One sentence that names what is wrong and, for bad input, the fix. It may quote
            what a client sent: it is cut to `ERROR_MESSAGE_CHARS_MAX`, lone surrogates are escaped.
        details: JSON values added beside the string code (`field`, `retryAfterMs`, …).
    """

    # Positional only, so that details of any name can be given.
    def __init__(self, code: ErrorCode, message: str, /, **details: Any) -> None:
        message = message[:ERROR_MESSAGE_CHARS_MAX]
        if not message.isascii():
            escaped = message.encode("utf-8", "backslashreplace").decode()
            message = escaped[:ERROR_MESSAGE_CHARS_MAX]
        super().__init__(message)
        self.code: Final = code
        self.message: Final = message
        self.details: Final = details

    def body(self) -> ErrorBody:
        """Give the object that is sent to the client."""
        data: dict[str, Any] = {"code": self.code.name} | self.details
        data["code"] = self.code.name
        if self.code.retryable:
            data["retryable"] = True
        return ErrorBody(self.code.rpc_code, self.message, data)

    def problem(self) -> dict[str, Any]:
        """Give the problem details (RFC 9457) that are sent where no JSON-RPC is spoken.

        The string code and the details are extension members.
        """
        status = self.code.http_status
        return self.body().data | {
            "type": "about:blank",
            "title": STATUS_PHRASES.get(status, "Error"),
            "status": status,
            "detail": self.message,
        }


class ProtocolError(Exception):
    """A frame broke the contract. Never raised itself: the two below say whose fault it is."""

    def __init__(self, reason: str) -> None:
        if type(self) is ProtocolError:
            msg = "raise LocalProtocolError or RemoteProtocolError"
            raise TypeError(msg)
        super().__init__(reason)


class LocalProtocolError(ProtocolError):
    """Our own side asked the link for something it must not send: a bug here."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what it must not: the link is closed and the peer counts as crashed."""


class LinkClosedError(Exception):
    """The link ended while a call waited for its answer."""
