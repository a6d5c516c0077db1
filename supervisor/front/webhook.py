"""`POST /channels/webhook/<account>`: an inbound message of the generic channel."""

from typing import Final

from protocol.errors import GatewayError
from supervisor.front import response
from supervisor.front.calls import TenantCall
from supervisor.front.exchange import Client, Request
from supervisor.front.rpc import check_value

PREFIX: Final = "/channels/webhook/"
METHOD: Final = "channels.inbound"


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
    body = bytes(request.body)
    try:
        check_value(body)
    except GatewayError as error:
        client.refuse(error)
        return
    # An account's name needs no escaping: the route has checked its letters.
    account = request.asked.path.removeprefix(PREFIX).encode("ascii")
    params = b'{"account":"%b","envelope":%b}' % (account, body)
    request.body = b""
    TenantCall(client, request, _plain, METHOD, params).start(streams=request.asked.wants_events)
