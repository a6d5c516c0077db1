"""One message on a WebSocket: the call or batch in it, and its answer."""

from math import inf
from typing import Final, Protocol

import msgspec

from protocol import jsonrpc
from protocol.errors import GatewayError
from supervisor.front.exchange import Work

_encode: Final = msgspec.json.Encoder().encode


class Socket(Protocol):
    """The WebSocket it came on. Nothing here raises."""

    @property
    def write_paused(self) -> bool:
        """Whether the client reads slower than we write."""

    def now(self) -> float:
        """Monotonic seconds."""

    def open(self, call: "SocketCall") -> None:
        """A call waits for its answer."""

    def answered(self, call: "SocketCall", status: int, body: bytes) -> None:
        """A call has its answer; empty for none. The status is that of HTTP."""

    def say_chunk(self, request_id: bytes, name: bytes, data: bytes) -> None:
        """Send a piece of an answer."""


class SocketCall:
    """The client of one message. Implements `exchange.Client`.

    Attributes:
        request_id: The id that is answered.
        begun_at: When it came, in monotonic seconds.
        deadline: When it takes too long, likewise.
    """

    __slots__ = ("_socket", "_work", "begun_at", "deadline", "request_id")

    def __init__(self, socket: Socket) -> None:
        self.request_id: jsonrpc.RequestId | msgspec.UnsetType = None
        self.begun_at: Final = socket.now()
        self.deadline = inf
        self._socket: Final = socket
        self._work: Work | None = None

    @property
    def write_paused(self) -> bool:
        """See `Client`."""
        return self._socket.write_paused

    def wait_for(self, work: Work, seconds: float) -> None:
        """See `Client`."""
        self._work = work
        self.deadline = self.begun_at + seconds
        self._socket.open(self)

    def answer(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """See `Client`. A message has no headers, and its status is only counted."""
        del headers
        self._work = None
        self._socket.answered(self, status, body)

    def refuse(self, error: GatewayError) -> None:
        """See `Client`."""
        if isinstance(self.request_id, msgspec.UnsetType):
            self.answer(204, b"")
        else:
            self.answer(error.code.http_status, jsonrpc.refusal(self.request_id, error))

    def answer_unauthorized(self, body: bytes, headers: bytes) -> None:
        """See `Client`. Who calls was known before."""
        self.answer(401, body, headers)

    def add_headers(self, lines: bytes) -> bool:
        """See `Client`. A message has none."""
        del lines
        return False

    def begin_events(self) -> None:
        """See `Client`."""

    def send_event(self, name: bytes, data: bytes) -> None:
        """See `Client`. The last one is the answer itself."""
        if name == b"result":
            self.answer(200, data)
        else:
            self._socket.say_chunk(_encode(self.request_id), name, data)

    def end_events(self) -> None:
        """See `Client`."""

    def on_writable(self) -> None:
        """The client takes more."""
        if self._work is not None:
            self._work.on_writable()

    def abandon(self) -> None:
        """The client has gone away."""
        work, self._work = self._work, None
        if work is not None:
            work.abandon()

    def expire(self, error: GatewayError) -> None:
        """Have it refused now."""
        if self._work is not None:
            self._work.expire(error)

    def revoke(self, error: GatewayError) -> None:
        """The credential of the WebSocket is good no more."""
        if self._work is not None:
            self._work.revoke(error)
