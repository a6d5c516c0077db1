"""A sandbox in a cgroup of its own: what it used is read there, and the cgroup goes with it."""

import asyncio
import contextlib
from typing import Final

from protocol import launching
from protocol.errors import ErrorCode, GatewayError
from supervisor.caps.group import Group
from supervisor.caps.place import reopen
from supervisor.launcher.engine import Job, Outcome, Size

_removing: Final[set[asyncio.Task[None]]] = set()


def make(tenant: str | None, sandbox_id: str, caps: launching.Caps) -> Group | None:
    """Make the cgroup of a sandbox with its limits; None where there are no cgroups.

    Args:
        tenant: The tenant's cgroup.
        sandbox_id: Whose it is to be.
        caps: Its limits.

    Raises:
        GatewayError: UNAVAILABLE, it cannot be made: nothing may run without its limits.
    """
    if tenant is None:
        return None
    group: Group | None = None
    try:
        group = reopen(tenant).child(f"sandbox-{sandbox_id}")
        group.limit(caps)
        group.unite()
    except OSError as error:
        if group is not None:
            remove(group)
        message = f"the sandbox's limits cannot be set: {error.strerror}"
        raise GatewayError(ErrorCode.UNAVAILABLE, message) from error
    return group


def remove(group: Group) -> None:
    """End what is left in a cgroup and remove it, soon: the kernel may take a while."""
    task = asyncio.get_running_loop().create_task(asyncio.to_thread(_remove, group))
    _removing.add(task)
    task.add_done_callback(_removing.discard)


def _remove(group: Group) -> None:
    # The tenant's cgroup goes with the tenant, whatever is left below it.
    with contextlib.suppress(OSError):
        group.kill()
        group.remove()


class Capped:
    """See `supervisor.launcher.engine.Job`.

    Args:
        job: The sandbox.
        group: Its cgroup; removed by `close`.
    """

    def __init__(self, job: Job, group: Group) -> None:
        self._job: Final = job
        self._group: Final = group

    @property
    def terminal(self) -> int | None:
        """See `Job`."""
        return self._job.terminal

    async def wait(self) -> Outcome:
        """See `Job`."""
        outcome = await self._job.wait()
        try:
            used = self._group.usage()
        except OSError:  # the tenant has been removed meanwhile
            return outcome
        return outcome._replace(
            oom_killed=outcome.oom_killed or used.oom_kills > 0,
            cpu_ms=round(used.cpu_seconds * 1000),
            peak_memory_bytes=used.memory_peak_bytes or outcome.peak_memory_bytes,
        )

    def kill(self) -> None:
        """See `Job`."""
        self._job.kill()

    def resize(self, size: Size) -> None:
        """See `Job`."""
        self._job.resize(size)

    def close(self) -> None:
        """See `Job`."""
        self._job.close()
        remove(self._group)
