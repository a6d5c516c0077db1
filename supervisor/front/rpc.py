"""`POST /rpc`: JSON-RPC 2.0, one call a request. The front reads the envelope only."""

from typing import Final

import msgspec

from protocol import jsonrpc
from protocol.errors import ErrorCode, GatewayError
from supervisor.front.calls import TenantCall
from supervisor.front.exchange import Client, Request


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
    """Forward the call in the request's body."""
    try:
        check_encoding(request.body)
        call = jsonrpc.decode_request(request.body)
    except GatewayError as error:
        client.refuse(error)
        return
    request.body = b""
    params = bytes(call.params)
    if isinstance(call.id, msgspec.UnsetType):
        TenantCall(client, request, _notification, call.method, params).start()
    else:
        tenant_call = TenantCall(client, request, RpcEnvelope(call.id), call.method, params)
        tenant_call.start(streams=request.asked.wants_events)


def refusal(error: GatewayError) -> bytes:
    """Give the body of a refusal that comes before the id is known."""
    return jsonrpc.refusal(None, error)


def check_encoding(body: bytes) -> None:
    """Refuse what is not UTF-8: the decoder does not look into what it leaves raw.

    Raises:
        GatewayError: PARSE_ERROR.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            msg = f"the body is not UTF-8 (byte {error.start})"
            raise GatewayError(ErrorCode.PARSE_ERROR, msg) from error
