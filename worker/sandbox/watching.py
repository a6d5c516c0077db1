"""A terminal's output on its way from the launcher to one caller.

Pieces are passed on as fast as the caller takes them, and asked for no faster.
"""

import asyncio
import codecs
from collections import deque
from typing import Final, NamedTuple

import msgspec

from protocol import launching, limits
from protocol.aio import Reply, failure_error
from protocol.errors import GatewayError, LinkClosedError
from protocol.frames import Chunk, End, Failure
from protocol.methods import terminal
from worker.sandbox.link import LauncherLink, Streaming

CREDIT: Final = 8
# A byte is at most six of JSON as text; the rest of a chunk is for the other members.
TEXT_BYTES_MAX: Final = (limits.CHUNK_BYTES_MAX - 4096) // 6
_decode_view: Final = msgspec.json.Decoder(launching.Terminal).decode
_decode_ended: Final = msgspec.json.Decoder(launching.Ended).decode


class Piece(NamedTuple):
    """Bytes of output, and the number of the first."""

    number: int
    data: bytes


class Watching:
    """One attachment at the launcher.

    Args:
        changed: Set whenever there is something new here.

    Attributes:
        view: What the terminal was when it was attached to; None before that.
        ended: How it has ended; there may still be pieces.
    """

    def __init__(self, changed: asyncio.Event) -> None:
        self.view: launching.Terminal | None = None
        self.ended: launching.Ended | None = None
        self._changed: Final = changed
        self._pieces: Final[deque[Piece]] = deque()  # bounded by the credit
        self._error: GatewayError | None = None
        self._streaming: Streaming | None = None
        self._unavailable: GatewayError

    async def begin(self, link: LauncherLink, asked: launching.Attach) -> None:
        """Attach. Raises as `LauncherLink.stream`."""
        self._unavailable = link.unavailable()
        self._streaming = await link.stream("terminal.attach", asked, self._on_reply, CREDIT)

    def next(self, most: int) -> Piece | None:
        """Take up to `most` bytes of what has come, if anything has.

        Raises:
            GatewayError: nothing more comes, for a reason.
        """
        if not self._pieces:
            if self._error is not None:
                raise self._error
            return None
        number, data = self._pieces.popleft()
        if len(data) > most:
            self._pieces.appendleft(Piece(number + most, data[most:]))
        elif self._streaming is not None and self.ended is None and self._error is None:
            self._streaming.grant(1)
        return Piece(number, data[:most])

    @property
    def is_over(self) -> bool:
        """Whether the terminal has ended and all of its output has been taken."""
        return self.ended is not None and not self._pieces

    def close(self) -> None:
        """Take nothing more."""
        streaming, self._streaming = self._streaming, None
        if streaming is not None and self.ended is None and self._error is None:
            streaming.cancel()

    def _on_reply(self, reply: Reply) -> None:
        self._changed.set()
        if isinstance(reply, Chunk):
            if self.view is None:
                self.view = _decode_view(reply.data)
                if self._streaming is not None:
                    self._streaming.grant(1)
            else:
                self._pieces.append(Piece(*launching.read_terminal_chunk(reply.data)))
        elif isinstance(reply, End):
            self.ended = _decode_ended(reply.body)
        elif isinstance(reply, Failure):
            self._error = failure_error(reply)
        elif isinstance(reply, LinkClosedError):
            self._error = self._unavailable


class Shaping:
    """Output in the form that its reader asked for; text has no character in halves.

    Args:
        encoding: Which form.
        number: Of the first byte to come.

    Attributes:
        next: The number of the first byte that has not been given.
    """

    def __init__(self, encoding: str, number: int) -> None:
        self.next = number
        self._decoder = None if encoding == "base64" else _decoder()

    @property
    def most(self) -> int:
        """How many bytes make a piece that fits a chunk."""
        return limits.TERMINAL_CHUNK_BYTES_MAX if self._decoder is None else TEXT_BYTES_MAX

    def shape(self, piece: Piece) -> terminal.Output | None:
        """Give a piece; None when it has only the beginning of a character."""
        decoder, end = self._decoder, piece.number + len(piece.data)
        if decoder is None:
            self.next = end
            return terminal.Output(from_byte=piece.number, data_base64=piece.data)
        held = len(decoder.getstate()[0])
        if self.next + held != piece.number:
            decoder.reset()
            self.next, held = piece.number, 0
        first = self.next
        text = decoder.decode(piece.data)
        self.next = end - len(decoder.getstate()[0])
        return terminal.Output(from_byte=first, data=text) if text else None

    def rest(self) -> terminal.Output | None:
        """Give the beginning of a character that did not go on, at the end of all."""
        if self._decoder is None:
            return None
        first = self.next
        self.next += len(self._decoder.getstate()[0])
        text = self._decoder.decode(b"", final=True)
        return terminal.Output(from_byte=first, data=text) if text else None


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")(errors="replace")
