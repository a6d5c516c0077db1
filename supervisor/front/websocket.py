"""`/ws`: JSON-RPC 2.0 both ways on one connection (RFC 6455).

Framing is `websockets`' sans-I/O protocol; this puts it on the transport that the HTTP connection
gives over, within the limits of its tenant. Requests run side by side and are answered as they are
done. What is sent to the client besides is the notification `event`, numbered by `seq` for each
connection; of an event that is not sent the number is left out, so that the gap shows.

Nothing that happens here may escape: callers are other connections' and workers' callbacks.
"""

import asyncio
import logging
from math import inf
from typing import Final, Protocol, cast

from websockets import protocol as sans_io
from websockets.frames import CloseCode, Frame, Opcode

from protocol import jsonrpc, limits, scopes
from protocol.errors import ErrorCode, GatewayError
from protocol.methods.events import SUBSCRIBE, UNSUBSCRIBE
from supervisor.front import rpc, subscription
from supervisor.front.assembly import Assembly, TooManyFragmentsError
from supervisor.front.auth import Grant
from supervisor.front.exchange import Asked, Client, Request, Successor
from supervisor.front.heartbeat import Heartbeat, Sign
from supervisor.front.log import Log
from supervisor.front.socket_call import SocketCall
from supervisor.front.sockets import Sockets
from supervisor.front.subscription import Event, Subscription
from supervisor.front.taking import Taking
from supervisor.front.tenants import RETRY_MS, unavailable
from supervisor.front.turns import Reading, Turns

_SUBSCRIBED: Final = b'{"subscribed":true}'
_UNSUBSCRIBED: Final = b'{"subscribed":false}'
# A close frame's reason has at most 123 bytes (RFC 6455, section 5.5).
_REASON_CHARS_MAX: Final = 120
# The library's own lines would tell what clients send.
_silent: Final = logging.getLogger("openclaw.front.websocket")
_silent.disabled = True


class Hall(Protocol):
    """What WebSockets share."""

    log: Log
    turns: Turns
    draining: bool

    @property
    def sockets(self) -> Sockets:
        """All of them."""

    def now(self) -> float:
        """Monotonic seconds."""


