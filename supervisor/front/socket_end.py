"""Our end of one WebSocket as such (RFC 6455): framing, signs of life, deadlines, its end.

Framing is `websockets`' sans-I/O protocol; this puts it on the transport that the HTTP connection
gives over, within the limits of its tenant. What is spoken on it is the subclasses'.

Nothing that happens here may escape: callers are other connections' and workers' callbacks.
"""

import asyncio
import logging
from math import inf
from typing import Final, Protocol, cast

from websockets import protocol as sans_io
from websockets.frames import CloseCode, Frame, Opcode

from protocol import limits
from protocol.errors import GatewayError
from supervisor.front import framing
from supervisor.front.assembly import Assembly, TooManyFragmentsError
from supervisor.front.auth import Grant
from supervisor.front.exchange import Asked, Successor
from supervisor.front.heartbeat import Heartbeat, Sign
from supervisor.front.log import Log
from supervisor.front.sockets import Sockets
from supervisor.front.taking import Taking
from supervisor.front.turns import Reading, Turns

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

    def note_attached(self, grant: Grant, terminal_id: str, address: str) -> None:
        """Have it written down who sees a terminal."""


class SocketEnd(Successor):
    """See the module. Thousands may be idle: what is kept for one is kept small.

    Args:
        hall: What it shares with others.
        transport: Taken over from the HTTP connection.
        address: Of the peer.
        asked: The request that it was; its grant is there.
        message_bytes_max: The longest message that is taken.

    Attributes:
        grant: By which token it was opened.
        address: Of its peer.
    """

    __slots__ = (
        "_assembly",
        "_cut",
        "_hall",
        "_heartbeat",
        "_message_bytes_max",
        "_over",
        "_read",
        "_revoke_deadline",
        "_taking",
        "_transport",
        "_unframed",
        "_wire",
        "address",
        "grant",
    )

    def __init__(
        self,
        hall: Hall,
        transport: asyncio.Transport,
        address: str,
        asked: Asked,
        message_bytes_max: int,
    ) -> None:
        assert asked.grant is not None
        self.grant: Final[Grant] = asked.grant
        self.address: Final = address
        self._hall: Final = hall
        self._transport: Final = transport
        self._wire: Final = sans_io.Protocol(
            sans_io.Side.SERVER, max_size=message_bytes_max, logger=_silent
        )
        self._message_bytes_max: Final = message_bytes_max
        # So much of what has come has not been a frame yet.
        self._unframed = 0
        self._taking: Final = Taking(transport)
        self._read: Final = Reading(transport, hall.turns)
        self._assembly: Final = Assembly(asked.grant.tenant)
        self._over = self._cut = False
        self._revoke_deadline = inf
        self._heartbeat: Final = Heartbeat(hall.now())
        hall.sockets.enter(self)

    # What subclasses say.

    def _on_frame(self, frame: Frame) -> None:
        """Take a frame of a message."""
        raise NotImplementedError

    def _wants_input(self) -> bool:
        """Whether there is room for what the client sends."""
        return True

    def _on_writable(self) -> None:
        """The client takes more."""
        raise NotImplementedError

    def _on_tick(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        raise NotImplementedError

    def _part(self) -> None:
        """Have nothing more to do with the tenant."""
        raise NotImplementedError

    def drain(self) -> None:
        """Close the connection, now if nothing is asked, else with the last answer."""
        raise NotImplementedError

    def revoke(self, error: GatewayError) -> None:
        """Its token is good no more: hear nothing, and close with the last answer that is due."""
        raise NotImplementedError

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
            if self._wants_input():
                self._read.go_on()
            self._on_writable()
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

    # For subclasses and whoever they answer.

    @property
    def write_paused(self) -> bool:
        """Whether the client reads slower than we write."""
        return self._taking.paused

    def now(self) -> float:
        """Monotonic seconds."""
        return self._hall.now()

    # For the table of sockets.

    def tick(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        try:
            if now >= self._taking.deadline and (self._cut or self._taking.has_stalled(now)):
                self.abort()
            if self._over:
                return
            self._on_tick(now)
            if now >= self._revoke_deadline:
                self._close_revoked()
            elif now >= self._assembly.deadline:
                self._fail(CloseCode.POLICY_VIOLATION, "the message did not arrive in time")
            elif now >= self._heartbeat.deadline and not self._taking.paused:
                self._look_for_life(now)
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._break(error)

    @property
    def _is_revoked(self) -> bool:
        return self._revoke_deadline < inf

    def _close_revoked(self) -> None:
        self.close(CloseCode.POLICY_VIOLATION, "the token is no longer valid", cut=True)

    def close(self, code: int, reason: str, *, cut: bool = False) -> None:
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
        wire = self._wire
        if not self._unframed and wire.current_size is None and wire.state is sans_io.OPEN:
            whole = framing.read(data, self._message_bytes_max)
            if whole is not None:
                self._on_frame(whole)
                return
        self._unframed += len(data)
        wire.receive_data(data)
        for event in wire.events_received():
            # The handshake was before, so that there are no other events.
            frame = cast("Frame", event)
            self._unframed -= framing.size_of(frame)
            self._on_frame(frame)
            if self._over:
                return
        self._flush()
        self._count_receiving()

    def _assemble(self, frame: Frame) -> bytes | None:
        """Take a frame of a text; gives the message with its last one."""
        try:
            message = self._assembly.take(frame)
        except TooManyFragmentsError:
            msg = f"a message has at most {limits.SOCKET_FRAGMENTS_MAX} fragments"
            self._fail(CloseCode.POLICY_VIOLATION, msg)
            return None
        if message is not None:
            self._assembly.complete()
        return message

    def _count_receiving(self) -> None:
        if self._over:
            return
        size = len(self._wire.reader.buffer) + (self._wire.current_size or 0)
        try:
            self._assembly.count(size, self._hall.now())
        except GatewayError as error:
            self._fail(CloseCode.TRY_AGAIN_LATER, error.message)

    # Inside: writing and the end.

    def _say(self, message: bytes, *, binary: bool = False) -> None:
        # The client's close may have come right after what is answered here.
        if self._over or self._wire.state is not sans_io.OPEN:
            return
        if self._transport.get_write_buffer_size() > limits.SOCKET_ANSWER_BUFFER_BYTES_MAX:
            self._fail(CloseCode.POLICY_VIOLATION, "the client does not take its answers")
            return
        opcode = Opcode.BINARY if binary else Opcode.TEXT
        self._transport.write(framing.written(opcode, message))
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

    def _fail(self, code: int, reason: str) -> None:
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
        self._part()

    def _break(self, error: Exception) -> None:
        self._hall.log.broken("websocket", error)
        self.abort()
