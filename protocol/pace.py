"""How much may come in a time: a bucket that fills steadily and is emptied by what comes."""


class Pace:
    """A token bucket.

    Args:
        per_second: How fast it fills.
        most: How much it holds; it is full at first.
    """

    __slots__ = ("_at", "_left", "_most", "_per_second")

    def __init__(self, per_second: float, most: float) -> None:
        self._per_second = per_second
        self._most = most
        self._left = most
        self._at = float("-inf")

    def take(self, now: float, count: float = 1.0) -> bool:
        """Take `count` out; False, and nothing is taken, when there is less.

        Args:
            now: Monotonic seconds.
            count: How much.
        """
        if now > self._at:
            self._left = min(self._most, self._left + (now - self._at) * self._per_second)
            self._at = now
        if self._left < count:
            return False
        self._left -= count
        return True
