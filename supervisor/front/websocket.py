"""`/ws`: JSON-RPC 2.0 both ways on one connection (RFC 6455).

Requests run side by side and are answered as they are done. What is sent to the client besides is
the notification `event`, numbered by `seq` for each connection; of an event that is not sent the
number is left out, so that the gap shows.
"""

import asyncio
from typing import Final

from websockets.frames import CloseCode, Frame, Opcode

from protocol import jsonrpc, limits, scopes
from protocol.errors import ErrorCode, GatewayError
from protocol.methods.events import SUBSCRIBE, UNSUBSCRIBE
from protocol.pieces import Pieces
from supervisor.front import rpc, subscription
from supervisor.front.exchange import Asked, Client, MakeSuccessor, Request
from supervisor.front.socket_call import SocketCall
from supervisor.front.socket_end import Hall, SocketEnd
from supervisor.front.subscription import Event, Subscription
from supervisor.front.tenants import RETRY_MS, unavailable

_SUBSCRIBED: Final = b'{"subscribed":true}'
_UNSUBSCRIBED: Final = b'{"subscribed":false}'


class WebSocket(SocketEnd):
    """One client's WebSocket."""

    __slots__ = ("_asked", "_calls", "_seq", "_subscription")

    def __init__(
        self, hall: Hall, transport: asyncio.Transport, address: str, asked: Asked
    ) -> None:
        self._asked: Final = asked
        # In the order in which their time ends.
        self._calls: Final[dict[SocketCall, None]] = {}
        self._subscription: Subscription | None = None
        self._seq = 0
        super().__init__(hall, transport, address, asked, limits.SOCKET_MESSAGE_BYTES_MAX)

    # For its calls.

    def open(self, call: SocketCall) -> None:
        """A call waits for its answer."""
        self._calls[call] = None

    def answered(self, call: SocketCall, status: int, body: bytes) -> None:
        """A call has its answer; empty for none. The status is that of HTTP."""
        self._calls.pop(call, None)
        self.grant.tenant.meters.answered("ws", status, self._hall.now() - call.begun_at)
        try:
            if body:
                self._say(body)
            if self._is_revoked and not self._calls:
                self._close_revoked()
            elif self._hall.draining and not self._calls:
                self._fail(CloseCode.GOING_AWAY, "the gateway is stopping")
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._break(error)

    def say_chunk(self, request_id: bytes, name: bytes, data: bytes) -> None:
        """Send a piece of an answer; credit bounds how many there are, none is dropped."""
        self._seq += 1
        message = (
            b'{"jsonrpc":"2.0","method":"event","params":'
            b'{"event":"%b","seq":%d,"id":%b,"payload":%b}}' % (name, self._seq, request_id, data)
        )
        try:
            self._say(message)
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._break(error)

    # For its tenant.

    def on_event(self, event: Event) -> None:
        """Send an event on that was subscribed to, unless the client is too far behind."""
        if self._over or self._subscription is None or not self._subscription.takes(event):
            return
        self._seq += 1
        if self._transport.get_write_buffer_size() > limits.SOCKET_EVENT_BUFFER_BYTES_MAX:
            return
        try:
            self._say(event.message(self._seq))
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._break(error)

    # For the table of sockets.

    def drain(self) -> None:
        """Close the connection, now if nothing is asked, else with the last answer."""
        if not self._calls:
            self.close(CloseCode.GOING_AWAY, "the gateway is stopping")

    def revoke(self, error: GatewayError) -> None:
        """Hear nothing more, and close: now, or with the answer to what was begun in time.

        What ends the token may be a call on this very connection, whose answer has the next one.
        """
        if self._over or self._is_revoked:
            return
        self._revoke_deadline = self._hall.now() + limits.SOCKET_CUT_SECONDS
        try:
            self._unsubscribe()
            self._assembly.drop()
            for call in list(self._calls):
                call.revoke(error)
            if not self._calls or self._taking.paused:
                self._close_revoked()
            else:
                self._hall.sockets.end(self)
        except Exception as failure:  # noqa: BLE001 - as in data_received
            self._break(failure)

    # socket_end.SocketEnd

    def _on_writable(self) -> None:
        for call in list(self._calls):
            call.on_writable()

    def _on_tick(self, now: float) -> None:
        while self._calls and now >= (call := next(iter(self._calls))).deadline:
            del self._calls[call]
            call.expire(GatewayError(ErrorCode.TIMEOUT, "the call took too long"))

    def _part(self) -> None:
        self._unsubscribe()
        calls = list(self._calls)
        self._calls.clear()
        for call in calls:
            call.abandon()

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY:
            self._fail(CloseCode.UNSUPPORTED_DATA, "messages are text")
            return
        message = self._assemble(frame)
        if message is not None:
            self._on_message(message)

    # Inside.

    def _on_message(self, data: bytes) -> None:
        body = Pieces(data) if len(data) > limits.RPC_SCANNED_BYTES_MAX else data
        try:
            rpc.check_encoding(body)
        except GatewayError:
            self._fail(CloseCode.INVALID_DATA, "the message is not UTF-8")
            return
        request = Request(self._asked)
        client = SocketCall(self)
        try:
            if jsonrpc.is_batch(body):
                self._admit(request, len(data))
                rpc.begin_batch(client, request, body, self._start)
                return
            call, params = rpc.read(body, jsonrpc.decode_streamable)
            client.request_id = call.id
            self._admit(request, len(data))
        except GatewayError as error:
            request.release()
            client.refuse(error)
            return
        self._start(client, request, call, params, streams=call.stream)

    def _admit(self, request: Request, size: int) -> None:
        if self._hall.draining:
            raise unavailable("the gateway is stopping")
        if len(self._calls) >= limits.SOCKET_CALLS_MAX:
            msg = f"a WebSocket has at most {limits.SOCKET_CALLS_MAX} calls in flight"
            raise GatewayError(ErrorCode.RATE_LIMITED, msg, retryAfterMs=RETRY_MS)
        self.grant.tenant.reserve(size)
        request.reserved = size

    def _start(
        self,
        client: Client,
        request: Request,
        call: jsonrpc.Request,
        params: bytes | Pieces,
        *,
        streams: bool = False,
    ) -> None:
        """Begin a call; what concerns this connection is done here, the rest by the worker."""
        if call.method not in (SUBSCRIBE.name, UNSUBSCRIBE.name):
            rpc.forward(client, request, call, params, streams=streams)
            return
        request.release()
        envelope = rpc.envelope_of(call)
        try:
            self.grant.tenant.admit(call.method, client)
            status, body = envelope.success(self._subscribe(call.method, bytes(params)))
        except GatewayError as error:
            status, body = error.code.http_status, envelope.refusal(error)
        client.answer(status, body)

    def _subscribe(self, method: str, params: bytes) -> bytes:
        needed = SUBSCRIBE.scope
        if not scopes.allows(self.grant.scopes, needed):
            raise scopes.refusal(needed)
        if method == SUBSCRIBE.name:
            self._subscription = subscription.subscribed(params)
            self.grant.tenant.listen(self)
            return _SUBSCRIBED
        subscription.check_unsubscribe(params)
        self._unsubscribe()
        return _UNSUBSCRIBED

    def _unsubscribe(self) -> None:
        self._subscription = None
        self.grant.tenant.unlisten(self)


def prepare(hall: Hall, asked: Asked) -> MakeSuccessor:
    """See `entrance.Prepare`."""
    return lambda transport, address: WebSocket(hall, transport, address, asked)
