"""The engine `bubblewrap`: each sandbox is bwrap(1) in namespaces of its own, made for one program.

Its arguments are the policy: what is not named here is not there. The file system is a read-only
/usr, what programs expect of /etc, empty directories in memory, and the tenant's directory at
/work. There is no network, no capability and no way to another user namespace.
"""

import asyncio
import contextlib
import fcntl
import functools
import os
import resource
import shutil
import signal
import struct
import subprocess
import termios
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from protocol import launching, limits
from protocol.errors import ErrorCode, GatewayError
from supervisor.launcher.engine import Job, Launch, Outcome, Size, outcome_of_code
from supervisor.launcher.stem import Start, Stem
from supervisor.zygote import linux

HOSTNAME: Final = "sandbox"
USER: Final = "sandbox"
FEATURES: Final = ("--bind-fd", "--disable-userns", "--json-status-fd", "--clearenv", "--size")
UNFILTERED: Final = "its system calls cannot be filtered; install libseccomp"
OPEN_FILES: Final = 1024
_SCRATCH_BYTES: Final = 64 * limits.MIB
_SCRATCH: Final = ("/tmp", "/var/tmp", "/run", "/dev/shm")  # noqa: S108 - inside
_SYSTEM_LINKS: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Of the host's: what libraries and programs look for, and no more.
_ETC: Final = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/ssl/certs", "/etc/mime.types")
# Of the machine, or of others with the same uid; Docker masks these too.
_MASKED: Final = (
    *("/proc/keys", "/proc/key-users", "/proc/interrupts", "/proc/kcore", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/timer_list", "/proc/timer_stats"),
)
_DIRECTORY: Final = 3
_STATUS: Final = 4
_SECCOMP: Final = 5
_FIRST_FILE: Final = 6
_STATUS_BYTES_MAX: Final = 4096
_NOT_EXECUTED: Final = 127
_PROBE_SECONDS: Final = 10.0


@functools.cache
def _system() -> tuple[str, ...]:
    arguments = ["--ro-bind", "/usr", "/usr"]
    for path in _SYSTEM_LINKS:
        found = Path(path)
        if found.is_symlink():
            arguments += ["--symlink", str(found.readlink()), path]
        elif found.is_dir():
            arguments += ["--ro-bind", path, path]
    for path in _ETC:
        arguments += ["--ro-bind-try", path, path]
    return tuple(arguments)


@functools.cache
def _masks() -> tuple[str, ...]:
    there = [path for path in _MASKED if Path(path).exists()]
    return tuple(word for path in there for word in ("--ro-bind", os.devnull, path))


def _made_up(uid: int, gid: int) -> dict[str, bytes]:
    """Give the files of /etc that are nobody's but the sandbox's."""
    home = launching.WORK
    return {
        "/etc/passwd": (
            f"root:x:0:0:root:/root:/usr/sbin/nologin\n{USER}:x:{uid}:{gid}::{home}:/bin/sh\n"
        ).encode(),
        "/etc/group": f"root:x:0:\n{USER}:x:{gid}:\n".encode(),
        "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n",
        "/etc/hosts": f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n".encode(),
    }


class Arguments(NamedTuple):
    """What bwrap is started with, and the files it reads from number 5 on."""

    argv: tuple[str, ...]
    files: tuple[bytes, ...]


def arguments(bwrap: str, launch: Launch, policy: bytes) -> Arguments:
    """Give what bwrap is started with for a sandbox.

    Args:
        bwrap: Its path.
        launch: The sandbox.
        policy: Its system calls, a BPF program.
    """
    files = _made_up(launch.uid, launch.gid)
    argv = [bwrap, "--unshare-user", "--unshare-all", "--disable-userns", "--die-with-parent"]
    argv += ["--cap-drop", "ALL", "--hostname", HOSTNAME, "--clearenv"]
    argv += _system()
    for number, path in enumerate(files, _FIRST_FILE):
        argv += ["--perms", "0444", "--file", str(number), path]
    argv += ["--proc", "/proc", *_masks(), "--dev", "/dev"]
    for path in _SCRATCH:
        argv += ["--perms", "1777", "--size", str(_SCRATCH_BYTES), "--tmpfs", path]
    argv += ["--bind-fd", str(_DIRECTORY), launching.WORK]
    # Both are memory without a bound.
    argv += ["--remount-ro", "/dev", "--remount-ro", "/"]
    for name, value in launch.env.items():
        argv += ["--setenv", name, value]
    argv += ["--chdir", launch.cwd, "--json-status-fd", str(_STATUS), "--seccomp", str(_SECCOMP)]
    return Arguments((*argv, "--", *launch.argv), (policy, *files.values()))


def resource_limits(launch: Launch) -> tuple[tuple[int, int], ...]:
    """Give what holds for each process of a sandbox by itself."""
    held = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_FSIZE, launch.file_bytes),
        (resource.RLIMIT_MEMLOCK, 64 * limits.KIB),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NICE, 0),
        (resource.RLIMIT_RTPRIO, 0),
    ]
    if launch.cgroup is None and launch.caps.memory_bytes is not None:
        held.append((resource.RLIMIT_DATA, launch.caps.memory_bytes))
    return tuple(held)


