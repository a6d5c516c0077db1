"""Frames of a WebSocket that are a whole message (RFC 6455, section 5.2): nearly all of them.

They need no state machine; it has all the others.
"""

import struct
from typing import Final

from websockets.frames import Frame, Opcode
from websockets.speedups import apply_mask

_FINAL: Final = 0x80
_FINAL_TEXT: Final = 0x81
_MASKED: Final = 0x80
_MASK_BYTES: Final = 4
_SIZE_16: Final = 126
_SIZE_64: Final = 127
_SMALL: Final = struct.Struct(">BB")
_MIDDLE: Final = struct.Struct(">BBH")
_LARGE: Final = struct.Struct(">BBQ")


def read(data: bytes, bytes_max: int) -> Frame | None:
    """Give a client's frame if `data` is that, a whole text, and nothing else.

    Args:
        data: What begins with a frame, where no message has begun.
        bytes_max: Of the text.
    """
    if len(data) < _SMALL.size or data[0] != _FINAL_TEXT:
        return None
    size, at = data[1] ^ _MASKED, _SMALL.size
    if size == _SIZE_16 and len(data) >= _MIDDLE.size:
        (_, _, size), at = _MIDDLE.unpack_from(data), _MIDDLE.size
    elif size >= _SIZE_16:
        return None
    text_at = at + _MASK_BYTES
    if len(data) != text_at + size or size > bytes_max:
        return None
    return Frame(Opcode.TEXT, apply_mask(data[text_at:], data[at:text_at]))


def written(opcode: Opcode, data: bytes) -> bytes:
    """Give our frame of a whole message."""
    size = len(data)
    if size < _SIZE_16:
        head = _SMALL.pack(_FINAL | opcode, size)
    elif size < 1 << 16:
        head = _MIDDLE.pack(_FINAL | opcode, _SIZE_16, size)
    else:
        head = _LARGE.pack(_FINAL | opcode, _SIZE_64, size)
    return head + data


def size_of(frame: Frame) -> int:
    """Say how many bytes a client's frame has at least."""
    size = len(frame.data)
    if size < _SIZE_16:
        return _SMALL.size + _MASK_BYTES + size
    head = _MIDDLE if size < 1 << 16 else _LARGE
    return head.size + _MASK_BYTES + size