class WebSocket(Successor):
    """One client's WebSocket. Thousands may be idle: what is kept for one is kept small.

    Attributes:
        grant: By which token it was opened.
        address: Of its peer.
    """

    __slots__ = (
        "_asked",
        "_assembly",
        "_calls",
        "_cut",
        "_hall",
        "_heartbeat",
        "_over",
        "_read",
        "_revoke_deadline",
        "_seq",
        "_subscription",
        "_taking",
        "_transport",
        "_wire",
        "address",
        "grant",
    )

    def __init__(
        self, hall: Hall, transport: asyncio.Transport, address: str, asked: Asked
    ) -> None:
        assert asked.grant is not None
        self.grant: Final[Grant] = asked.grant
        self.address: Final = address
        self._hall: Final = hall
        self._transport: Final = transport
        self._asked: Final = asked
        self._wire: Final = sans_io.Protocol(
            sans_io.Side.SERVER, max_size=limits.SOCKET_MESSAGE_BYTES_MAX, logger=_silent
        )
        self._taking: Final = Taking(transport)
        self._read: Final = Reading(transport, hall.turns)
        # In the order in which their time ends.
        self._calls: Final[dict[SocketCall, None]] = {}
        self._subscription: Subscription | None = None
        self._seq = 0
        self._assembly: Final = Assembly(asked.grant.tenant)
        self._over = self._cut = False
        self._revoke_deadline = inf
        self._heartbeat: Final = Heartbeat(hall.now())
        hall.sockets.enter(self)

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            if not (self._over or self._is_revoked):
                self._take(data)
            self._read.took(len(data), self.grant.tenant)
        except Exception as error:  # noqa: BLE001 - what escapes would hang the transport
            self._break(error)

    def eof_received(self) -> None:
        """See `asyncio.Protocol`. Has the transport closed."""

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`. Who does not read is not read from."""
        self._taking.pause(self._hall.now())
        if not self._over:
            self._read.stop()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._taking.resume()
        if self._over:
            return
        try:
            self._heartbeat.heard = True
            self._read.go_on()
            for call in list(self._calls):
                call.on_writable()
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._break(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._taking.forget()
        try:
            self._give_up()
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._hall.log.broken("websocket", error)
        self._hall.sockets.leave(self)

    # For its calls.

    @property
    def write_paused(self) -> bool:
        """Whether the client reads slower than we write."""
        return self._taking.paused

    def now(self) -> float:
        """Monotonic seconds."""
        return self._hall.now()

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

    def tick(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        try:
            if now >= self._taking.deadline and (self._cut or self._taking.has_stalled(now)):
                self.abort()
            if self._over:
                return
            while self._calls and now >= (call := next(iter(self._calls))).deadline:
                del self._calls[call]
                call.expire(GatewayError(ErrorCode.TIMEOUT, "the call took too long"))
            if now >= self._revoke_deadline:
                self._close_revoked()
            elif now >= self._assembly.deadline:
                self._fail(CloseCode.POLICY_VIOLATION, "the message did not arrive in time")
            elif now >= self._heartbeat.deadline and not self._taking.paused:
                self._look_for_life(now)
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._break(error)

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

    @property
    def _is_revoked(self) -> bool:
        return self._revoke_deadline < inf

    def _close_revoked(self) -> None:
        self.close(CloseCode.POLICY_VIOLATION, "the token is no longer valid", cut=True)

    def close(self, code: CloseCode, reason: str, *, cut: bool = False) -> None:
        """Close the connection; nothing of the client is heard or answered any more.

        Args:
            code: Why, as a number.
            reason: Why, as a sentence without secrets.
            cut: At once: what it has not taken soon is lost.
        """
        try:
            self._cut = self._cut or cut
            self._fail(code, reason)
            if cut:
                self._taking.expect(self._hall.now(), limits.SOCKET_CUT_SECONDS)
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._break(error)

    def abort(self) -> None:
        """Close the connection and lose what has not been sent."""
        self._over = True
        self._transport.abort()

    # Inside: reading.

    def _take(self, data: bytes) -> None:
        self._heartbeat.heard = True
        self._wire.receive_data(data)
        for frame in self._wire.events_received():
            # The handshake was before, so that there are no other events.
            self._on_frame(cast("Frame", frame))
            if self._over:
                return
        self._flush()
        self._count_receiving()

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY:
            self._fail(CloseCode.UNSUPPORTED_DATA, "messages are text")
            return
        try:
            message = self._assembly.take(frame)
        except TooManyFragmentsError:
            msg = f"a message has at most {limits.SOCKET_FRAGMENTS_MAX} fragments"
            self._fail(CloseCode.POLICY_VIOLATION, msg)
            return
        if message is not None:
            self._on_message(message)

    def _count_receiving(self) -> None:
        if self._over:
            return
        size = len(self._wire.reader.buffer) + (self._wire.current_size or 0)
        try:
            self._assembly.count(size, self._hall.now())
        except GatewayError as error:
            self._fail(CloseCode.TRY_AGAIN_LATER, error.message)

    def _on_message(self, data: bytes) -> None:
        self._assembly.complete()
        try:
            rpc.check_encoding(data)
        except GatewayError:
            self._fail(CloseCode.INVALID_DATA, "the message is not UTF-8")
            return
        request = Request(self._asked)
        client = SocketCall(self)
        try:
            if jsonrpc.is_batch(data):
                self._admit(request, len(data))
                rpc.begin_batch(client, request, data, self._start)
                return
            call = jsonrpc.decode_streamable(data)
            client.request_id = call.id
            self._admit(request, len(data))
        except GatewayError as error:
            request.release()
            client.refuse(error)
            return
        self._start(client, request, call, streams=call.stream)

    def _admit(self, request: Request, size: int) -> None:
        if self._hall.draining:
            raise unavailable("the gateway is stopping")
        if len(self._calls) >= limits.SOCKET_CALLS_MAX:
            msg = f"a WebSocket has at most {limits.SOCKET_CALLS_MAX} calls in flight"
            raise GatewayError(ErrorCode.RATE_LIMITED, msg, retryAfterMs=RETRY_MS)
        self.grant.tenant.reserve(size)
        request.reserved = size

    def _start(
        self, client: Client, request: Request, call: jsonrpc.Request, *, streams: bool = False
    ) -> None:
        """Begin a call; what concerns this connection is done here, the rest by the worker."""
        if call.method not in (SUBSCRIBE.name, UNSUBSCRIBE.name):
            rpc.forward(client, request, call, streams=streams)
            return
        request.release()
        envelope = rpc.envelope_of(call)
        try:
            status, body = envelope.success(self._subscribe(call.method, bytes(call.params)))
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

    # Inside: writing and the end.

    def _say(self, message: bytes) -> None:
        # The client's close may have come right after what is answered here.
        if self._over or self._wire.state is not sans_io.OPEN:
            return
        if self._transport.get_write_buffer_size() > limits.SOCKET_ANSWER_BUFFER_BYTES_MAX:
            self._fail(CloseCode.POLICY_VIOLATION, "the client does not take its answers")
            return
        self._wire.send_text(message)
        self._flush()
        self._taking.charge(self.grant.tenant, len(message))

    def _flush(self) -> None:
        for data in self._wire.data_to_send():
            if data == sans_io.SEND_EOF:
                self._end()
            else:
                self._transport.write(data)

    def _look_for_life(self, now: float) -> None:
        sign = self._heartbeat.look(now)
        if sign is Sign.DEAD:
            self._fail(CloseCode.INTERNAL_ERROR, "no answer to a ping")
        elif sign is Sign.PING:
            self._wire.send_ping(b"")
            self._flush()

    def _fail(self, code: CloseCode, reason: str) -> None:
        if not self._over:
            self._wire.fail(code, reason[:_REASON_CHARS_MAX])
            self._flush()

    def _end(self) -> None:
        """Close our side; what still comes is thrown away for a moment.

        With input unread the kernel would reset the connection, and the client lose the reason.
        """
        self._over = True
        self._give_up()
        self._hall.sockets.end(self)
        sent = self._transport.get_write_buffer_size() == 0
        if self._transport.can_write_eof():
            self._read.go_on()
            self._transport.write_eof()
        else:
            self._transport.close()
        seconds = limits.HTTP_LINGER_SECONDS if sent else limits.HTTP_WRITE_SECONDS
        self._taking.expect(self._hall.now(), seconds)

    def _give_up(self) -> None:
        """Have nothing more to do with the tenant."""
        self._over = True
        self._assembly.drop()
        self._unsubscribe()
        calls = list(self._calls)
        self._calls.clear()
        for call in calls:
            call.abandon()

    def _break(self, error: Exception) -> None:
        self._hall.log.broken("websocket", error)
        self.abort()
