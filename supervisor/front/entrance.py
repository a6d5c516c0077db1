"""Where a request becomes a WebSocket, or is told why not."""

from collections.abc import Callable

from protocol.errors import ErrorCode, GatewayError
from supervisor.front import upgrade
from supervisor.front.exchange import Asked, Caller, Request
from supervisor.front.socket_end import Hall
from supervisor.front.tenants import unavailable
from supervisor.front.websocket import WebSocket


def entrance(hall: Hall) -> Callable[[Caller, Request], None]:
    """Give what answers requests at `/ws`."""

    def start(caller: Caller, request: Request) -> None:
        try:
            head = _admit(hall, request.asked)
        except GatewayError as error:
            caller.refuse(error)
            return
        asked = request.asked
        asked.upgrade = None
        caller.switch(head, lambda transport, address: WebSocket(hall, transport, address, asked))

    return start


def _admit(hall: Hall, asked: Asked) -> bytes:
    """Give the head that changes the protocol.

    Raises:
        GatewayError: it does not change.
    """
    if asked.upgrade is None:
        msg = "this is a WebSocket: send Connection: Upgrade and Upgrade: websocket"
        raise GatewayError(ErrorCode.UPGRADE_REQUIRED, msg)
    if asked.idempotency_key is not None:
        msg = "idempotency-key: names one call; give each its idempotencyKey in params"
        raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="Idempotency-Key")
    if hall.draining:
        raise unavailable("the gateway is stopping")
    assert asked.grant is not None
    hall.sockets.check_room(asked.grant.tenant)
    return upgrade.accept(asked.upgrade)
