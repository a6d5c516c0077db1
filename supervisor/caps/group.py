"""One cgroup, whichever version the system has."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from protocol.launching import Caps


class Usage(NamedTuple):
    """What a cgroup and all below it use now, or have used.

    `memory_peak_bytes` is None where the kernel does not keep it.
    """

    memory_bytes: int
    memory_peak_bytes: int | None
    cpu_seconds: float
    pids: int
    oom_kills: int


class Group(Protocol):
    """A cgroup that exists. Every method raises OSError when the system refuses.

    Each of them writes or reads some files (0.1 ms), but moving a process (`adopt`) may take the
    kernel tens of milliseconds: not on the thread of an event loop.
    """

    @property
    def path(self) -> str:
        """Its name, from which `supervisor.caps` opens it again in another process."""

    def limit(self, caps: Caps) -> None:
        """Set what it may use at most, also while it is full; None takes a cap away."""

    def weigh(self, weight: int) -> None:
        """Set its share of the processors against its siblings: 1 to 10000, 100 is usual."""

    def unite(self) -> None:
        """Have all in it ended together when its memory runs out; v1 ends the largest alone."""

    def adopt(self, pid: int) -> None:
        """Move a process into it; its children are born there."""

    def entrances(self) -> list[int]:
        """Open the files by which a single thread goes in itself, if this version has such.

        Writing "0" to each moves the thread that writes, whatever it may otherwise do, and costs
        nearly nothing: unlike `adopt` it need not wait for every processor. Whoever is given them
        can move nobody but what it could already signal. The caller's to close.
        """

    def usage(self) -> Usage:
        """Give what it uses."""

    def oom_kills(self) -> int:
        """Give how many processes the kernel ended in it and below it for want of memory."""

    def restart_peak(self) -> bool:
        """Have the peak of memory begin anew, and say whether that can be had."""

    @property
    def name(self) -> str:
        """What its parent calls it."""

    def children(self) -> "Sequence[Group]":
        """Give those inside it that there are."""

    def child(self, name: str) -> "Group":
        """Give a cgroup inside it, made if it is not there.

        Raises:
            ValueError: that is no name.
        """

    def kill(self) -> None:
        """Send SIGKILL to everything in it and below it; may take two seconds."""

    def remove(self, seconds: float = 2.0) -> None:
        """Remove it and all below it; what is not there is well.

        Nothing may run there any more, but what has just been killed keeps it busy for a while.

        Args:
            seconds: How long to wait for that.
        """
