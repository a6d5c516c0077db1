"""Whether a WebSocket's client is still there: who is silent is asked (RFC 6455, section 5.5.2)."""

from enum import Enum, auto

from protocol import limits


class Sign(Enum):
    """What silence asks for."""

    FINE = auto()
    PING = auto()
    DEAD = auto()


class Heartbeat:
    """Watches for silence.

    Args:
        now: Monotonic seconds.

    Attributes:
        heard: Something has come in since the last look.
        deadline: When to look again, in monotonic seconds.
    """

    __slots__ = ("_pinged", "deadline", "heard")

    def __init__(self, now: float) -> None:
        self.heard = self._pinged = False
        self.deadline = now + limits.SOCKET_PING_SECONDS

    def look(self, now: float) -> Sign:
        """Say what to do, at the deadline; there is another one after it."""
        if not self.heard and self._pinged:
            return Sign.DEAD
        self._pinged = not self.heard
        self.heard = False
        seconds = limits.SOCKET_PONG_SECONDS if self._pinged else limits.SOCKET_PING_SECONDS
        self.deadline = now + seconds
        return Sign.PING if self._pinged else Sign.FINE
