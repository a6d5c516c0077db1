"""`POST /channels/webhook/<account>`: an inbound message of the generic channel."""

from typing import Final

import msgspec

from protocol.errors import ErrorCode, GatewayError
from supervisor.front import response
from supervisor.front.calls import TenantCall
from supervisor.front.exchange import Client, Request
from supervisor.front.rpc import check_encoding

PREFIX: Final = "/channels/webhook/"
METHOD: Final = "channels.inbound"
_one_value: Final = msgspec.json.Decoder(msgspec.Raw)


class PlainEnvelope:
    """The bare result, or the bare error object."""

    __slots__ = ()

    def success(self, result: bytes) -> tuple[int, bytes]:
        """See `calls.Envelope`."""
        return 200, result

    def refusal(self, error: GatewayError) -> bytes:
        """See `calls.Envelope`."""
        return response.error_body(error)


_plain: Final = PlainEnvelope()


def start(client: Client, request: Request) -> None:
    """Forward the body as the envelope of an inbound message."""
    try:
        body = _checked(bytes(request.body))
    except GatewayError as error:
        client.refuse(error)
        return
    # An account's name needs no escaping: the route has checked its letters.
    account = request.asked.path.removeprefix(PREFIX).encode("ascii")
    params = b'{"account":"%b","envelope":%b}' % (account, body)
    request.body = b""
    TenantCall(client, request, _plain, METHOD, params).start(streams=request.asked.wants_events)


def _checked(body: bytes) -> bytes:
    check_encoding(body)
    try:
        _one_value.decode(body)
    except msgspec.DecodeError as error:
        msg = f"the body is no JSON: {error}"
        raise GatewayError(ErrorCode.PARSE_ERROR, msg) from error
    except RecursionError as error:
        msg = "the body is nested too deeply"
        raise GatewayError(ErrorCode.PARSE_ERROR, msg) from error
    return body