class Bubblewrap:
    """See `supervisor.launcher.engine.Engine`.

    Args:
        stem: What forks.
        policy: The system calls of sandboxes.
        found: What `find` gave.
    """

    mode: Final[launching.Mode] = "bubblewrap"

    def __init__(self, stem: Stem, policy: bytes, found: "Found") -> None:
        self._stem: Final = stem
        self._policy: Final = policy
        self._found: Final = found
        self._lacking: Final = found.lacking or ("" if policy else UNFILTERED)
        self._ending: Final[set[asyncio.Task[Outcome]]] = set()

    async def check(self) -> launching.Engine:
        """See `Engine`."""
        detail = self._lacking or f"{self._found.path} is there"
        return launching.Engine(mode=self.mode, usable=not self._lacking, detail=detail)

    async def start(self, launch: Launch) -> Job:
        """See `Engine`."""
        starting = asyncio.get_running_loop().create_task(self._start(launch))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._end_unwanted)
            raise

    def _end_unwanted(self, starting: "asyncio.Task[_Job]") -> None:
        if not starting.cancelled() and starting.exception() is None:
            job = starting.result()
            job.kill()
            task = asyncio.get_running_loop().create_task(job.wait())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            task.add_done_callback(lambda _: job.close())

    async def _start(self, launch: Launch) -> "_Job":
        with contextlib.ExitStack() as ours:
            for descriptor in launch.stdio or ():
                ours.callback(os.close, descriptor)
            if self._lacking:
                message = f"no bubblewrap sandbox can be started here: {self._lacking}"
                raise GatewayError(ErrorCode.UNAVAILABLE, message, mode=self.mode)
            terminal: int | None = None
            given: tuple[int, ...] = launch.stdio or ()
            if launch.terminal is not None:
                with linux.file_rights_of(launch.uid, launch.gid):
                    terminal, slave = os.openpty()
                ours.callback(os.close, slave)
                os.set_blocking(terminal, False)
                _resize(terminal, launch.terminal)
                given = (slave,)
            status, theirs = os.pipe()
            ours.callback(os.close, theirs)
            argv, files = arguments(self._found.path, launch, self._policy)
            start = Start(
                argv=argv,
                uid=launch.uid,
                gid=launch.gid,
                files=files,
                limits=resource_limits(launch),
                cgroup=None if launch.cgroup is None or launch.stem else launch.cgroup.path,
                terminal=terminal is not None,
            )
            try:
                pid = await (launch.stem or self._stem).start(
                    start, (*given, launch.directory, theirs)
                )
            except BaseException:
                for descriptor in (status, *(() if terminal is None else (terminal,))):
                    os.close(descriptor)
                raise
        return _Job(pid, status, terminal)

    def forget(self, tenant: str) -> None:
        """See `Engine`. Nothing is kept ready."""

    async def close(self) -> None:
        """See `Engine`."""
        self._stem.close()


class _Status(msgspec.Struct, frozen=True, rename="kebab"):
    """A line of bwrap's on its status descriptor; bwrap(1), --json-status-fd."""

    child_pid: int | None = None
    exit_code: int | None = None


_decode_status: Final = msgspec.json.Decoder(_Status).decode


class _Job:
    """A bwrap that runs. Its own child is the first process of the sandbox's pid namespace.

    When bwrap ends, that child is killed by the kernel and becomes ours (the launcher is a
    subreaper): once it is reaped too, nothing runs in the sandbox any more.
    """

    def __init__(self, pid: int, status: int, terminal: int | None) -> None:
        self.terminal: Final = terminal
        self._pid: Final = pid
        self._pidfd: Final = os.pidfd_open(pid)
        self._status = status
        self._cpu_seconds = 0.0

    def kill(self) -> None:
        """See `Job`."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def resize(self, size: Size) -> None:
        """See `Job`."""
        if self.terminal is not None:
            _resize(self.terminal, size)

    def close(self) -> None:
        """See `Job`."""
        if self.terminal is not None:
            os.close(self.terminal)

    async def wait(self) -> Outcome:
        """See `Job`."""
        try:
            await _readable(self._pidfd)
            ended, _ = self._collect(self._pid)
            report = os.read(self._status, _STATUS_BYTES_MAX)
        finally:
            os.close(self._pidfd)
            os.close(self._status)
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
                    await _readable(pidfd)
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


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def _resize(terminal: int, size: Size) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", size.rows, size.columns, 0, 0))


class Found(NamedTuple):
    """bwrap on this machine: its path, and what keeps it from being used, if anything does."""

    path: str
    lacking: str


def find() -> Found:
    """Look for bwrap and what it can; runs it, so before that is forbidden."""
    path = shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin")
    if path is None:
        return Found("", "there is no bwrap; install bubblewrap")
    try:
        shown = subprocess.run(
            [path, "--help"], capture_output=True, timeout=_PROBE_SECONDS, check=False, env={}
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Found(path, f"{path} cannot be run: {error}")
    known = (shown.stdout + shown.stderr).decode(errors="replace")
    missing = [feature for feature in FEATURES if feature not in known]
    lacking = f"{path} has no {', '.join(missing)}; install a newer bubblewrap" if missing else ""
    return Found(path, lacking)
