"""A link on an asyncio transport: the only place where frames meet sockets.

An exception that escapes `data_received` makes uvloop close the whole transport and every later
call hangs; so nothing may escape from here. A handler that raises ends its own link, with the
reason reported, and no other.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import msgspec

from protocol import frames, limits
from protocol.errors import (
    ErrorCode,
    GatewayError,
    LinkClosedError,
    LocalProtocolError,
    RemoteProtocolError,
)
from protocol.link import Link
from protocol.pieces import Pieces

Reply = frames.Result | frames.End | frames.Failure | frames.Chunk | LinkClosedError
OnReply = Callable[[Reply], None]


class LinkHandler(Protocol):
    """What the owner of a link end provides. Every method returns at once."""

    def on_call(self, end: "LinkEnd", call: frames.Call) -> None:
        """The peer asks; answer through `end.link`, then `end.flush()`."""

    def on_cancel(self, end: "LinkEnd", call_id: int) -> None:
        """Nobody waits for this answer any more; it must still be given."""

    def on_credit(self, end: "LinkEnd", call_id: int) -> None:
        """The stream of this call may go on."""

    def on_notice(
        self, end: "LinkEnd", frame: frames.Event | frames.Drain | frames.Drained | frames.Pong
    ) -> None:
        """A frame that belongs to no call."""

    def on_closed(self, end: "LinkEnd", reason: Exception | None) -> None:
        """The link has ended; `reason` is None when the peer just closed it."""


class LinkEnd(asyncio.Protocol):
    """One end of a link on a stream transport.

    What is said in one turn of the event loop leaves together.
    """

    def __init__(self, accepts: frozenset[type], handler: LinkHandler) -> None:
        self.link: Final = Link(accepts)
        self._handler: Final = handler
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._replies: dict[int, OnReply] = {}
        self._flush_due = False
        self.closed = False
        """Whether nothing can be sent any more."""
        self._reason: Exception | None = None
        self._asks_no_more = False
        self.congested = False
        """Whether more is waiting to be sent than should be; then let big answers wait."""
        self._writable = asyncio.Event()
        self._writable.set()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(
            high=limits.LINK_WRITE_BUFFER_HIGH, low=limits.LINK_WRITE_BUFFER_LOW
        )

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`. Lets nothing escape."""
        self._flush_due = True  # at the end of this
        try:
            for frame in self.link.receive(data):
                self._act[type(frame)](self, frame)
                if self.closed:
                    break
        except RemoteProtocolError as error:
            self.close(error)
        except Exception as error:  # noqa: BLE001 - anything that escapes would hang the transport
            self.close(error)
        self._write()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self.congested = True
        self._writable.clear()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self.congested = False
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self.closed = True
        self._writable.set()
        self.link.abandon()
        replies, self._replies = self._replies, {}
        gone = LinkClosedError("the process that was asked has gone away")
        for on_reply in replies.values():
            try:
                on_reply(gone)
            except Exception as error:  # noqa: BLE001 - the others have to hear of it too
                context = {"message": "the owner of a call failed at its end", "exception": error}
                self._loop.call_exception_handler(context)
        self._handler.on_closed(self, self._reason or exc)

    # For the owner.

    def close(self, reason: Exception | None = None) -> None:
        """End the link at once; open calls of ours end with `LinkClosedError`."""
        if not self.closed:
            self.closed = True
            self._reason = reason
            if self._transport is not None:
                self._transport.abort()

    def finish(self) -> None:
        """End the link once everything said has left; `on_closed` tells when."""
        self._write()
        if not self.closed and self._transport is not None:
            self._transport.close()

    def finish_after_calls(self) -> None:
        """End the link once every call of ours is answered; the peer then knows that none comes."""
        self._asks_no_more = True
        if not self.link.calls_open:
            self.finish()

    async def writable(self) -> None:
        """Wait until the transport's buffer has room again."""
        await self._writable.wait()

    def flush(self) -> None:
        """Have what the link wants to say written, at the latest in the next turn of the loop.

        At once when enough has come together, else when all that was received is acted on.
        """
        if self.link.outgoing_bytes >= limits.LINK_WRITE_BYTES:
            self._send()
        elif not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._write)

    def start_call(
        self,
        method: str,
        params: bytes | Pieces,
        on_reply: OnReply,
        *,
        scopes: int = 0,
        credit: int = 0,
        idempotency_key: str | None = None,
    ) -> int:
        """Ask the peer; `on_reply` gets every chunk and then one last answer or the link's end.

        Raises:
            LinkClosedError: the link has ended.
            LocalProtocolError: the call is over a bound.
        """
        if self.closed:
            msg = "the link has ended"
            raise LinkClosedError(msg)
        call_id = self.link.call(
            method, params, scopes=scopes, credit=credit, idempotency_key=idempotency_key
        )
        self._replies[call_id] = on_reply
        self.flush()
        return call_id

    async def call(self, method: str, params: Any, *, scopes: int = 0) -> bytes:
        """Ask the peer and wait for its plain result (JSON bytes). Bound the wait outside.

        Args:
            method: The name of the method.
            params: Anything msgspec encodes to a JSON object.
            scopes: The scopes granted to whoever asks.

        Raises:
            GatewayError: the peer refused, with the table's code.
            LinkClosedError: the link ended first, or ends now since the refusal cannot be read.
            LocalProtocolError: the call is over a bound.
        """
        answer: asyncio.Future[Reply] = self._loop.create_future()

        def settle(reply: Reply) -> None:
            if not answer.done():
                answer.set_result(reply)

        call_id = self.start_call(method, msgspec.json.encode(params), settle, scopes=scopes)
        try:
            reply = await answer
        except asyncio.CancelledError:
            self.link.cancel(call_id)
            self.flush()
            raise
        if isinstance(reply, LinkClosedError):
            raise reply
        if isinstance(reply, frames.Failure):
            raise self._failure_error(reply)
        assert isinstance(reply, frames.Result)
        return reply.body

    def fail(self, call_id: int, error: GatewayError) -> None:
        """Refuse the peer's call with an error of the table."""
        details = msgspec.json.encode(error.details)
        self.link.fail(call_id, error.code.name, error.message, details)
        self.flush()

    # Inside.

    def _failure_error(self, failure: frames.Failure) -> GatewayError:
        try:
            return failure_error(failure)
        except RemoteProtocolError as error:
            self.close(error)
            msg = "the process that was asked gave no proper answer"
            raise LinkClosedError(msg) from error

    def _write(self) -> None:
        self._flush_due = False
        if self.link.outgoing_bytes:
            self._send()

    def _send(self) -> None:
        if self.closed or self._transport is None or self._transport.is_closing():
            return
        self._transport.writelines(self.link.take_outgoing())
        # Only a peer that does not read leaves anything in the buffer.
        if self.congested and (
            self._transport.get_write_buffer_size() > limits.LINK_WRITE_BUFFER_MAX
        ):
            self.close(LocalProtocolError("the peer does not read"))

    # What is to be done about each kind of frame.

    def _on_call(self, call: frames.Call) -> None:
        self._handler.on_call(self, call)

    def _on_answer(self, answer: frames.Result | frames.Failure | frames.End) -> None:
        self._replies.pop(answer.id)(answer)
        if self._asks_no_more and not self.link.calls_open:
            self.finish()

    def _on_chunk(self, chunk: frames.Chunk) -> None:
        self._replies[chunk.id](chunk)

    def _on_cancel(self, cancel: frames.Cancel) -> None:
        self._handler.on_cancel(self, cancel.id)

    def _on_credit(self, credit: frames.Credit) -> None:
        self._handler.on_credit(self, credit.id)

    def _on_notice(
        self, notice: frames.Event | frames.Drain | frames.Drained | frames.Pong
    ) -> None:
        self._handler.on_notice(self, notice)

    _act: Final[dict[type, Callable[[Any, Any], None]]] = {
        frames.Call: _on_call,
        frames.Result: _on_answer,
        frames.Failure: _on_answer,
        frames.End: _on_answer,
        frames.Chunk: _on_chunk,
        frames.Cancel: _on_cancel,
        frames.Credit: _on_credit,
        frames.Event: _on_notice,
        frames.Drain: _on_notice,
        frames.Drained: _on_notice,
        frames.Pong: _on_notice,
    }


def failure_error(failure: frames.Failure) -> GatewayError:
    """Turn a peer's refusal into the error it names; what is not in the table is INTERNAL.

    Raises:
        RemoteProtocolError: the details are no JSON object.
    """
    try:
        details = msgspec.json.decode(failure.details, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f"failure details that are no JSON object: {error}"
        raise RemoteProtocolError(reason) from error
    code = ErrorCode.__members__.get(failure.code, ErrorCode.INTERNAL)
    return GatewayError(code, failure.message, **details)


async def attach(sock: socket.socket, accepts: frozenset[type], handler: LinkHandler) -> LinkEnd:
    """Put a link on our end of a socketpair; the transport owns the socket from here on."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    _, end = await loop.create_connection(lambda: LinkEnd(accepts, handler), sock=sock)
    return end
