"""The last of what a terminal has said, every byte with its number."""

from typing import Final


class Scrollback:
    """Keeps the newest bytes, which are numbered from 0.

    Args:
        most: How many are kept.

    Attributes:
        start: The number of the first byte that is kept.
    """

    __slots__ = ("_data", "_most", "start")

    def __init__(self, most: int) -> None:
        self._most: Final = most
        self._data: Final = bytearray()
        self.start = 0

    @property
    def end(self) -> int:
        """The number of the byte that comes next."""
        return self.start + len(self._data)

    def room(self, number: int) -> int:
        """Say how many bytes can be added before the one of this number is no longer kept."""
        return self._most - (self.end - number)

    def add(self, data: bytes, *, forget: bool = True) -> None:
        """Take the next bytes; what is too old is forgotten, if it may be."""
        self._data.extend(data)
        over = len(self._data) - self._most
        if forget and over > 0:
            del self._data[:over]
            self.start += over

    def read(self, number: int, most: int) -> tuple[int, bytes]:
        """Give up to `most` bytes from `number` on, or from the first one that is still kept.

        They come with the number of the first of them.
        """
        first = max(number, self.start)
        offset = first - self.start
        return first, bytes(self._data[offset : offset + most])
