"""One end of a link as a state machine: frames in, frames out, no I/O and no clock.

Two rules hold everywhere. What the peer does wrong raises `RemoteProtocolError` and ends the link:
a frame over its bound, of an unknown tag, of a kind this end does not take, or about an id never
asked. What our own side does wrong raises `LocalProtocolError` and changes nothing.

An id lives from its `Call` to its `Result`, `Failure` or `End`; `Cancel` does not retire it, since
the answer may already be on its way.
"""

from collections.abc import Iterator
from typing import Final, NoReturn

from protocol import frames, limits
from protocol.codec import FrameDecoder, encode_into
from protocol.errors import LocalProtocolError, RemoteProtocolError

ANSWERS: Final = frozenset({frames.Result, frames.Failure, frames.Chunk, frames.End})
"""What a peer that only answers may send, beside signs of life."""

REQUESTS: Final = frozenset({frames.Call, frames.Cancel, frames.Credit})
"""What a peer that calls may send."""

LIVENESS: Final = frozenset({frames.Ping, frames.Pong})


class _Asked:
    """A call of ours that waits for its answer."""

    __slots__ = ("cancelled", "credit", "streams")

    def __init__(self, credit: int) -> None:
        self.credit = credit
        self.streams = credit > 0
        self.cancelled = False


