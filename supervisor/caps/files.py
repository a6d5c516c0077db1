"""The files of cgroups, and what both versions do alike with them."""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

PERIOD_MICROSECONDS: Final = 100_000
"""Over which a quota of processor time is counted; the kernel's own choice."""
QUOTA_MICROSECONDS_MIN: Final = 1000
"""The least quota that the kernel takes."""
PATIENCE_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.001
_PIDFDS_MAX: Final = 64
"""At a time: a fork bomb has more processes than this one may have descriptors."""


def read(path: Path) -> str:
    """Give what a file says, without the end of the line."""
    return path.read_text().strip()


def write(path: Path, value: object) -> None:
    """Write a file that is there, in one system call.

    Raises:
        OSError: it refuses; the path is in `filename`.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def write_if_there(path: Path, value: object) -> None:
    """Write a file that some kernels and some delegations do not have."""
    with contextlib.suppress(FileNotFoundError):
        write(path, value)


def number(path: Path) -> int:
    """Give the number in a file; 0 if there is no such file."""
    try:
        return int(read(path))
    except FileNotFoundError:
        return 0


def counts(path: Path) -> dict[str, int]:
    """Give the lines of a file, each a name and a number; none if there is no such file."""
    try:
        pairs = (line.split() for line in read(path).splitlines())
        return {name: int(value) for name, value in pairs}
    except FileNotFoundError:
        return {}


def quota(cpus: float) -> int:
    """Give processors' worth of time as microseconds in each period."""
    return max(QUOTA_MICROSECONDS_MIN, round(cpus * PERIOD_MICROSECONDS))


def inside(directory: Path, name: str) -> Path:
    """Give a directory in another.

    Raises:
        ValueError: the name is more than a name.
    """
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        msg = f"no name of a cgroup: {name!r}"
        raise ValueError(msg)
    return directory / name


def children(directory: Path) -> list[Path]:
    """Give the cgroups in one; none if it is not there."""
    try:
        with os.scandir(directory) as entries:
            return [directory / entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []


def below(directory: Path) -> Iterator[Path]:
    """Give all cgroups below one, the deepest first."""
    for child in children(directory):
        yield from below(child)
        yield child


def processes(directories: Iterable[Path]) -> set[int]:
    """Give the processes in these cgroups and below them.

    One that this process cannot see, in another pid namespace, has no number here.
    """
    found: set[int] = set()
    for directory in directories:
        for each in (*below(directory), directory):
            with contextlib.suppress(OSError):  # removed meanwhile
                found.update(int(line) for line in read(each / "cgroup.procs").split())
    return found - {0}


@contextlib.contextmanager
def no_forks(directory: Path) -> Iterator[None]:
    """Let nothing be forked in a cgroup meanwhile, where that can be had."""
    file = directory / "pids.max"
    before = read(file) if file.exists() else None
    write_if_there(file, 0)
    try:
        yield
    finally:
        if before is not None:
            write(file, before)


def kill(directories: Sequence[Path]) -> None:
    """Send SIGKILL to all in these cgroups until there is none, for two seconds at most.

    Only where nothing can be forked meanwhile does it reach everything.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while (found := sorted(processes(directories))) and time.monotonic() < until:
        for start in range(0, len(found), _PIDFDS_MAX):
            _kill(found[start : start + _PIDFDS_MAX], directories)
        time.sleep(_PAUSE_SECONDS)


def _kill(pids: Sequence[int], directories: Sequence[Path]) -> None:
    with contextlib.ExitStack() as stack:
        opened: dict[int, int] = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                opened[pid] = os.pidfd_open(pid)
                stack.callback(os.close, opened[pid])
        # Numbers are used again: only what is still in there, now that it is held, is meant.
        for pid in processes(directories) & opened.keys():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(opened[pid], signal.SIGKILL)


def remove(directory: Path, seconds: float) -> None:
    """Remove a cgroup and all below it; what is not there is well.

    The kernel says that it is busy for a while after its last process has ended.

    Raises:
        OSError: it is busy for longer than `seconds`, or it is not ours.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            for each in (*below(directory), directory):
                with contextlib.suppress(FileNotFoundError):
                    each.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() >= until:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return
