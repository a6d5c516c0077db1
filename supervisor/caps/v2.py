"""Version 2 of cgroups: one tree (Documentation/admin-guide/cgroup-v2.rst).

Processes are in its leaves alone, and what a cgroup may limit its parent has switched on.
"""

from pathlib import Path
from typing import Final

from protocol.launching import Caps
from supervisor.caps import files
from supervisor.caps.group import Usage

CONTROLLERS: Final = ("memory", "pids", "cpu")


class Cgroup2:
    """See `supervisor.caps.group.Group`.

    A limit of memory lower than what is in use ends processes. Where processor time is not ours to
    limit (systemd does not delegate it to ordinary users everywhere), such a limit does nothing.

    Args:
        directory: Where it is.
    """

    VERSION: Final = 2
    NEEDED: Final = frozenset({"memory", "pids"})
    SWITCHES: Final = ("cgroup.subtree_control",)
    """What only its owner may write."""

    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory

    @property
    def name(self) -> str:
        """What its parent calls it."""
        return self.directory.name

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where it is."""
        return (self.directory,)

    @property
    def path(self) -> str:
        """See `Group`."""
        return str(self.directory)

    @property
    def controllers(self) -> frozenset[str]:
        """What can be limited in it and below it."""
        held = files.read(self.directory / "cgroup.controllers").split()
        return frozenset(held).intersection(CONTROLLERS)

    def limit(self, caps: Caps) -> None:
        """See `Group`."""
        most = caps.memory_bytes
        files.write_if_there(self.directory / "memory.swap.max", "max" if most is None else 0)
        files.write(self.directory / "memory.max", "max" if most is None else most)
        files.write(self.directory / "pids.max", "max" if caps.pids is None else caps.pids)
        quota = "max" if caps.cpus is None else files.quota(caps.cpus)
        files.write_if_there(self.directory / "cpu.max", f"{quota} {files.PERIOD_MICROSECONDS}")

    def weigh(self, weight: int) -> None:
        """See `Group`."""
        files.write_if_there(self.directory / "cpu.weight", weight)

    def unite(self) -> None:
        """See `Group`."""
        files.write(self.directory / "memory.oom.group", 1)

    def adopt(self, pid: int) -> None:
        """See `Group`."""
        files.write(self.directory / "cgroup.procs", pid)

    def entrances(self) -> list[int]:
        """See `Group`. This version moves whole processes, which takes as long from inside."""
        return []

    def usage(self) -> Usage:
        """See `Group`."""
        peak = files.number(self.directory / "memory.peak")  # since Linux 5.19
        return Usage(
            memory_bytes=files.number(self.directory / "memory.current"),
            memory_peak_bytes=peak or None,
            cpu_seconds=files.counts(self.directory / "cpu.stat").get("usage_usec", 0) / 1e6,
            pids=files.number(self.directory / "pids.current"),
            oom_kills=self.oom_kills(),
        )

    def oom_kills(self) -> int:
        """See `Group`."""
        return files.counts(self.directory / "memory.events").get("oom_kill", 0)

    def restart_peak(self) -> bool:
        """See `Group`. Only since Linux 6.12, and for one descriptor."""
        return False

    def child(self, name: str) -> "Cgroup2":
        """See `Group`. It can have none while a process is in it."""
        made = self.make(name)
        self.share()
        return made

    def make(self, name: str) -> "Cgroup2":
        """Make a child without any limits yet, which works also while processes are in here."""
        child = self.at(name)
        child.directory.mkdir(exist_ok=True)
        return child

    def at(self, name: str) -> "Cgroup2":
        """Give a child, there or not."""
        return Cgroup2(files.inside(self.directory, name))

    def share(self) -> None:
        """Let children be limited."""
        control = self.directory / "cgroup.subtree_control"
        missing = self.controllers.difference(files.read(control).split())
        if missing:
            files.write(control, " ".join(f"+{name}" for name in sorted(missing)))

    def children(self) -> list["Cgroup2"]:
        """Give those that there are."""
        return [Cgroup2(path) for path in files.children(self.directory)]

    def keep(self) -> None:
        """Take back `share`, so that processes may be in here again."""
        control = self.directory / "cgroup.subtree_control"
        held = files.read(control).split()
        if held:
            files.write(control, " ".join(f"-{name}" for name in held))

    def kill(self) -> None:
        """See `Group`."""
        try:
            files.write(self.directory / "cgroup.kill", 1)  # since Linux 5.14
        except FileNotFoundError:
            with files.no_forks(self.directory):
                files.kill([self.directory])

    def remove(self, seconds: float = files.PATIENCE_SECONDS) -> None:
        """See `Group`."""
        files.remove(self.directory, seconds)
