"""Bytes to frames and back: incremental, without I/O, bounded."""

from collections.abc import Iterator
from typing import Final

import msgspec

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frames import Frame
from protocol.limits import FRAME_BYTES_MAX

_PREFIX_BYTES: Final = 4
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Frame)


def encode_into(buffer: bytearray, frame: Frame) -> None:
    """Append the wire form of `frame` to `buffer`.

    Raises:
        LocalProtocolError: the frame is over `FRAME_BYTES_MAX` or holds what has no wire form, such
            as a lone surrogate; `buffer` is as before.
    """
    start = len(buffer)
    buffer += b"\0\0\0\0"
    try:
        _encoder.encode_into(frame, buffer, start + _PREFIX_BYTES)
    except (msgspec.EncodeError, TypeError, ValueError, OverflowError) as error:
        del buffer[start:]
        msg = f"a frame that cannot be written: {error}"
        raise LocalProtocolError(msg) from error
    size = len(buffer) - start - _PREFIX_BYTES
    if size > FRAME_BYTES_MAX:
        del buffer[start:]
        msg = f"a frame of {size} bytes is over the bound of {FRAME_BYTES_MAX}"
        raise LocalProtocolError(msg)
    buffer[start : start + _PREFIX_BYTES] = size.to_bytes(_PREFIX_BYTES, "little")


def encode(frame: Frame) -> bytes:
    """Give the wire form of one frame.

    Raises:
        LocalProtocolError: as `encode_into`.
    """
    buffer = bytearray()
    encode_into(buffer, frame)
    return bytes(buffer)


class FrameDecoder:
    """Cuts a byte stream into frames.

    It holds at most one incomplete frame: a length over the bound is refused when it is read,
    before any of the frame's bytes are kept.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """How much of an incomplete frame is held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes and yield every frame that they complete, in order.

        The bytes are all taken in before the first frame is given out; iterate to the end.

        Raises:
            RemoteProtocolError: a length over the bound, an unknown tag or a malformed frame. The
                stream cannot be read on, and nothing of it is kept.
        """
        buffer = self._buffer
        buffer += data
        offset = 0
        available = len(buffer)
        try:
            while available - offset >= _PREFIX_BYTES:
                start = offset + _PREFIX_BYTES
                size = _checked_size(buffer[offset:start])
                if available - start < size:
                    break
                offset = start + size
                yield _decode(buffer, start, offset)
        except RemoteProtocolError:
            offset = len(buffer)
            raise
        finally:
            del buffer[:offset]


def _checked_size(prefix: bytearray) -> int:
    size = int.from_bytes(prefix, "little")
    if size > FRAME_BYTES_MAX:
        msg = f"a frame of {size} bytes is over the bound of {FRAME_BYTES_MAX}"
        raise RemoteProtocolError(msg)
    return size


def _decode(buffer: bytearray, start: int, end: int) -> Frame:
    try:
        # A copy, because a decoder that saw a view would keep the bytearray from being cut.
        frame: Frame = _decoder.decode(bytes(memoryview(buffer)[start:end]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f"a frame that cannot be read: {error}"
        raise RemoteProtocolError(reason) from error
    return frame
