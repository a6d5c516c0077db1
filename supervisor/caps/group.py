"""One cgroup, whichever version the system has."""

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
    """A cgroup that exists. Every method raises OSError when the system refuses."""

    @property
    def path(self) -> str:
        """Its name, from which `supervisor.caps` opens it again in another process."""

    def limit(self, caps: Caps) -> None:
        """Set what it may use at most, also while it is full; None takes a cap away."""

    def weigh(self, weight: int) -> None:
        """Set its share of the processors against its siblings: 1 to 10000, 100 is usual."""

    def adopt(self, pid: int) -> None:
        """Move a process into it; its children are born there."""

    def usage(self) -> Usage:
        """Give what it uses."""

    def child(self, name: str) -> "Group":
        """Give a cgroup inside it, made if it is not there."""

    def kill(self) -> None:
        """Send SIGKILL to everything in it and below it."""

    def remove(self) -> None:
        """Remove it and all below it. Nothing may run there any more."""
