"""From what a model says to what a client is sent, no faster than it is taken."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from protocol import limits
from protocol.errors import GatewayError
from protocol.models import ModelAnswer, ModelPiece
from worker.sessions.feed import Stream

# So many pieces are let come once as many have gone.
CREDIT_BATCH: Final = limits.STREAM_CREDIT_INITIAL // 2

_decode: Final = msgspec.json.Decoder(ModelPiece).decode


class Writer(Protocol):
    """How an API writes a stream: JSON objects, each a chunk."""

    def piece(self, piece: ModelPiece) -> list[bytes]:
        """Give what is sent for a piece of the answer."""

    def end(self, answer: ModelAnswer) -> list[bytes]:
        """Give what is sent when the answer is complete."""

    def failed(self, error: GatewayError) -> list[bytes]:
        """Give what is sent when it broke off; nothing where whoever refuses says so."""


class Outlet:
    """Sends what a model says to one stream.

    Args:
        stream: Where to.
        writer: How it is written.
        taken: Told how many pieces have gone, so that as many may come.
    """

    def __init__(
        self, stream: Stream, writer: Writer, taken: Callable[[int], None] | None = None
    ) -> None:
        self._stream: Final = stream
        self._writer: Final = writer
        self._taken = taken
        # Bounded by what has been let come.
        self._waiting: deque[bytes | memoryview] = deque()
        self._owed = 0
        self._empty = asyncio.Event()
        stream.on_credit = self.pump

    def on_taken(self, taken: Callable[[int], None]) -> None:
        """Say who is told from now on; what is owed was counted from the beginning."""
        self._taken = taken
        self.pump()

    def take(self, data: bytes) -> None:
        """Take one chunk of egress's.

        Raises:
            msgspec.DecodeError: it is none.
        """
        self.add(_decode(data))

    def add(self, piece: ModelPiece) -> None:
        """Take the next piece of the answer."""
        self._waiting += self._writer.piece(piece)
        self._owed += 1
        self.pump()

    def pump(self) -> None:
        """Send what there is and is taken."""
        waiting, stream = self._waiting, self._stream
        while waiting and stream.credit > 0:
            chunk = waiting.popleft()
            if len(chunk) > limits.CHUNK_BYTES_MAX:
                waiting.appendleft(memoryview(chunk)[limits.CHUNK_BYTES_MAX :])
                stream.send(bytes(chunk[: limits.CHUNK_BYTES_MAX]), goes_on=True)
            else:
                stream.send(bytes(chunk))
        if waiting:
            return
        if self._owed >= CREDIT_BATCH and self._taken is not None:
            self._taken(self._owed)
            self._owed = 0
        self._empty.set()

    async def finish(self, answer: ModelAnswer) -> None:
        """Send the end, and wait until all of it has gone. Bound the wait outside."""
        await self._drain(self._writer.end(answer))

    async def fail(self, error: GatewayError) -> None:
        """Send what there is, and that it broke off. Bound the wait outside."""
        await self._drain(self._writer.failed(error))

    async def _drain(self, last: list[bytes]) -> None:
        self._taken = None
        self._waiting += last
        self._empty.clear()
        self.pump()
        await self._empty.wait()
