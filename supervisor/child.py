"""Child processes of the supervisor: started with what they are given alone, watched by pidfd.

A pidfd names one process for ever, so a signal can never reach a stranger that got its number.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

_SCRATCH_DESCRIPTOR_MIN: Final = 64
FIRST_DESCRIPTOR: Final = 3
"""Descriptors are passed from this number on, in order."""


class Exit(NamedTuple):
    """How a process ended: by itself with a code, or by a signal."""

    code: int | None
    signal: int | None

    def __str__(self) -> str:
        """Say it in words."""
        if self.signal is not None:
            try:
                return f"killed by {signal.Signals(self.signal).name}"
            except ValueError:  # most real-time signals have no name
                return f"killed by signal {self.signal}"
        return f"exited with {self.code}"


_watched: Final[set[int]] = set()


class Child:
    """A child that is watched until it has ended and been reaped.

    Args:
        pid: A child of this process that nobody else waits for.
        on_exit: Called once, from the event loop.
    """

    def __init__(self, pid: int, on_exit: Callable[[Exit], None]) -> None:
        self.pid: Final = pid
        self._pidfd: Final = os.pidfd_open(pid)
        _watched.add(pid)
        self._on_exit: Final = on_exit
        self._loop: Final = asyncio.get_running_loop()
        self._ended: Final[asyncio.Future[Exit]] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._reap)

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._ended.done()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; without effect once it has ended."""
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> Exit:
        """Wait for its end. Bound the wait outside."""
        return await asyncio.shield(self._ended)

    def _reap(self) -> None:
        info = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        if info is None:
            return
        _watched.discard(self.pid)
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        exited = info.si_code == os.CLD_EXITED
        result = Exit(info.si_status if exited else None, None if exited else info.si_status)
        self._ended.set_result(result)
        self._on_exit(result)


def end_unwatched() -> int:
    """End the children that no `Child` watches, and reap them; gives how many there were.

    Such are the workers of a zygote that died after the clone and before it could say their pid:
    they are this process's children, and nobody else's to end. Not while somebody else may clone.
    """
    found = [pid for pid in _children() if pid not in _watched]
    for pid in found:
        Child(pid, lambda _: None).signal(signal.SIGKILL)
    return len(found)


def _children() -> list[int]:
    mine, found = os.getpid(), []
    with os.scandir("/proc") as entries:
        numbers = [int(entry.name) for entry in entries if entry.name.isdigit()]
    for number in numbers:
        with contextlib.suppress(OSError):  # ended since
            text = Path(f"/proc/{number}/stat").read_text(errors="replace")
            if int(text.rpartition(")")[2].split()[1]) == mine:
                found.append(number)
    return found


def start_python(arguments: Sequence[str], descriptors: Sequence[int], stderr: int) -> int:
    """Start this interpreter with `arguments`, as `start` does; gives its pid.

    Raises:
        OSError: it cannot be started.
    """
    return start([sys.executable, *arguments], descriptors, stderr)


def start(
    command: Sequence[str], descriptors: Sequence[int], stderr: int, stdin: int | None = None
) -> int:
    """Start a program, named by its path, with an empty environment; gives its pid.

    Standard input (unless given) and output are /dev/null; `descriptors` become 3, 4, … there. It
    gets a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone.

    Raises:
        OSError: it cannot be started.
    """
    # Copies above every target number, or one dup2 could overwrite the source of the next.
    copies: list[int] = []
    try:
        copies.extend(
            fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _SCRATCH_DESCRIPTOR_MIN)
            for descriptor in (*descriptors, *(() if stdin is None else (stdin,)), stderr)
        )
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, copies[-1], 2),
        ]
        if stdin is not None:
            actions[0] = (os.POSIX_SPAWN_DUP2, copies[-2], 0)
        actions += [(os.POSIX_SPAWN_CLOSE, inherited) for inherited in _inheritable()]
        for target, copy in enumerate(copies[: len(descriptors)], FIRST_DESCRIPTOR):
            actions.append((os.POSIX_SPAWN_DUP2, copy, target))
        return os.posix_spawn(
            command[0],
            list(command),
            {},
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGPIPE),
        )
    finally:
        for copy in copies:
            os.close(copy)


def _inheritable() -> list[int]:
    """Give what this process was itself started with beside the standard three."""
    with os.scandir("/proc/self/fd") as entries:
        numbers = [int(entry.name) for entry in entries]
    found = []
    for number in numbers:
        with contextlib.suppress(OSError):  # closed since, as that of the listing
            if number >= FIRST_DESCRIPTOR and os.get_inheritable(number):
                found.append(number)
    return found
