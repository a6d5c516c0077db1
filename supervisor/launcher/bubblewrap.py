"""The engine `bubblewrap`: each sandbox is bwrap(1) in namespaces of its own, made for one program.

Its arguments are the policy: what is not named here is not there. The file system is a read-only
/usr, what programs expect of /etc, empty directories in memory, and the tenant's directory at
/work. There is no network, no capability and no way to another user namespace.
"""

import asyncio
import contextlib
import functools
import os
import resource
from pathlib import Path
from typing import Final, NamedTuple

from protocol import launching, limits
from protocol.errors import ErrorCode, GatewayError
from supervisor.launcher.bubblewrap_job import BwrapJob, resize
from supervisor.launcher.bwrap import Found
from supervisor.launcher.engine import Job, Launch, Outcome
from supervisor.launcher.stem import Start, Stem
from supervisor.zygote import linux

HOSTNAME: Final = "sandbox"
USER: Final = "sandbox"
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
_STATUS: Final = 3
_DIRECTORY: Final = 4
# The barrier and the door, those that there are, then bwrap's files.
_EXTRAS: Final = 5
# Beside those of a sandbox: what else may run under the uid of a tenant, the worker's threads.
_PROCESSES_BESIDE: Final = 512


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
    """What bwrap is started with, and the files it reads after its other descriptors."""

    argv: tuple[str, ...]
    files: tuple[bytes, ...]


def arguments(bwrap: str, launch: Launch, policy: bytes, *, barrier: bool = False) -> Arguments:
    """Give what bwrap is started with for a sandbox.

    Args:
        bwrap: Its path.
        launch: The sandbox.
        policy: Its system calls, a BPF program.
        barrier: Whether it waits at number 5 before the program begins.
    """
    seccomp = _EXTRAS + barrier + (launch.door is not None)
    files = _made_up(launch.uid, launch.gid)
    argv = [bwrap, "--unshare-user", "--unshare-all", "--disable-userns", "--die-with-parent"]
    if launch.door is not None:
        argv.append("--share-net")  # the one that was made for it
    argv += ["--cap-drop", "ALL", "--hostname", HOSTNAME, "--clearenv"]
    argv += _system()
    for number, path in enumerate(files, seccomp + 1):
        argv += ["--perms", "0444", "--file", str(number), path]
    argv += ["--proc", "/proc", *_masks(), "--dev", "/dev"]
    for path in _SCRATCH:
        argv += ["--perms", "1777", "--size", str(_SCRATCH_BYTES), "--tmpfs", path]
    argv += ["--bind-fd", str(_DIRECTORY), launching.WORK]
    # Both are memory without a bound.
    argv += ["--remount-ro", "/dev", "--remount-ro", "/"]
    for name, value in launch.env.items():
        argv += ["--setenv", name, value]
    argv += ["--chdir", launch.cwd, "--json-status-fd", str(_STATUS), "--seccomp", str(seccomp)]
    if barrier:
        argv += ["--block-fd", str(_EXTRAS)]
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
    if launch.cgroup is None and launch.caps.pids is not None and os.geteuid() == 0:
        # An ordinary user's other processes would count too; see `limit_processes`.
        held.append((resource.RLIMIT_NPROC, launch.caps.pids + _PROCESSES_BESIDE))
    return tuple(held)


class Bubblewrap:
    """See `supervisor.launcher.engine.Engine`.

    Args:
        stem: What forks.
        policy: The system calls of sandboxes.
        found: What `bwrap.find` gave.
    """

    mode: Final[launching.Mode] = "bubblewrap"
    makes_cgroups: Final = False

    def __init__(self, stem: Stem, policy: bytes, found: Found) -> None:
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

    def _end_unwanted(self, starting: "asyncio.Task[BwrapJob]") -> None:
        if not starting.cancelled() and starting.exception() is None:
            self._abandon(starting.result())

    def _abandon(self, job: BwrapJob) -> None:
        job.kill()
        task = asyncio.get_running_loop().create_task(job.wait())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        task.add_done_callback(lambda _: job.close())

    async def _start(self, launch: Launch) -> BwrapJob:
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
                resize(terminal, launch.terminal)
                given = (slave,)
            status, theirs = os.pipe()
            at_exec = ours.enter_context(contextlib.ExitStack())
            at_exec.callback(os.close, theirs)
            given = (*given, theirs, launch.directory)
            pids = launch.caps.pids if launch.cgroup is None and os.geteuid() != 0 else None
            release = -1
            if pids is not None:
                barrier, release = os.pipe()
                at_exec.callback(os.close, barrier)
                ours.callback(os.close, release)
                given = (*given, barrier)
            door = None
            if launch.door is not None:
                door = _EXTRAS + (pids is not None)
                given = (*given, launch.door)
            argv, files = arguments(
                self._found.path, launch, self._policy, barrier=pids is not None
            )
            start = Start(
                argv=argv,
                uid=launch.uid,
                gid=launch.gid,
                files=files,
                limits=resource_limits(launch),
                cgroup=None if launch.cgroup is None or launch.stem else launch.cgroup.path,
                terminal=terminal is not None,
                door=door,
            )
            try:
                pid = await (launch.stem or self._stem).start(start, given)
            except BaseException:
                for descriptor in (status, *(() if terminal is None else (terminal,))):
                    os.close(descriptor)
                raise
            job = BwrapJob(pid, status, terminal)
            if pids is not None:
                at_exec.close()  # or nobody would hear of its end
                try:
                    await job.limit_processes(pids)
                except BaseException:
                    self._abandon(job)
                    raise
                with contextlib.suppress(BrokenPipeError):  # `wait` says why
                    os.write(release, b"x")
        return job

    def forget(self, tenant: str) -> None:
        """See `Engine`. Nothing is kept ready."""

    async def close(self) -> None:
        """See `Engine`."""
        self._stem.close()
