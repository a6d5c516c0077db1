"""Who calls: one worker's call on its link, of one tenant."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, TypeVar

import msgspec

from protocol import frames, limits
from protocol.aio import LinkEnd
from protocol.errors import ErrorCode, GatewayError
from protocol.params import decode

T = TypeVar("T", bound=msgspec.Struct)


class Tenant:
    """A tenant, as long as it has a worker; what it may spend is the till's to know."""

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.since_ms = 0
        """When it was created, Unix ms."""
        self.links = 0
        self._held_bytes = 0
        self._goes_out = 0
        self._waiting: Final[deque[asyncio.Future[None]]] = deque()

    @contextlib.contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Count so many bytes of a call for as long as it is open.

        Raises:
            GatewayError: RATE_LIMITED, its calls hold too much together.
        """
        if self._held_bytes + size > limits.EGRESS_BYTES_IN_FLIGHT_MAX:
            message = (
                f"calls of more than {limits.EGRESS_BYTES_IN_FLIGHT_MAX} bytes wait; try later"
            )
            raise GatewayError(ErrorCode.RATE_LIMITED, message, retryAfterMs=1000)
        self._held_bytes += size
        try:
            yield
        finally:
            self._held_bytes -= size

    @contextlib.asynccontextmanager
    async def going_out(self, most: int) -> AsyncIterator[None]:
        """Wait until fewer than `most` of its calls go out; they do in the order they came."""
        if self._goes_out >= most or self._waiting:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave(most)  # its turn had come
                raise
        else:
            self._goes_out += 1
        try:
            yield
        finally:
            self._leave(most)

    def _leave(self, most: int) -> None:
        self._goes_out -= 1
        while self._waiting and self._goes_out < most:
            turn = self._waiting.popleft()
            if not turn.done():
                self._goes_out += 1
                turn.set_result(None)


class Caller:
    """One call. Its tenant is the link's, whatever the call says.

    Args:
        tenant: Whose worker calls.
        end: The link.
        call: The call.
    """

    __slots__ = ("_end", "_id", "_room", "streams", "tenant")

    def __init__(self, tenant: Tenant, end: LinkEnd, call: frames.Call) -> None:
        self.tenant: Final = tenant
        self.streams: Final = call.credit > 0
        """Whether it takes chunks."""
        self._end: Final = end
        self._id: Final = call.id
        self._room: asyncio.Event | None = None

    def on_credit(self) -> None:
        """It takes more chunks."""
        if self._room is not None:
            self._room.set()

    async def send(self, chunk: bytes) -> None:
        """Send a chunk when it is taken. Ends with the call, by cancellation."""
        while not self._end.link.stream_credit(self._id):
            if self._room is None:
                self._room = asyncio.Event()
            self._room.clear()
            await self._room.wait()
        self._end.link.chunk(self._id, chunk)
        self._end.flush()


def decoded(method: str, params: bytes, kind: type[T]) -> T:
    """Read the parameters of a worker's call.

    Raises:
        GatewayError: INVALID_REQUEST, naming the field: a worker sends on what a client wrote.
    """
    decoder: msgspec.json.Decoder[T] | None = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    return decode(method, decoder, params)


_decoders: Final[dict[Any, Any]] = {}
