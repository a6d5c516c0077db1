"""The standard streams of a sandbox: what goes in, and what comes out, bounded or as it comes."""

import asyncio
import base64
import os
from contextlib import suppress
from typing import Final, Literal, Protocol

import msgspec

from protocol import limits
from protocol.methods.sandbox import Encoding, Output
from worker.sessions.feed import Stream

READ_BYTES: Final = 64 * limits.KIB
# A character is at most six bytes of JSON; the rest of a chunk is for the other members.
LIVE_READ_BYTES: Final = (limits.CHUNK_BYTES_MAX - 4096) // 6
_CHARACTER_BYTES_MAX: Final = 4

Name = Literal["stdout", "stderr"]


class Taker(Protocol):
    """Where output goes."""

    @property
    def room(self) -> int:
        """How many bytes it takes now."""

    def take(self, data: bytes) -> None:
        """Take the next piece."""

    def end(self) -> None:
        """Take note that there is no more."""


class Kept:
    """Output that is kept up to a bound; the rest is read and thrown away."""

    def __init__(self) -> None:
        self._data: Final = bytearray()
        self.truncated = False
        """Whether there was more."""

    @property
    def room(self) -> int:
        """See `Taker`."""
        return READ_BYTES

    def take(self, data: bytes) -> None:
        """See `Taker`."""
        left = limits.SANDBOX_OUTPUT_BYTES_MAX - len(self._data)
        self.truncated = self.truncated or len(data) > left
        self._data.extend(data[:left])

    def end(self) -> None:
        """See `Taker`."""

    def encoded(self) -> tuple[str, Encoding]:
        """Give it as text if it is text, but for a last character that was cut."""
        data = self._data[: _whole(self._data)] if self.truncated else self._data
        try:
            return data.decode(), "text"
        except UnicodeDecodeError:
            return base64.b64encode(self._data).decode(), "base64"


class Live:
    """Output that is sent as it comes, as fast as its reader takes it."""

    def __init__(self, name: Name, stream: Stream) -> None:
        self._name: Final[Name] = name
        self._stream: Final = stream
        self._rest = b""

    @property
    def room(self) -> int:
        """See `Taker`."""
        return LIVE_READ_BYTES if self._stream.credit > 0 else 0

    def take(self, data: bytes) -> None:
        """See `Taker`. A character that is not whole waits for its end."""
        data = self._rest + data
        whole = _whole(data)
        data, self._rest = data[:whole], data[whole:]
        if data:
            self._send(data)

    def end(self) -> None:
        """See `Taker`."""
        if self._rest and self._stream.credit > 0:
            self._send(self._rest)

    def _send(self, data: bytes) -> None:
        try:
            piece = Output(stream=self._name, text=data.decode())
        except UnicodeDecodeError:
            piece = Output(stream=self._name, base64=base64.b64encode(data).decode())
        self._stream.send(msgspec.json.encode(piece))


def _whole(data: bytes | bytearray) -> int:
    """Say where the last character begins, if it is UTF-8 that goes on; else where data ends."""
    for back in range(1, min(_CHARACTER_BYTES_MAX, len(data) + 1)):
        byte = data[-back]
        if 0xC0 <= byte < 0xF8:  # noqa: PLR2004 - the first byte of several (RFC 3629, section 3)
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4  # noqa: PLR2004
            return len(data) - back if length > back else len(data)
        if byte < 0x80:  # noqa: PLR2004 - a character by itself
            break
    return len(data)


class OutputPipe:
    """Reads a pipe to its end, as its taker has room.

    Args:
        descriptor: Not blocking; closed at its end.
        taker: Where it goes.
    """

    def __init__(self, descriptor: int, taker: Taker) -> None:
        self._descriptor = descriptor
        self._taker: Final = taker
        self._loop: Final = asyncio.get_running_loop()
        self._reads = False
        self.ended: Final = asyncio.Event()
        self.resume()

    def resume(self) -> None:
        """Read on, if there is room again."""
        if self._descriptor >= 0 and not self._reads and self._taker.room:
            self._reads = True
            self._loop.add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        room = self._taker.room
        if not room:
            self._pause()
            return
        try:
            data = os.read(self._descriptor, room)
        except BlockingIOError:
            return
        if data:
            self._taker.take(data)
        else:
            self._taker.end()
            self.close()

    def _pause(self) -> None:
        if self._reads:
            self._reads = False
            self._loop.remove_reader(self._descriptor)

    def close(self) -> None:
        """Read no more."""
        if self._descriptor >= 0:
            self._pause()
            os.close(self._descriptor)
            self._descriptor = -1
            self.ended.set()


class InputPipe:
    """Writes to a pipe and closes it.

    Args:
        descriptor: Not blocking.
        data: What to write.
    """

    def __init__(self, descriptor: int, data: bytes) -> None:
        self._descriptor = descriptor
        self._data = memoryview(data)
        self._loop: Final = asyncio.get_running_loop()
        self._waits = False
        self._write()

    def _write(self) -> None:
        try:
            with suppress(BlockingIOError):
                while self._data:
                    self._data = self._data[os.write(self._descriptor, self._data) :]
        except BrokenPipeError:
            self._data = memoryview(b"")  # nobody reads it
        if not self._data:
            self.close()
        elif not self._waits:
            self._waits = True
            self._loop.add_writer(self._descriptor, self._write)

    def close(self) -> None:
        """Write no more."""
        if self._descriptor >= 0:
            if self._waits:
                self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
