"""The JSON-RPC 2.0 envelope, https://www.jsonrpc.org/specification.

The front reads the envelope only; `params` stays as the client wrote it. Of duplicate keys the last
one wins, here and in the worker, since both are decoded by msgspec.
"""

import re
from typing import Annotated, Any, Final, Literal

import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.names import encode_shown
from protocol.pieces import Pieces

RequestId = Annotated[str, msgspec.Meta(max_length=limits.RPC_ID_CHARS_MAX)] | int | None


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One request object; without an `id` it is a notification."""

    jsonrpc: Literal["2.0"]
    method: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.METHOD_NAME_CHARS_MAX)]
    params: msgspec.Raw = msgspec.Raw(b"{}")
    id: RequestId | msgspec.UnsetType = msgspec.UNSET


class StreamableRequest(Request, frozen=True, forbid_unknown_fields=True, gc=False):
    """A request object on a WebSocket; `stream` asks for the answer in pieces, then the whole."""

    stream: bool = False


# As a struct that is an array, so that the element after the last allowed one ends the decoding; a
# list would first be decoded to its end, however many members it has.
_Members: Final[Any] = msgspec.defstruct(
    "_Members",
    [
        (f"member_{index}", msgspec.Raw, msgspec.field(default=msgspec.Raw()))
        for index in range(limits.BATCH_MEMBERS_MAX)
    ],
    array_like=True,
    forbid_unknown_fields=True,
    gc=False,
)

# How msgspec names a member: "… at `$.id`", "… required field `method`".
_FIELD: Final = re.compile(r"(?:at `\$\.?|field `)([^`]*)`")
_decoder: Final = msgspec.json.Decoder(Request)
_streamable_decoder: Final = msgspec.json.Decoder(StreamableRequest)
_members_decoder: Final = msgspec.json.Decoder(_Members)
_encode: Final = msgspec.json.Encoder().encode
_BLANKS: Final = b" \t\n\r"
_FIELD_CHARS_MAX: Final = 64
# Where the params of a big request begin, and what may follow them. If the whole is JSON there is
# one way to read the end: a quote after a comma begins a member's name, and with no bracket up to
# the last one these are members of the request itself. If it is not, then neither is what is cut.
_CUT_BYTES_MAX: Final = 4 * limits.KIB
_PARAMS: Final = re.compile(rb'"params"[ \t\n\r]*:')
# Few members after each comma: to see that there is no end must not take longer than to find one.
_TAIL: Final = re.compile(
    rb'(?:,[ \t\n\r]*"[a-z]+"[ \t\n\r]*:[ \t\n\r]*'
    rb'(?:"(?:[^"\\]|\\.)*"|[\w.+-]+)[ \t\n\r]*){0,8}'
    rb"}[ \t\n\r]*\Z"
)


def decode_request(body: bytes) -> Request:
    """Read one request object.

    Raises:
        GatewayError: PARSE_ERROR for what is no JSON, MALFORMED_REQUEST for JSON that is no single
            request object; the message names the member.
    """
    call: Request = _decode(_decoder, body)
    return call


def decode_streamable(body: bytes) -> StreamableRequest:
    """Read one request object as it may come on a WebSocket. Raises as `decode_request`."""
    call: StreamableRequest = _decode(_streamable_decoder, body)
    return call


def cut(body: Pieces) -> tuple[bytes, Pieces]:
    """Take the params out of a big request, without looking into them.

    Whoever decodes them finds out whether they are JSON. They have to come last, or before nothing
    but small members. Gives the request without them, and them.

    Raises:
        GatewayError: PARSE_ERROR or MALFORMED_REQUEST: they cannot be told from the rest.
    """
    head = bytes(body.cut(0, _CUT_BYTES_MAX))
    begin = _PARAMS.search(head)
    # Params that are small would look like one more member of the end.
    tail_at = max(len(body) - _CUT_BYTES_MAX, begin.end() if begin else 0)
    tail = bytes(body.cut(tail_at, len(body)))
    end = _TAIL.search(tail)
    if end is None:
        raise GatewayError(ErrorCode.PARSE_ERROR, "the body is no JSON: its object does not end")
    if begin is None:
        msg = (
            f"request: one of more than {limits.RPC_SCANNED_BYTES_MAX} bytes has its params"
            " after its other members"
        )
        raise GatewayError(ErrorCode.MALFORMED_REQUEST, msg, field="params")
    rest = head[: begin.end()] + b"0" + tail[end.start() :]
    return rest, body.cut(begin.end(), tail_at + end.start())


def is_batch(body: bytes | Pieces) -> bool:
    """Say whether a message that may be JSON would be an array.

    In front of a big one at most `_CUT_BYTES_MAX` of blanks are looked over.
    """
    if isinstance(body, Pieces):
        body = bytes(body.cut(0, _CUT_BYTES_MAX))
    return body.lstrip(_BLANKS)[:1] == b"["


def decode_batch(body: bytes | Pieces) -> list[bytes]:
    """Read the array of a batch; its members are JSON, and not looked into.

    Raises:
        GatewayError: PARSE_ERROR for what is no JSON, MALFORMED_REQUEST for an array without
            members, or with too many, PAYLOAD_TOO_LARGE.
    """
    if len(body) > limits.BATCH_BYTES_MAX:
        msg = f"a batch has at most {limits.BATCH_BYTES_MAX} bytes; send less in one"
        raise GatewayError(ErrorCode.PAYLOAD_TOO_LARGE, msg, limit=limits.BATCH_BYTES_MAX)
    members = _decode(_members_decoder, bytes(body))
    # No value of JSON is empty, so that an empty one is where the array ended.
    found = [bytes(raw) for raw in msgspec.structs.astuple(members) if memoryview(raw).nbytes]
    if not found:
        raise GatewayError(ErrorCode.MALFORMED_REQUEST, "a batch has at least one request")
    return found


def _decode(decoder: "msgspec.json.Decoder[Any]", body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message = f"request: {error}"
        if decoder is _members_decoder:
            message = f"a batch has at most {limits.BATCH_MEMBERS_MAX} requests"
        named = _FIELD.search(str(error))
        field = named.group(1)[:_FIELD_CHARS_MAX] if named else ""
        raise GatewayError(ErrorCode.MALFORMED_REQUEST, message, field=field) from error
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
        encode_shown(error.body()),
    )
