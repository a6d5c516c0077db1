"""Where a request becomes a WebSocket, or is told why not."""

from collections.abc import Callable
from typing import Protocol

from protocol.errors import ErrorCode, GatewayError
from supervisor.front import upgrade
from supervisor.front.exchange import Asked, Caller, MakeSuccessor, Request
from supervisor.front.socket_end import Hall
from supervisor.front.tenants import unavailable


class Prepare(Protocol):
    """Judges what is asked for at a path, and gives what makes the WebSocket."""

    def __call__(self, hall: Hall, asked: Asked) -> MakeSuccessor:
        """See `Prepare`.

        Raises:
            GatewayError: it cannot be had.
        """


def entrance(hall: Hall, protocol: str, prepare: Prepare) -> Callable[[Caller, Request], None]:
    """Give what answers requests at the path of one kind of WebSocket.

    Args:
        hall: What they share.
        protocol: The subprotocol that is spoken there.
        prepare: Makes one.
    """

    def start(caller: Caller, request: Request) -> None:
        try:
            head = _admit(hall, request.asked, protocol)
            make = prepare(hall, request.asked)
        except GatewayError as error:
            caller.refuse(error)
            return
        request.asked.upgrade = None
        caller.switch(head, make)

    return start


def _admit(hall: Hall, asked: Asked, protocol: str) -> bytes:
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
    return upgrade.accept(asked.upgrade, protocol)
