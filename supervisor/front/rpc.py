"""JSON-RPC 2.0: one call or a batch in a message. The front reads the envelopes only."""

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from protocol import jsonrpc
from protocol.errors import ErrorCode, GatewayError
from protocol.pieces import Pieces
from supervisor.front.batch import Batch, StartCall
from supervisor.front.calls import Envelope, TenantCall
from supervisor.front.exchange import Client, Request

R = TypeVar("R", bound=jsonrpc.Request)
_one_value: Final = msgspec.json.Decoder(msgspec.Raw)


class RpcEnvelope:
    """Writes the response to the request of this id."""

    __slots__ = ("_id",)

    def __init__(self, request_id: jsonrpc.RequestId) -> None:
        self._id: Final = request_id

    def success(self, result: bytes) -> tuple[int, bytes]:
        """See `calls.Envelope`."""
        return 200, jsonrpc.success(self._id, result)

    def refusal(self, error: GatewayError) -> bytes:
        """See `calls.Envelope`."""
        return jsonrpc.refusal(self._id, error)


class NotificationEnvelope:
    """A notification gets a status and no body: JSON-RPC forbids a response to it."""

    __slots__ = ()

    def success(self, result: bytes) -> tuple[int, bytes]:
        """See `calls.Envelope`."""
        del result
        return 204, b""

    def refusal(self, error: GatewayError) -> bytes:
        """See `calls.Envelope`."""
        del error
        return b""


_notification: Final = NotificationEnvelope()


def start(client: Client, request: Request) -> None:
    """Begin what is in the body of `POST /rpc`."""
    body, request.body = request.body, b""
    try:
        check_encoding(body)
        if jsonrpc.is_batch(body):
            begin_batch(client, request, body, forward)
            return
        call, params = read(body, jsonrpc.decode_request)
    except GatewayError as error:
        client.refuse(error)
        return
    forward(client, request, call, params, streams=request.asked.wants_events)


def read(body: bytes | Pieces, decode: Callable[[bytes], R]) -> tuple[R, bytes | Pieces]:
    """Give a request and its params, which are not looked into where the whole is big.

    Raises:
        GatewayError: as `decode`.
    """
    if isinstance(body, Pieces):
        rest, params = jsonrpc.cut(body)
        return decode(rest), params
    call = decode(body)
    return call, bytes(call.params)


def begin_batch(
    client: Client, request: Request, body: bytes | Pieces, start_call: StartCall
) -> None:
    """Begin the calls of a batch.

    Raises:
        GatewayError: it is no batch; no call has begun.
    """
    members = jsonrpc.decode_batch(body)
    asked = request.asked
    if asked.idempotency_key is not None:
        msg = "idempotency-key: names one call; in a batch give each its idempotencyKey in params"
        raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="Idempotency-Key")
    assert asked.grant is not None
    Batch(client, asked.grant.tenant).start(request, members, start_call)


def forward(
    client: Client,
    request: Request,
    call: jsonrpc.Request,
    params: bytes | Pieces,
    *,
    streams: bool = False,
) -> None:
    """Send a call to its tenant's worker; of a notification the client hears no more than that."""
    envelope = envelope_of(call)
    tenant_call = TenantCall(client, request, envelope, call.method, params)
    tenant_call.start(streams=streams and envelope is not _notification)


def envelope_of(call: jsonrpc.Request) -> Envelope:
    """Give how the answer to a call is written."""
    return _notification if isinstance(call.id, msgspec.UnsetType) else RpcEnvelope(call.id)


def refusal(error: GatewayError) -> bytes:
    """Give the body of a refusal that comes before the id is known."""
    return jsonrpc.refusal(None, error)


def check_value(body: bytes | Pieces) -> None:
    """Refuse what is not one value of JSON; what is in pieces is the worker's to refuse.

    Raises:
        GatewayError: PARSE_ERROR.
    """
    check_encoding(body)
    if not isinstance(body, bytes):
        return
    try:
        _one_value.decode(body)
    except msgspec.DecodeError as error:
        msg = f"the body is no JSON: {error}"
        raise GatewayError(ErrorCode.PARSE_ERROR, msg) from error
    except RecursionError as error:
        msg = "the body is nested too deeply"
        raise GatewayError(ErrorCode.PARSE_ERROR, msg) from error


def check_encoding(body: bytes | Pieces) -> None:
    """Refuse what is not UTF-8: the decoder does not look into what it leaves raw.

    What is in pieces is too big to be looked into here: it is the worker's to refuse.

    Raises:
        GatewayError: PARSE_ERROR.
    """
    if isinstance(body, bytes) and not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            msg = f"the body is not UTF-8 (byte {error.start})"
            raise GatewayError(ErrorCode.PARSE_ERROR, msg) from error
