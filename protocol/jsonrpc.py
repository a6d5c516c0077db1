"""The JSON-RPC 2.0 envelope, https://www.jsonrpc.org/specification.

The front reads the envelope only; `params` stays as the client wrote it. Of duplicate keys the last
one wins, here and in the worker, since both are decoded by msgspec.
"""

import re
from typing import Annotated, Final, Literal

import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError

RequestId = Annotated[str, msgspec.Meta(max_length=limits.RPC_ID_CHARS_MAX)] | int | None


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One request object; without an `id` it is a notification."""

    jsonrpc: Literal["2.0"]
    method: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.METHOD_NAME_CHARS_MAX)]
    params: msgspec.Raw = msgspec.Raw(b"{}")
    id: RequestId | msgspec.UnsetType = msgspec.UNSET


# How msgspec names a member: "… at `$.id`", "… required field `method`".
_FIELD: Final = re.compile(r"(?:at `\$\.?|field `)([^`]*)`")
_decoder: Final = msgspec.json.Decoder(Request)
_encode: Final = msgspec.json.Encoder().encode


def decode_request(body: bytes) -> Request:
    """Read one request object.

    Raises:
        GatewayError: PARSE_ERROR for what is no JSON, MALFORMED_REQUEST for JSON that is no single
            request object; the message names the member.
    """
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        if body.lstrip()[:1] == b"[":
            msg = "batches are not supported; send one request object"
            raise GatewayError(ErrorCode.MALFORMED_REQUEST, msg) from error
        named = _FIELD.search(str(error))
        field = named.group(1) if named else ""
        message = f"request: {error}"
        raise GatewayError(ErrorCode.MALFORMED_REQUEST, message, field=field[:64]) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GatewayError(ErrorCode.PARSE_ERROR, f"the body is no JSON: {error}") from error
    except RecursionError as error:
        msg = "the body is nested too deeply"
        raise GatewayError(ErrorCode.PARSE_ERROR, msg) from error


def success(request_id: RequestId, result: bytes) -> bytes:
    """Wrap result JSON into a response without reading it."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_encode(request_id), result)


def refusal(request_id: RequestId, error: GatewayError) -> bytes:
    """Give the response for a refused request."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (
        _encode(request_id),
        _encode(error.body()),
    )
