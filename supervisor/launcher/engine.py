"""What an engine is: something that makes a sandbox of one mode. One surface, two of them."""

import os
from typing import Final, NamedTuple, Protocol

from protocol import launching
from protocol.errors import ErrorCode, GatewayError
from supervisor.caps.group import Group
from supervisor.launcher.stem import Stem


class Size(NamedTuple):
    """Of a terminal, in characters."""

    columns: int
    rows: int


class Launch(NamedTuple):
    """One sandbox to start, clamped to what its tenant may have.

    Attributes:
        sandbox_id: Its name everywhere.
        tenant: Whose.
        uid: What it runs as.
        gid: As `uid`.
        argv: What runs.
        env: Its whole environment.
        cwd: Where, an absolute path inside.
        name: Of the directory at /work.
        directory: That directory, open (O_PATH) and the caller's; what is mounted, whatever its
            name is by then.
        image: The profile, under Docker.
        caps: Of this sandbox.
        file_bytes: The longest file it can write.
        cgroup: Its own, made already; None where there are none, and where the engine makes it.
        tenant_cgroup: The tenant's, as `supervisor.caps` names it; None where there are none.
        stem: What forks in its own cgroup, if something does; under bubblewrap.
        stdio: Read end of stdin, write ends of stdout and stderr; the engine's to close. None with
            a terminal.
        terminal: The size of its terminal; None without.
        door: Where a listener in its network namespace is handed out, the caller's; None for one
            that reaches nothing.
    """

    sandbox_id: str
    tenant: str
    uid: int
    gid: int
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    name: str
    directory: int
    image: str | None
    caps: launching.Caps
    file_bytes: int
    cgroup: Group | None
    tenant_cgroup: str | None
    stem: Stem | None
    stdio: tuple[int, int, int] | None
    terminal: Size | None
    door: int | None = None


class Outcome(NamedTuple):
    """How a sandbox ended: exactly one of exit code and signal.

    `cpu_ms` and `peak_memory_bytes` are what the engine measured; a cgroup knows better.
    """

    exit_code: int | None
    signal: int | None
    oom_killed: bool = False
    cpu_ms: int = 0
    peak_memory_bytes: int | None = None


_SIGNALLED: Final = 128
_SIGNALS_MAX: Final = 64


def outcome_of_code(code: int) -> Outcome:
    """Read a code as engines and shells give it: 128 and a signal's number for a signal.

    A program that ends with such a code by itself cannot be told from one that was killed.
    """
    if _SIGNALLED < code <= _SIGNALLED + _SIGNALS_MAX:
        return Outcome(None, code - _SIGNALLED)
    return Outcome(code, None)


class Job(Protocol):
    """A sandbox that runs."""

    @property
    def terminal(self) -> int | None:
        """Its terminal: a descriptor (not blocking) to read output from and write input to.

        The job's to close, when `wait` is over and `close` has been called.
        """

    async def wait(self) -> Outcome:
        """Wait for its end; nothing of it runs any more then. Bound the wait outside."""

    def kill(self) -> None:
        """End it and everything in it at once; `wait` tells when it has."""

    def resize(self, size: Size) -> None:
        """Give its terminal another size; the program is told (SIGWINCH)."""

    def close(self) -> None:
        """Let go of what is left of it."""


class Wrapped:
    """A job that does more than the one inside, which does the rest; see `Job`.

    Args:
        job: The one inside.
    """

    def __init__(self, job: Job) -> None:
        self._job: Final = job

    @property
    def terminal(self) -> int | None:
        """See `Job`."""
        return self._job.terminal

    async def wait(self) -> Outcome:
        """See `Job`."""
        return await self._job.wait()

    def kill(self) -> None:
        """See `Job`."""
        self._job.kill()

    def resize(self, size: Size) -> None:
        """See `Job`."""
        self._job.resize(size)

    def close(self) -> None:
        """See `Job`."""
        self._job.close()


class Engine(Protocol):
    """Makes sandboxes of one mode."""

    @property
    def mode(self) -> launching.Mode:
        """Which."""

    @property
    def makes_cgroups(self) -> bool:
        """Whether it makes each sandbox's cgroup itself, in the tenant's, and reads its use."""

    async def check(self) -> launching.Engine:
        """Say whether it can be used now, and why not."""

    async def start(self, launch: Launch) -> Job:
        """Start a sandbox; it takes over `launch.stdio`, also when it raises.

        Raises:
            GatewayError: it cannot be started, with the reason and the fix. Nothing runs then.
        """

    def forget(self, tenant: str) -> None:
        """Give up whatever is kept ready for a tenant."""

    async def close(self) -> None:
        """Give up whatever there is."""


class Absent:
    """An engine that cannot be had, and why; see `Engine`.

    Args:
        mode: Which.
        reason: Said to whoever wants it, with the fix.
    """

    makes_cgroups: Final = True

    def __init__(self, mode: launching.Mode, reason: str) -> None:
        self.mode: Final = mode
        self._reason: Final = reason

    async def check(self) -> launching.Engine:
        """See `Engine`."""
        return launching.Engine(mode=self.mode, usable=False, detail=self._reason)

    async def start(self, launch: Launch) -> Job:
        """See `Engine`."""
        for descriptor in launch.stdio or ():
            os.close(descriptor)
        raise GatewayError(ErrorCode.UNAVAILABLE, self._reason, mode=self.mode)

    def forget(self, tenant: str) -> None:
        """See `Engine`."""

    async def close(self) -> None:
        """See `Engine`."""
