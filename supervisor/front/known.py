"""A head that was found good, known again by its bytes: it is neither parsed nor judged twice.

A client asks for the same again and again, on a connection that it keeps. Only the length of the
body may differ. The parser, between two requests, would find the same in the same bytes.
"""

import re
from typing import Final

from supervisor.front.exchange import Asked

_LENGTH_DIGITS_MAX: Final = 8
# Lines with something in them, the declared length, the rest up to the first empty line.
_HEAD: Final = re.compile(
    rb"((?:[^\r\n]+\r\n)+?content-length:[ \t]*)[0-9]+([ \t]*\r\n(?:[^\r\n]+\r\n)*\r\n)",
    re.IGNORECASE,
)


class KnownHead:
    """The bytes of a head before and after the length of its body.

    Attributes:
        asked: What it asks for.
    """

    __slots__ = ("_after", "_before", "_size_max", "asked")

    def __init__(self, before: bytes, after: bytes, asked: Asked) -> None:
        self.asked: Final = asked
        self._before: Final = before
        self._after: Final = after
        self._size_max: Final = len(before) + _LENGTH_DIGITS_MAX + len(after)

    def find(self, data: bytes | memoryview) -> tuple[int, int] | None:
        """Say where the body begins, and how long it is; None without one, or for another head."""
        head = bytes(data[: self._size_max])
        if not head.startswith(self._before):
            return None
        digits_at = len(self._before)
        digits_end = head.find(b"\r", digits_at)
        digits = head[digits_at:digits_end]
        if not digits.isdigit() or not head.startswith(self._after, digits_end):
            return None
        length = int(digits)
        return (digits_end + len(self._after), length) if length else None


def learn(data: bytes | memoryview, asked: Asked) -> KnownHead | None:
    """Give the head that `data` begins with; None for one that is not all there, or has no length.

    Args:
        data: What the parser has taken for a good request, or its beginning.
        asked: What its head asks for.
    """
    head = _HEAD.match(data)
    return None if head is None else KnownHead(bytes(head[1]), bytes(head[2]), asked)
