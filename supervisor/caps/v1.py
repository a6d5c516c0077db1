"""Version 1 of cgroups: a tree for each controller (Documentation/admin-guide/cgroup-v1/)."""

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from protocol.launching import Caps
from supervisor.caps import files
from supervisor.caps.group import Usage

CONTROLLERS: Final = ("pids", "memory", "cpu", "cpuacct")
UNLIMITED: Final = -1
SHARES_OF_WEIGHT_100: Final = 1024


class Cgroup1:
    """See `supervisor.caps.group.Group`.

    A limit of memory lower than what is in use is an error, if the kernel cannot get it back: this
    version ends nobody for it. A child has no more processor time than its parent, whatever it is
    given.

    Args:
        directories: Where it is, by controller; some may be the same.
    """

    VERSION: Final = 1
    NEEDED: Final = frozenset({"memory", "pids"})
    SWITCHES: Final = ()

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._by_controller: Final = dict(directories)
        self._memory: Final = self._by_controller["memory"]
        self._pids: Final = self._by_controller["pids"]
        self._cpu: Final = self._by_controller.get("cpu")
        self.directories: Final = tuple(dict.fromkeys(self._by_controller.values()))
        """Where it is, each once."""

    @classmethod
    def named(cls, path: str) -> "Cgroup1":
        """Give the one that another process calls `path`."""
        pairs = (part.partition("=") for part in path.split(":"))
        return cls({controller: Path(directory) for controller, _, directory in pairs})

    @property
    def path(self) -> str:
        """See `Group`."""
        return ":".join(f"{name}={directory}" for name, directory in self._by_controller.items())

    @property
    def name(self) -> str:
        """What its parent calls it."""
        return self._pids.name

    @property
    def controllers(self) -> frozenset[str]:
        """What can be limited in it and below it."""
        return frozenset(self._by_controller) - {"cpuacct"}

    def limit(self, caps: Caps) -> None:
        """See `Group`."""
        files.write(self._pids / "pids.max", "max" if caps.pids is None else caps.pids)
        if self._cpu is not None:
            _limit_cpu(self._cpu, UNLIMITED if caps.cpus is None else files.quota(caps.cpus))
        # Last: it is refused while more is in use, which keeps nobody from the others.
        self._limit_memory(UNLIMITED if caps.memory_bytes is None else caps.memory_bytes)

    def _limit_memory(self, most: int) -> None:
        # With swap it may never be less than without: the order depends on the direction.
        plain, with_swap = (
            self._memory / name for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        )
        steps = [plain] if not with_swap.exists() else [plain, with_swap]
        if most == UNLIMITED or most > files.number(plain):
            steps.reverse()
        for step in steps:
            self._set_limit(step, most)

    def _set_limit(self, file: Path, most: int) -> None:
        try:
            files.write(file, most)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        else:
            return
        with contextlib.suppress(OSError):
            files.write(self._memory / "memory.force_empty", 0)
        try:
            files.write(file, most)
        except OSError as error:
            if error.errno == errno.EBUSY:
                used = files.number(self._memory / "memory.usage_in_bytes")
                error.strerror = f"{used} bytes are in use and cannot be had back for {most}"
            raise

    def weigh(self, weight: int) -> None:
        """See `Group`."""
        if self._cpu is not None:
            shares = max(2, weight * SHARES_OF_WEIGHT_100 // 100)
            files.write(self._cpu / "cpu.shares", shares)

    def unite(self) -> None:
        """See `Group`."""

    def adopt(self, pid: int) -> None:
        """See `Group`."""
        for directory in self.directories:
            files.write(directory / "cgroup.procs", pid)

    def entrances(self) -> list[int]:
        """See `Group`."""
        with contextlib.ExitStack() as undo:
            opened = []
            for directory in self.directories:
                opened.append(os.open(directory / "tasks", os.O_WRONLY | os.O_CLOEXEC))
                undo.callback(os.close, opened[-1])
            undo.pop_all()
        return opened

    def usage(self) -> Usage:
        """See `Group`."""
        accounts = self._by_controller.get("cpuacct")
        nanoseconds = 0 if accounts is None else files.number(accounts / "cpuacct.usage")
        return Usage(
            memory_bytes=files.number(self._memory / "memory.usage_in_bytes"),
            memory_peak_bytes=files.number(self._memory / "memory.max_usage_in_bytes"),
            cpu_seconds=nanoseconds / 1e9,
            pids=files.number(self._pids / "pids.current"),
            oom_kills=self.oom_kills(),
        )

    def oom_kills(self) -> int:
        """See `Group`. Those of children that are gone are not in it."""
        each = (*files.below(self._memory), self._memory)
        found = (files.counts(directory / "memory.oom_control") for directory in each)
        return sum(values.get("oom_kill", 0) for values in found)  # since Linux 4.13

    def restart_peak(self) -> bool:
        """See `Group`."""
        files.write(self._memory / "memory.max_usage_in_bytes", 0)
        return True

    def child(self, name: str) -> "Cgroup1":
        """See `Group`."""
        return self.make(name)

    def make(self, name: str) -> "Cgroup1":
        """Make a child."""
        child = self.at(name)
        for directory in child.directories:
            directory.mkdir(exist_ok=True)
        return child

    def at(self, name: str) -> "Cgroup1":
        """Give a child, there or not."""
        return Cgroup1({key: files.inside(path, name) for key, path in self._by_controller.items()})

    def share(self) -> None:
        """Let children be limited; in this version they always are."""

    def keep(self) -> None:
        """Take back `share`."""

    def children(self) -> list["Cgroup1"]:
        """Give those that there are in any of its trees."""
        names = {path.name for each in self.directories for path in files.children(each)}
        return [self.at(name) for name in sorted(names)]

    def kill(self) -> None:
        """See `Group`. Until all have ended nothing in it can fork; two seconds at most."""
        with files.no_forks(self._pids):
            files.kill(self.directories)

    def remove(self, seconds: float = files.PATIENCE_SECONDS) -> None:
        """See `Group`."""
        for directory in self.directories:
            files.remove(directory, seconds)


def _limit_cpu(directory: Path, most: int) -> None:
    """Set a quota as near to `most` as its parents allow, and lower those of its children to it."""
    quota = most
    if most != UNLIMITED:
        quota = min(most, *(_quota(each) or most for each in directory.parents))
        for each in files.below(directory):
            if _quota(each) > quota:
                files.write(each / "cpu.cfs_quota_us", quota)
    files.write(directory / "cpu.cfs_quota_us", quota)


def _quota(directory: Path) -> int:
    """Give a quota for the usual period; 0 where there is none."""
    quota = files.number(directory / "cpu.cfs_quota_us")
    period = files.number(directory / "cpu.cfs_period_us")
    return max(0, quota) * files.PERIOD_MICROSECONDS // period if period else 0
