"""How one client takes what is written to it: what it owes, and until when."""

from math import inf
from typing import Final, Protocol

from protocol import limits
from supervisor.front.tenants import Tenant


class Buffer(Protocol):
    """The transport's end of it."""

    def get_write_buffer_size(self) -> int:
        """How many bytes have been written and not been taken."""


class Taking:
    """Watches the write buffer of one connection.

    Attributes:
        paused: The client reads slower than we write; nothing more should be begun.
        deadline: When it has to have taken something, in monotonic seconds.
    """

    __slots__ = ("_buffer", "_charged", "_left", "deadline", "paused")

    def __init__(self, buffer: Buffer) -> None:
        self.paused = False
        self.deadline = inf
        self._buffer: Final = buffer
        self._left = 0
        self._charged: tuple[Tenant, int] | None = None

    def pause(self, now: float) -> None:
        """The buffer is full."""
        self.paused = True
        self.expect(now, limits.HTTP_WRITE_SECONDS)

    def resume(self) -> None:
        """The buffer has room."""
        self.paused = False
        self.forget()

    def expect(self, now: float, seconds: float) -> None:
        """Have the client take something within a time."""
        self._left = self._buffer.get_write_buffer_size()
        self.deadline = now + seconds

    def has_stalled(self, now: float) -> bool:
        """Say, at the deadline, whether the client has taken nothing; else it gets more time."""
        left = self._buffer.get_write_buffer_size()
        if not 0 < left < self._left:
            return True
        self.expect(now, limits.HTTP_WRITE_SECONDS)
        return False

    def charge(self, tenant: Tenant, count: int) -> None:
        """Count what the client does not take against its tenant until it does."""
        if self.paused:
            tenant.charge(count)
            before = 0 if self._charged is None else self._charged[1]
            self._charged = (tenant, before + count)

    def forget(self) -> None:
        """It has been taken, or will never be."""
        if self._charged is not None:
            tenant, count = self._charged
            self._charged = None
            tenant.release(count)
