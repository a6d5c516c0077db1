"""The handlers of `events.*`."""

from protocol.errors import ErrorCode, GatewayError
from protocol.methods import events
from worker.dispatch import CallContext, handles


@handles(events.POLL)
async def poll(call: CallContext, params: events.PollParams) -> events.PollResult:
    """Give the events after a cursor."""
    wait_seconds = params.wait_ms / 1000
    return await call.services.events.poll(params.cursor, params.limit, wait_seconds)


@handles(events.SUBSCRIBE)
def subscribe(_call: CallContext, _params: events.SubscribeParams) -> events.SubscribeResult:
    """Refuse it: what is subscribed to comes on a WebSocket, and the front sees to that."""
    raise _not_here()


@handles(events.UNSUBSCRIBE)
def unsubscribe(_call: CallContext, _params: events.UnsubscribeParams) -> events.SubscribeResult:
    """Refuse it, as `subscribe`."""
    raise _not_here()


def _not_here() -> GatewayError:
    message = "events come on a WebSocket (/ws) only; here, use events.poll"
    return GatewayError(ErrorCode.INVALID_REQUEST, message, field="method")