class Link:
    """One end of a link.

    Args:
        accepts: The frame types that the peer may send. Everything else ends the link.
    """

    def __init__(self, accepts: frozenset[type]) -> None:
        self._accepts: Final = accepts
        self._decoder = FrameDecoder()
        self._out = bytearray()
        self._asked: dict[int, _Asked] = {}
        self._serving: dict[int, int] = {}
        self._last_asked = 0
        self._last_served = 0
        self._pings: set[int] = set()
        self._last_ping = 0
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
        params: bytes,
        *,
        scopes: int = 0,
        credit: int = 0,
        idempotency_key: str | None = None,
    ) -> int:
        """Ask the peer to run `method`; gives the id that its answer will carry.

        Raises:
            LocalProtocolError: too many calls are open, or the call does not fit a frame.
        """
        if len(self._asked) >= limits.CALLS_IN_FLIGHT_MAX:
            msg = f"{limits.CALLS_IN_FLIGHT_MAX} calls are in flight already"
            raise LocalProtocolError(msg)
        call_id = self._last_asked + 1
        encode_into(
            self._out, frames.Call(call_id, method, params, scopes, credit, idempotency_key)
        )
        self._last_asked = call_id
        self._asked[call_id] = _Asked(credit)
        return call_id

    def cancel(self, call_id: int) -> None:
        """Tell the peer that nobody waits for this answer; without effect once it has come."""
        asked = self._asked.get(call_id)
        if asked is not None and not asked.cancelled:
            asked.cancelled = True
            encode_into(self._out, frames.Cancel(call_id))

    def grant(self, call_id: int, count: int) -> None:
        """Let the peer send `count` chunks more; without effect once the stream has ended."""
        asked = self._asked.get(call_id)
        if asked is None:
            return
        if not asked.streams or asked.credit + count > limits.STREAM_CREDIT_MAX:
            msg = f"credit of call {call_id} over {limits.STREAM_CREDIT_MAX}, or no stream"
            raise LocalProtocolError(msg)
        asked.credit += count
        encode_into(self._out, frames.Credit(call_id, count))

    def result(self, call_id: int, body: bytes) -> None:
        """Answer the peer's call with JSON and retire it."""
        self._answer(call_id, frames.Result(call_id, body))

    def end(self, call_id: int, body: bytes) -> None:
        """End the stream of the peer's call with its result and retire it."""
        self._answer(call_id, frames.End(call_id, body))

    def fail(self, call_id: int, code: str, message: str, details: bytes = b"{}") -> None:
        """Refuse the peer's call and retire it. A sentence over the bound is cut."""
        self._answer(call_id, frames.Failure(call_id, code, message[:1024], details))

    def stream_credit(self, call_id: int) -> int:
        """How many chunks the peer takes now for this call of its; 0 for one that is not open."""
        return self._serving.get(call_id, 0)

    def chunk(self, call_id: int, data: bytes) -> None:
        """Send one piece of a stream.

        Raises:
            LocalProtocolError: no credit is left, the piece is over its bound or the call is not
                open.
        """
        credit = self._serving.get(call_id, 0)
        if credit < 1 or len(data) > limits.CHUNK_BYTES_MAX:
            msg = f"a chunk of {len(data)} bytes on call {call_id} with a credit of {credit}"
            raise LocalProtocolError(msg)
        self._serving[call_id] = credit - 1
        encode_into(self._out, frames.Chunk(call_id, data))

    def send(self, frame: frames.Event | frames.Drain | frames.Drained) -> None:
        """Send a frame that belongs to no call."""
        encode_into(self._out, frame)

    def ping(self) -> int:
        """Ask for a sign of life; gives how many earlier ones are still unanswered."""
        missed = len(self._pings)
        self._last_ping += 1
        self._pings.add(self._last_ping)
        encode_into(self._out, frames.Ping(self._last_ping))
        return missed

    def take_outgoing(self) -> bytes:
        """Give what is to be written to the peer, and forget it."""
        out = bytes(self._out)
        self._out.clear()
        return out

    @property
    def outgoing_bytes(self) -> int:
        """How much `take_outgoing` would give."""
        return len(self._out)

    @property
    def has_outgoing(self) -> bool:
        """Whether there is anything to be written."""
        return bool(self._out)

    def abandon(self) -> list[int]:
        """Forget every open call of ours (the link has ended); gives their ids."""
        ids = list(self._asked)
        self._asked.clear()
        self._serving.clear()
        self._broken = True
        return ids

    def _answer(self, call_id: int, frame: frames.Result | frames.Failure | frames.End) -> None:
        if call_id not in self._serving:
            msg = f"an answer to call {call_id}, which is not open"
            raise LocalProtocolError(msg)
        encode_into(self._out, frame)
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
                if type(frame) not in self._accepts:
                    _refuse(f"a {type(frame).__name__} frame, which this end does not take")
                if self._book(frame):
                    yield frame
        except RemoteProtocolError:
            self._broken = True
            raise

    def _book(self, frame: frames.Frame) -> bool:  # noqa: PLR0912 - one case a kind
        """Note what a frame changes; say whether our side has to see it."""
        match frame:
            case frames.Call():
                self._book_call(frame)
            case frames.Result() | frames.Failure():
                self._asked_or_refuse(frame)
                del self._asked[frame.id]
            case frames.Chunk():
                asked = self._asked_or_refuse(frame)
                if asked.credit < 1:
                    _refuse(f"a chunk on call {frame.id} without credit")
                asked.credit -= 1
                return not asked.cancelled
            case frames.End():
                if not self._asked_or_refuse(frame).streams:
                    _refuse(f"the end of a stream on call {frame.id}, which has none")
                del self._asked[frame.id]
            case frames.Credit():
                return self._book_credit(frame)
            case frames.Cancel():
                if frame.id > self._last_served:
                    _refuse(f"a cancel of call {frame.id}, which was never made")
                return frame.id in self._serving
            case frames.Ping():
                encode_into(self._out, frames.Pong(frame.nonce))
                return False
            case frames.Pong():
                if frame.nonce not in self._pings:
                    _refuse(f"a pong to ping {frame.nonce}, which was never sent")
                # An answer proves that the loop took everything before it too.
                self._pings = {nonce for nonce in self._pings if nonce > frame.nonce}
            case _:
                pass
        return True

    def _asked_or_refuse(
        self, frame: frames.Result | frames.Failure | frames.Chunk | frames.End
    ) -> _Asked:
        asked = self._asked.get(frame.id)
        if asked is None:
            _refuse(f"an answer to call {frame.id}, which is not open")
        return asked

    def _book_call(self, call: frames.Call) -> None:
        if call.id <= self._last_served:
            _refuse(f"call id {call.id} again")
        if len(self._serving) >= limits.CALLS_IN_FLIGHT_MAX:
            _refuse(f"more than {limits.CALLS_IN_FLIGHT_MAX} calls in flight")
        self._last_served = call.id
        self._serving[call.id] = call.credit

    def _book_credit(self, credit: frames.Credit) -> bool:
        if credit.id > self._last_served:
            _refuse(f"credit for call {credit.id}, which was never made")
        if credit.id not in self._serving:
            return False
        total = self._serving[credit.id] + credit.count
        if total > limits.STREAM_CREDIT_MAX:
            _refuse(f"credit of call {credit.id} over {limits.STREAM_CREDIT_MAX}")
        self._serving[credit.id] = total
        return True


def _refuse(reason: str) -> NoReturn:
    raise RemoteProtocolError(reason)
