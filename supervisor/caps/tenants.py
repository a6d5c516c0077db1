"""The cgroups of all tenants: made when a worker wakes, removed when nothing of it runs."""

import contextlib
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from protocol.launching import Caps
from supervisor.caps.group import Group, Usage
from supervisor.caps.place import Claimed
from supervisor.disk import Disk

WORKER: Final = "worker"
WORKER_WEIGHT: Final = 1000
"""Against 100 of each of its sandboxes: it answers for them, also while they use what they can."""


class Admission(NamedTuple):
    """A way into a tenant's cgroup.

    Attributes:
        entrances: Files by which the process itself goes in, before it does anything else.
        by_pid: Moves it, by its process id; raises OSError. None where there is nothing to do.
    """

    entrances: Sequence[int] = ()
    by_pid: Callable[[int], Awaitable[None]] | None = None

    async def admit(self, pid: int) -> None:
        """Have a process in the tenant's cgroup when this returns, if it still lives.

        Raises:
            OSError: the system refuses.
        """
        if not self.entrances and self.by_pid is not None:
            await self.by_pid(pid)


class _Tenant:
    """What is known of one tenant's cgroup."""

    def __init__(self, group: Group) -> None:
        self.group: Final = group
        self.worker: Group | None = None
        self.oom_kills = 0
        """How many ends of workers for want of memory have been told."""


class TenantGroups:
    """Does to tenants' cgroups what their life asks for; without cgroups, nothing.

    What may take the kernel a while is done on a thread, one after the other.

    Args:
        claimed: Where they are; None if there are none.
        caps_of: Gives what a tenant may have now.
    """

    def __init__(self, claimed: Claimed | None, caps_of: Callable[[str], Caps]) -> None:
        self._claimed: Final = claimed
        self._caps_of: Final = caps_of
        self._thread: Final = Disk("caps")
        self._tenants: Final[dict[str, _Tenant]] = {}
        self._refused: Final[set[str]] = set()
        # Whose caps are not what they should be.
        self._leaving: Final[dict[str, bool]] = {}
        # Whether what runs there is to be killed, by tenant.

    def path_of(self, tenant: str) -> str | None:
        """Give what `supervisor.caps.place.reopen` opens a tenant's cgroup by."""
        return None if self._claimed is None else self._claimed.path_of(tenant)

    @contextlib.asynccontextmanager
    async def admission(self, tenant: str) -> AsyncIterator[Admission]:
        """Give the way into a tenant's cgroup, made if it is not there, with its caps set.

        Raises:
            OSError: the system refuses; no process may do anything for the tenant then.
        """
        if self._claimed is None:
            yield Admission()
            return
        self._leaving.pop(tenant, None)
        worker = await self._thread(self._open, self._claimed, tenant)
        entrances = worker.entrances()
        try:
            yield Admission(entrances, functools.partial(self._admit, worker))
        finally:
            for entrance in entrances:
                os.close(entrance)

    def _open(self, claimed: Claimed, tenant: str) -> Group:
        try:
            known = self._tenants.get(tenant)
            if known is None:
                known = _Tenant(claimed.tenant(tenant))
                known.group.limit(self._caps_of(tenant))
                self._tenants[tenant] = known
            known.worker = worker = known.group.child(WORKER)
            worker.weigh(WORKER_WEIGHT)
            known.oom_kills = min(known.oom_kills, worker.oom_kills())
        except OSError as error:
            self._tenants.pop(tenant, None)  # perhaps it was removed behind our back
            msg = f"it cannot be put into its cgroup: {error.strerror}"
            raise OSError(error.errno, msg) from error
        return worker

    async def _admit(self, worker: Group, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended, which is told elsewhere
            await self._thread(worker.adopt, pid)

    async def limit(self, *tenants: str) -> dict[str, str]:
        """Have the caps of these tenants be what they are now; gives what could not be, by tenant.

        A cap that is refused stays as it was until `tidy` can have it be in force.
        """
        if self._claimed is None:
            return {}
        return await self._thread(self._limit, tenants)

    def _limit(self, tenants: tuple[str, ...]) -> dict[str, str]:
        refused = {}
        for tenant in tenants:
            self._refused.discard(tenant)
            known = self._tenants.get(tenant)
            if known is None:
                continue  # its next worker gets them
            try:
                known.group.limit(self._caps_of(tenant))
            except OSError as error:
                refused[tenant] = error.strerror or str(error)
                self._refused.add(tenant)
        return refused

    def usage(self, tenant: str) -> Usage | None:
        """Give what a tenant uses, its worker and its sandboxes; None without a cgroup."""
        known = self._tenants.get(tenant)
        try:
            return None if known is None else known.group.usage()
        except OSError:  # it is being removed
            return None

    def usages(self, tenants: Sequence[str]) -> dict[str, Usage]:
        """Give what these use; on any thread."""
        found = ((tenant, self.usage(tenant)) for tenant in tenants)
        return {tenant: used for tenant, used in found if used is not None}

    def starved(self, tenant: str) -> str | None:
        """Say of a worker that was killed whether that was for want of memory, and whose.

        Gives None without a cgroup, which knows it, and "" if it was something else.
        """
        known = self._tenants.get(tenant)
        if known is None or known.worker is None:
            return None
        try:
            if known.worker.oom_kills() <= known.oom_kills:
                return ""
            known.oom_kills += 1
            peak, cap = known.group.usage().memory_peak_bytes, self._caps_of(tenant).memory_bytes
        except OSError:
            return None
        if cap is None or (peak is not None and peak < cap - cap // 64):
            return "the system was out of memory"
        return f"its tenant was out of the memory that it may have ({cap} bytes)"

    async def release(self, tenant: str, *, ended: bool) -> None:
        """Remove a tenant's cgroup, now that no worker of it runs; later, if sandboxes do.

        Args:
            tenant: Whose.
            ended: It is to have none: what still runs is killed.
        """
        if tenant in self._tenants:
            self._leaving[tenant] = ended
            await self._thread(self._release, tenant)

    async def tidy(self) -> None:
        """Do what could not be done yet, because something was in use; called again and again."""
        for tenant in list(self._leaving):
            await self._thread(self._release, tenant)
        if self._refused:
            await self.limit(*self._refused)

    def _release(self, tenant: str) -> None:
        # A worker that came meanwhile has taken it off the list; what comes from now on waits for
        # this thread, and has it made anew.
        known = self._tenants.get(tenant)
        if known is None or tenant not in self._leaving:
            return
        try:
            if self._leaving[tenant]:
                known.group.kill()
                known.group.remove()
            else:
                known.group.remove(0)
        except OSError:
            return
        del self._tenants[tenant]
        self._leaving.pop(tenant, None)

    def close(self) -> None:
        """Wait for what is being done."""
        self._thread.close()
