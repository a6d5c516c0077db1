"""A bwrap that runs: its limits, its end and what it used."""

import contextlib
import fcntl
import os
import resource
import signal
import struct
import termios
from typing import Final

import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from supervisor.launcher.engine import Outcome, Size, outcome_of_code
from supervisor.launcher.readable import readable

_STATUS_BYTES_MAX: Final = 4096
_NOT_EXECUTED: Final = 127


class _Status(msgspec.Struct, frozen=True, rename="kebab"):
    """A line of bwrap's on its status descriptor; bwrap(1), --json-status-fd."""

    child_pid: int | None = None
    exit_code: int | None = None


_decode_status: Final = msgspec.json.Decoder(_Status).decode


class BwrapJob:
    """A bwrap that runs. Its own child is the first process of the sandbox's pid namespace.

    When bwrap ends, that child is killed by the kernel and becomes ours (the launcher is a
    subreaper): once it is reaped too, nothing runs in the sandbox any more.
    """

    def __init__(self, pid: int, status: int, terminal: int | None) -> None:
        self.terminal: Final = terminal
        self._pid: Final = pid
        self._pidfd = os.pidfd_open(pid)
        self._status: Final = status
        self._report = b""
        self._cpu_seconds = 0.0

    def kill(self) -> None:
        """See `Job`."""
        if self._pidfd < 0:
            return  # it has ended, and `wait` is ending what it left
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def resize(self, size: Size) -> None:
        """See `Job`."""
        if self.terminal is not None:
            resize(self.terminal, size)

    def close(self) -> None:
        """See `Job`."""
        if self.terminal is not None:
            os.close(self.terminal)

    async def limit_processes(self, most: int) -> None:
        """Bound how many processes there may be, inside and before the program begins.

        In the sandbox's user namespace only its own count. Set from outside before that one is
        made, the limit would count all of an ordinary user's.

        Raises:
            GatewayError: the system refuses; it must be ended.
        """
        while b"\n" not in self._report:
            await readable(self._status)
            data = os.read(self._status, _STATUS_BYTES_MAX)
            if not data:
                return  # it has ended, and `wait` says why
            self._report += data
        inner, _ = _read_status(self._report)
        if inner is None:
            message = "the sandbox's limits cannot be set: bwrap does not say where it is"
            raise GatewayError(ErrorCode.UNAVAILABLE, message)
        try:
            resource.prlimit(inner, resource.RLIMIT_NPROC, (most, most))
        except ProcessLookupError:
            return  # bwrap could not make it, and `wait` says why
        except OSError as error:
            message = f"the sandbox's limits cannot be set: {error.strerror}"
            raise GatewayError(ErrorCode.UNAVAILABLE, message) from error

    async def wait(self) -> Outcome:
        """See `Job`."""
        try:
            await readable(self._pidfd)
            ended, _ = self._collect(self._pid)
            report = self._report + os.read(self._status, _STATUS_BYTES_MAX)
        finally:
            os.close(self._pidfd)
            os.close(self._status)
            self._pidfd = -1
        inner, code = _read_status(report)
        peak = None if inner is None else await self._reap(inner)
        if os.WIFSIGNALED(ended):
            outcome = Outcome(None, os.WTERMSIG(ended))
        elif code is not None:
            outcome = outcome_of_code(code)
        elif inner is not None:
            # bwrap has told why on the program's standard error.
            outcome = Outcome(_NOT_EXECUTED, None)
        else:
            reason = report.decode(errors="replace").strip() or "bwrap could not make it"
            raise GatewayError(ErrorCode.UNAVAILABLE, f"the sandbox was not started: {reason}")
        return outcome._replace(cpu_ms=round(self._cpu_seconds * 1000), peak_memory_bytes=peak)

    def _collect(self, pid: int) -> tuple[int, int]:
        """Reap one that has ended; gives its status, and the most memory one of its had, bytes."""
        _, status, used = os.wait4(pid, 0)
        self._cpu_seconds += used.ru_utime + used.ru_stime
        return status, used.ru_maxrss * limits.KIB

    async def _reap(self, pid: int) -> int | None:
        try:
            if _still_runs(pid):
                pidfd = os.pidfd_open(pid)
                try:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    await readable(pidfd)
                finally:
                    os.close(pidfd)
            return self._collect(pid)[1]
        except (ChildProcessError, ProcessLookupError):
            return None  # bwrap itself has reaped it, and its time is in bwrap's own sum


def _still_runs(child: int) -> bool:
    """Say whether a child has not ended yet.

    Raises:
        ChildProcessError: it is no child of ours.
    """
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _read_status(report: bytes) -> tuple[int | None, int | None]:
    child = code = None
    for line in report.splitlines():
        with contextlib.suppress(msgspec.DecodeError):
            status = _decode_status(line)
            child = child if status.child_pid is None else status.child_pid
            code = code if status.exit_code is None else status.exit_code
    return child, code


def resize(terminal: int, size: Size) -> None:
    """Give a terminal a size."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", size.rows, size.columns, 0, 0))
