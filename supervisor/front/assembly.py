"""A WebSocket message while it arrives: bounded, timed, counted against its tenant."""

from math import inf
from typing import Final

from websockets.frames import Frame, Opcode

from protocol import limits
from supervisor.front.tenants import Tenant


class TooManyFragmentsError(Exception):
    """The message is in more pieces than there may be."""


class Assembly:
    """What there is of the message that is not complete.

    Args:
        tenant: Whose allowance it takes.

    Attributes:
        deadline: When the message has to be complete, in monotonic seconds.
    """

    __slots__ = ("_fragments", "_reserved", "_tenant", "deadline")

    def __init__(self, tenant: Tenant) -> None:
        self.deadline = inf
        self._tenant: Final = tenant
        self._fragments: list[bytes] | None = None
        self._reserved = 0

    def take(self, frame: Frame) -> bytes | None:
        """Take a frame; gives the message with its last one.

        Raises:
            TooManyFragmentsError: see there.
        """
        if frame.opcode is Opcode.TEXT:
            if frame.fin:
                return bytes(frame.data)
            self._fragments = [bytes(frame.data)]
        elif frame.opcode is Opcode.CONT:
            return self._go_on(bytes(frame.data), last=frame.fin)
        # Pings and a close have been answered by the protocol.
        return None

    def _go_on(self, fragment: bytes, *, last: bool) -> bytes | None:
        assert self._fragments is not None, "the framing lets none come without a first"
        if len(self._fragments) >= limits.SOCKET_FRAGMENTS_MAX:
            raise TooManyFragmentsError
        self._fragments.append(fragment)
        if not last:
            return None
        fragments, self._fragments = self._fragments, None
        return b"".join(fragments)

    def count(self, size: int, now: float) -> None:
        """Count what has arrived.

        Args:
            size: Bytes that are kept of the message.
            now: Monotonic seconds.

        Raises:
            GatewayError: as `Tenant.reserve`.
        """
        if not (size or self._reserved or self._fragments):
            return
        if self.deadline == inf and (size or self._fragments):
            self.deadline = now + limits.SOCKET_MESSAGE_SECONDS
        counted = size if size > limits.SOCKET_UNCOUNTED_BYTES else 0
        if counted > self._reserved:
            self._tenant.reserve(counted - self._reserved)
        else:
            self._tenant.release(self._reserved - counted)
        self._reserved = counted

    def complete(self) -> None:
        """The message is there; what it holds from now on is its reader's."""
        self.deadline = inf
        self._tenant.release(self._reserved)
        self._reserved = 0

    def drop(self) -> None:
        """Forget it."""
        self._fragments = None
        self.complete()
