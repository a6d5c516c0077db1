"""One end of a link as a state machine: frames in, frames out, no I/O and no clock.

Two rules hold everywhere. What the peer does wrong raises `RemoteProtocolError` and ends the link:
a frame over its bound, of an unknown tag, of a kind this end does not take, or about an id never
asked. What our own side does wrong raises `LocalProtocolError` and changes nothing; above all, no
frame leaves that the peer would have to refuse.

An id lives from its `Call` to its `Result`, `Failure` or `End`; `Cancel` does not retire it, since
the answer may already be on its way.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

import msgspec

from protocol import frames, limits
from protocol.codec import FrameDecoder, encode_apart, encode_into
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.pieces import Buffer, Pieces

ANSWERS: Final = frozenset({frames.Result, frames.Failure, frames.Chunk, frames.End})
"""What a peer that only answers may send, beside signs of life."""

REQUESTS: Final = frozenset({frames.Call, frames.Cancel, frames.Credit})
"""What a peer that calls may send."""

LIVENESS: Final = frozenset({frames.Ping, frames.Pong})


class _Open(msgspec.Struct, gc=False):
    """A call, ours or the peer's, that waits for its answer."""

    credit: int
    streams: bool
    cancelled: bool = False


class Link:
    """One end of a link.

    Args:
        accepts: The frame types that the peer may send. Everything else ends the link.
    """

    def __init__(self, accepts: frozenset[type]) -> None:
        self._accepts: Final = accepts
        self._decoder = FrameDecoder()
        self._out = bytearray()
        self._out_before: list[Buffer] = []
        self._asked: dict[int, _Open] = {}
        self._serving: dict[int, _Open] = {}
        self._last_asked = 0
        self._last_served = 0
        self._last_ping = 0
        self._last_pong = 0
        self._broken = False

    # What our side does.

    @property
    def calls_open(self) -> int:
        """How many of our calls wait for an answer."""
        return len(self._asked)

    @property
    def calls_serving(self) -> int:
        """How many of the peer's calls wait for our answer."""
        return len(self._serving)

    def is_serving(self, call_id: int) -> bool:
        """Say whether the peer's call still waits for our answer."""
        return call_id in self._serving

    def call(
        self,
        method: str,
        params: bytes | Pieces,
        *,
        scopes: int = 0,
        credit: int = 0,
        idempotency_key: str | None = None,
    ) -> int:
        """Ask the peer to run `method`; gives the id that its answer will carry.

        Raises:
            LocalProtocolError: too many calls are open, a field is over its bound, the call does
                not fit a frame, or the link has ended.
        """
        if self._broken:
            msg = "the link has ended"
            raise LocalProtocolError(msg)
        if len(self._asked) >= limits.CALLS_IN_FLIGHT_MAX:
            msg = f"{limits.CALLS_IN_FLIGHT_MAX} calls are in flight already"
            raise LocalProtocolError(msg)
        if (
            len(method) > limits.METHOD_NAME_CHARS_MAX
            or not 0 <= scopes <= limits.SCOPE_BITS_MAX
            or not 0 <= credit <= limits.STREAM_CREDIT_MAX
            or (idempotency_key and len(idempotency_key) > limits.IDEMPOTENCY_KEY_CHARS_MAX)
        ):
            msg = "a field of the call is over its bound"
            raise LocalProtocolError(msg)
        call_id = self._last_asked + 1
        if isinstance(params, Pieces):
            frame = frames.Call(call_id, method, b"", scopes, credit, idempotency_key)
            self._out_before += [self._out, *encode_apart(frame, params)]
            self._out = bytearray()
        else:
            frame = frames.Call(call_id, method, params, scopes, credit, idempotency_key)
            encode_into(self._out, frame)
        self._last_asked = call_id
        self._asked[call_id] = _Open(credit, credit > 0)
        return call_id

    def cancel(self, call_id: int) -> None:
        """Tell the peer that nobody waits for this answer; without effect once it has come."""
        asked = self._asked.get(call_id)
        if asked is not None and not asked.cancelled:
            asked.cancelled = True
            self._say(frames.Cancel(call_id))

    def grant(self, call_id: int, count: int) -> None:
        """Let the peer send `count` chunks more; without effect once the stream has ended.

        Raises:
            LocalProtocolError: the credit would go over its bound, or the call has no stream.
        """
        asked = self._asked.get(call_id)
        if asked is None:
            return
        if not asked.streams or not 1 <= count <= limits.STREAM_CREDIT_MAX - asked.credit:
            msg = f"credit of call {call_id} over {limits.STREAM_CREDIT_MAX}, or no stream"
            raise LocalProtocolError(msg)
        asked.credit += count
        self._say(frames.Credit(call_id, count))

    def result(self, call_id: int, body: bytes) -> None:
        """Answer the peer's call with JSON and retire it.

        Raises:
            LocalProtocolError: the call is not open, or the answer does not fit a frame.
        """
        self._answer(call_id, frames.Result(call_id, body))

    def end(self, call_id: int, body: bytes) -> None:
        """End the stream of the peer's call with its result and retire it.

        Raises:
            LocalProtocolError: as `result`, or the peer asked for no stream.
        """
        serving = self._serving.get(call_id)
        if serving is not None and not serving.streams:
            msg = f"the end of a stream on call {call_id}, which has none"
            raise LocalProtocolError(msg)
        self._answer(call_id, frames.End(call_id, body))

    def fail(self, call_id: int, code: str, message: str, details: bytes = b"{}") -> None:
        """Refuse the peer's call and retire it. A sentence over the bound is cut.

        Raises:
            LocalProtocolError: as `result`, or the code is over its bound.
        """
        if len(code) > limits.ERROR_CODE_CHARS_MAX:
            msg = f"an error code of {len(code)} characters"
            raise LocalProtocolError(msg)
        sentence = message[: limits.ERROR_MESSAGE_CHARS_MAX]
        self._answer(call_id, frames.Failure(call_id, code, sentence, details))

    def stream_credit(self, call_id: int) -> int:
        """How many chunks the peer takes now for this call of its; 0 for one that is not open."""
        serving = self._serving.get(call_id)
        return 0 if serving is None else serving.credit

    def chunk(self, call_id: int, data: bytes, *, goes_on: bool = False) -> None:
        """Send one piece of a stream, or with `goes_on` the beginning of one.

        Raises:
            LocalProtocolError: no credit is left, the piece is over its bound or the call is not
                open.
        """
        serving = self._serving.get(call_id)
        if serving is None or serving.credit < 1 or len(data) > limits.CHUNK_BYTES_MAX:
            credit = self.stream_credit(call_id)
            msg = f"a chunk of {len(data)} bytes on call {call_id} with a credit of {credit}"
            raise LocalProtocolError(msg)
        self._say(frames.Chunk(call_id, data, goes_on))
        serving.credit -= 1

    def send(self, frame: frames.Event | frames.Drain | frames.Drained) -> None:
        """Send a frame that belongs to no call; without effect once the link has ended.

        Raises:
            LocalProtocolError: a field is over its bound, or the frame does not fit.
        """
        match frame:
            case frames.Event():
                fits = len(frame.topic) <= limits.METHOD_NAME_CHARS_MAX
            case frames.Drain():
                fits = 0 <= frame.seconds <= limits.DRAIN_SECONDS_MAX
            case frames.Drained():
                fits = True
        if not fits:
            msg = f"a field of a {type(frame).__name__} frame is over its bound"
            raise LocalProtocolError(msg)
        self._say(frame)

    def ping(self) -> int:
        """Ask for a sign of life; gives how many earlier ones are still unanswered."""
        missed = self._last_ping - self._last_pong
        self._last_ping += 1
        self._say(frames.Ping(self._last_ping))
        return missed

    def take_outgoing(self) -> list[Buffer]:
        """Give what is to be written to the peer, and forget it."""
        out = [*self._out_before, self._out]
        self._out_before.clear()
        self._out = bytearray()
        return out

    @property
    def outgoing_bytes(self) -> int:
        """How much `take_outgoing` would give."""
        return len(self._out) + sum(map(len, self._out_before))

    def abandon(self) -> list[int]:
        """Forget all there is (the link has ended); gives the ids of our open calls."""
        ids = list(self._asked)
        self._asked.clear()
        self._serving.clear()
        self.take_outgoing()
        self._decoder = FrameDecoder()
        self._broken = True
        return ids

    def _say(self, frame: frames.Frame) -> None:
        # Nobody would read it, and what nobody takes must not pile up.
        if not self._broken:
            encode_into(self._out, frame)

    def _answer(self, call_id: int, frame: frames.Result | frames.Failure | frames.End) -> None:
        if call_id not in self._serving:
            msg = f"an answer to call {call_id}, which is not open"
            raise LocalProtocolError(msg)
        self._say(frame)
        del self._serving[call_id]

    # What the peer does.

    def receive(self, data: bytes) -> Iterator[frames.Frame]:
        """Take bytes from the peer and yield the frames our side must act on, in order.

        Pings are answered here, credits and retirements are booked here.

        Raises:
            RemoteProtocolError: the peer broke the contract; the link cannot go on.
        """
        if self._broken:
            reason = "the link has ended"
            raise RemoteProtocolError(reason)
        try:
            for frame in self._decoder.feed(data):
                kind = type(frame)
                if kind not in self._accepts:
                    _refuse(f"a {kind.__name__} frame, which this end does not take")
                if self._book[kind](self, frame):
                    yield frame
        except RemoteProtocolError:
            self._broken = True
            raise

    # Each notes what a frame changes, and says whether our side has to see it.

    def _book_call(self, call: frames.Call) -> bool:
        if call.id <= self._last_served:
            _refuse(f"call id {call.id} again")
        if len(self._serving) >= limits.CALLS_IN_FLIGHT_MAX:
            _refuse(f"more than {limits.CALLS_IN_FLIGHT_MAX} calls in flight")
        self._last_served = call.id
        self._serving[call.id] = _Open(call.credit, call.credit > 0)
        return True

    def _book_answer(self, answer: frames.Result | frames.Failure) -> bool:
        if self._asked.pop(answer.id, None) is None:
            _refuse_answer(answer.id)
        return True

    def _book_chunk(self, chunk: frames.Chunk) -> bool:
        asked = self._asked.get(chunk.id)
        if asked is None:
            _refuse_answer(chunk.id)
        if asked.credit < 1:
            _refuse(f"a chunk on call {chunk.id} without credit")
        asked.credit -= 1
        return not asked.cancelled

    def _book_end(self, end: frames.End) -> bool:
        asked = self._asked.get(end.id)
        if asked is None:
            _refuse_answer(end.id)
        if not asked.streams:
            _refuse(f"the end of a stream on call {end.id}, which has none")
        del self._asked[end.id]
        return True

    def _book_credit(self, credit: frames.Credit) -> bool:
        if credit.id > self._last_served:
            _refuse(f"credit for call {credit.id}, which was never made")
        serving = self._serving.get(credit.id)
        if serving is None:
            return False
        if not serving.streams or serving.credit + credit.count > limits.STREAM_CREDIT_MAX:
            _refuse(f"credit of call {credit.id} over {limits.STREAM_CREDIT_MAX}, or no stream")
        serving.credit += credit.count
        return True

    def _book_cancel(self, cancel: frames.Cancel) -> bool:
        if cancel.id > self._last_served:
            _refuse(f"a cancel of call {cancel.id}, which was never made")
        return cancel.id in self._serving

    def _book_ping(self, ping: frames.Ping) -> bool:
        self._say(frames.Pong(ping.nonce))
        return False

    def _book_pong(self, pong: frames.Pong) -> bool:
        if not self._last_pong < pong.nonce <= self._last_ping:
            _refuse(f"a pong to ping {pong.nonce}, which waits for none")
        # An answer proves that the loop took everything before it too.
        self._last_pong = pong.nonce
        return True

    def _book_notice(self, _notice: frames.Event | frames.Drain | frames.Drained) -> bool:
        return True

    _book: Final[dict[type, Callable[[Any, Any], bool]]] = {
        frames.Call: _book_call,
        frames.Result: _book_answer,
        frames.Failure: _book_answer,
        frames.Chunk: _book_chunk,
        frames.End: _book_end,
        frames.Credit: _book_credit,
        frames.Cancel: _book_cancel,
        frames.Event: _book_notice,
        frames.Ping: _book_ping,
        frames.Pong: _book_pong,
        frames.Drain: _book_notice,
        frames.Drained: _book_notice,
    }


def _refuse_answer(call_id: int) -> NoReturn:
    _refuse(f"an answer to call {call_id}, which is not open")


def _refuse(reason: str) -> NoReturn:
    raise RemoteProtocolError(reason)
