"""Bytes to frames and back: incremental, without I/O, bounded."""

import struct
from collections.abc import Iterator
from typing import Final, NoReturn

import msgspec

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frames import Call, Frame
from protocol.limits import FRAME_BYTES_MAX
from protocol.pieces import Buffer, Pieces

_PREFIX: Final = struct.Struct("<I")
_PREFIX_BYTES: Final = _PREFIX.size
_NO_PREFIX: Final = bytes(_PREFIX_BYTES)
_encoder: Final = msgspec.msgpack.Encoder()
_encode_into: Final = _encoder.encode_into
# https://github.com/msgpack/msgpack/blob/master/spec.md#bin-format-family
_BIN_0: Final = b"\xc4\0"
_BIN_32: Final = struct.Struct(">BI")
_decode: Final = msgspec.msgpack.Decoder(Frame).decode


def encode_into(buffer: bytearray, frame: Frame) -> None:
    """Append the wire form of `frame` to `buffer`.

    Raises:
        LocalProtocolError: the frame is over `FRAME_BYTES_MAX` or holds what has no wire form, such
            as a lone surrogate; `buffer` is as before.
    """
    start = len(buffer)
    buffer += _NO_PREFIX
    try:
        _encode_into(frame, buffer, start + _PREFIX_BYTES)
    except (msgspec.EncodeError, TypeError, ValueError, OverflowError) as error:
        del buffer[start:]
        msg = f"a frame that cannot be written: {error}"
        raise LocalProtocolError(msg) from error
    size = len(buffer) - start - _PREFIX_BYTES
    if size > FRAME_BYTES_MAX:
        del buffer[start:]
        raise _too_big(size)
    _PREFIX.pack_into(buffer, start, size)


def encode_apart(call: Call, params: Pieces) -> list[Buffer]:
    """Give the wire form of a call in pieces, for params that are not to be copied.

    Args:
        call: The call, without params.
        params: What they are.

    Raises:
        LocalProtocolError: as `encode_into`.
    """
    buffer = bytearray()
    encode_into(buffer, call)
    after = _encoder.encode((call.scopes, call.credit, call.idempotency_key))[1:]
    before = buffer.removesuffix(_BIN_0 + after)
    before += _BIN_32.pack(0xC6, len(params))
    size = len(before) - _PREFIX_BYTES + len(params) + len(after)
    if size > FRAME_BYTES_MAX:
        raise _too_big(size)
    _PREFIX.pack_into(before, 0, size)
    return [before, *params.pieces, after]


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
        # Not a list of what came: a peer may send byte by byte, and each would cost an object.
        self._rest = bytearray()
        self._awaited = 0

    @property
    def pending_bytes(self) -> int:
        """How much of an incomplete frame is held."""
        return len(self._rest)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes and yield every frame that they complete, in order.

        The bytes are all taken in before the first frame is given out; iterate to the end.

        Raises:
            RemoteProtocolError: a length over the bound, an unknown tag or a malformed frame. The
                stream cannot be read on, and nothing of it is kept.
        """
        whole: bytes | bytearray = data
        if self._rest:
            self._rest += data
            if len(self._rest) < self._awaited:
                return
            whole, self._rest = self._rest, bytearray()
        self._awaited = _PREFIX_BYTES
        view = memoryview(whole)
        available = len(whole)
        offset = 0
        try:
            while available - offset >= _PREFIX_BYTES:
                start = offset + _PREFIX_BYTES
                (size,) = _PREFIX.unpack_from(view, offset)
                if size > FRAME_BYTES_MAX:
                    _refuse(f"a frame of {size} bytes is over the bound of {FRAME_BYTES_MAX}")
                if available - start < size:
                    self._awaited += size
                    break
                offset = start + size
                try:
                    frame = _decode(view[start:offset])
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    _refuse(f"a frame that cannot be read: {error}")
                yield frame
        except RemoteProtocolError:
            offset = available
            raise
        finally:
            if offset < available:
                self._rest += view[offset:]


def _too_big(size: int) -> LocalProtocolError:
    return LocalProtocolError(f"a frame of {size} bytes is over the bound of {FRAME_BYTES_MAX}")


def _refuse(reason: str) -> NoReturn:
    raise RemoteProtocolError(reason)
