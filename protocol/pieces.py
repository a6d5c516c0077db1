"""Many bytes in the pieces that they came in.

To put 8 MiB together takes milliseconds each time, in which nobody else is served.
"""

from typing import Final

from protocol import limits

Buffer = bytes | bytearray | memoryview


class Pieces:
    """A sequence of bytes.

    Args:
        whole: The first piece.
    """

    __slots__ = ("_size", "pieces")

    def __init__(self, whole: Buffer = b"") -> None:
        self.pieces: Final[list[Buffer]] = []
        self._size = 0
        if whole:
            self.pieces.append(whole)
            self._size = len(whole)

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)

    def add(self, piece: bytes) -> None:
        """Append; small ones are put together, so that each costs no more than its bytes."""
        self._size += len(piece)
        last = self.pieces[-1] if self.pieces else b""
        if len(piece) >= limits.PIECE_BYTES:
            self.pieces.append(piece)
        elif isinstance(last, bytearray) and len(last) < limits.PIECE_BYTES:
            last += piece
        else:
            self.pieces.append(bytearray(piece))

    def between(self, before: bytes, after: bytes) -> "Pieces":
        """Give it with something before and after it, without a copy."""
        found = Pieces(before)
        found.pieces.extend((*self.pieces, after))
        found._size += self._size + len(after)
        return found

    def cut(self, begin: int, end: int) -> "Pieces":
        """Give what is from `begin` on and before `end`, without a copy."""
        found = Pieces()
        at = 0
        for piece in self.pieces:
            first, last = max(begin - at, 0), min(end - at, len(piece))
            if first < last:
                found.pieces.append(memoryview(piece)[first:last])
                found._size += last - first
            at += len(piece)
        return found
