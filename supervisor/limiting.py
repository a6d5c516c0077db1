"""What each tenant may have now, put in force: its cgroup's caps, and its part of the disk."""

from collections.abc import Iterator
from typing import Final, Protocol

from protocol.control.shapes import NO_LIMITS
from protocol.launching import Caps, Hold
from protocol.spawn import StorageRefusal
from supervisor.caps.disk_watch import Bounds
from supervisor.caps.effective import Effective, effective
from supervisor.caps.group import Usage
from supervisor.caps.place import Claimed
from supervisor.caps.tenants import TenantGroups
from supervisor.config import Config
from supervisor.launcher_process import LauncherProcess
from supervisor.logs import Log
from supervisor.registry import Tenant
from supervisor.storage import Storage
from supervisor.workers import Workers

LINGER_SECONDS: Final = 60.0
"""What a terminal may need beyond its idle limit to end."""


class Limited(Protocol):
    """Whom it concerns; the supervisor provides it."""

    @property
    def config(self) -> Config:
        """What is in force."""

    @property
    def workers(self) -> Workers:
        """The workers of all tenants."""

    @property
    def launcher(self) -> LauncherProcess | None:
        """Who has the sandboxes; None while it is being replaced."""

    def row(self, tenant: str) -> Tenant | None:
        """Give a tenant's row of the registry, if there is one."""


class Limiting:
    """See the module; implements `supervisor.storage.StorageOwner`.

    Args:
        claimed: Where the cgroups are; None if there are none.
        floor_bytes: What of the disk is to stay free.
        limited: Whom it concerns.
        log: Where it is told what was refused.
    """

    def __init__(
        self, claimed: Claimed | None, floor_bytes: int, limited: Limited, log: Log
    ) -> None:
        self._limited: Final = limited
        self._log: Final = log
        self.groups: Final = TenantGroups(claimed, lambda tenant: self._effective(tenant).caps)
        self.storage: Final = Storage(self, floor_bytes, self._linger_seconds, log)

    async def apply(self, *tenants: str) -> tuple[str, ...]:
        """Have the limits of these be in force; gives what of it is not yet, or hurts."""
        for tenant in tenants:
            self.storage.change_bounds(tenant)
        used = [self.groups.usage(tenant) for tenant in tenants[:1]]
        refused = await self.groups.limit(*tenants)
        for tenant, reason in refused.items():
            self._log.error("caps refused", tenant=tenant, reason=reason)
        warnings = [f"not in force yet, it is tried again: {why}" for why in refused.values()]
        if len(tenants) == 1 and not refused:
            warnings += _warnings(used[0], self._effective(tenants[0]).caps)
        return tuple(warnings)

    def tell_launcher(self, launcher: LauncherProcess) -> None:
        """Have a new launcher know who may run nothing."""
        self.storage.each(lambda tenant, why: launcher.hold(Hold(tenant=tenant, refusal=why)))

    def _effective(self, tenant: str) -> Effective:
        row = self._limited.row(tenant)
        own = NO_LIMITS if row is None else row.limits
        return effective(own, self._limited.config.caps)

    def _linger_seconds(self) -> float:
        return self._limited.config.sandbox.terminal_idle_seconds + LINGER_SECONDS

    # supervisor.storage.StorageOwner

    def disk_bounds(self, tenant: str) -> Bounds:
        """See `StorageOwner`."""
        found = self._effective(tenant)
        return Bounds(found.disk_bytes, found.disk_inodes)

    def tell_storage(self, tenant: str, refusal: StorageRefusal | None) -> None:
        """See `StorageOwner`."""
        if self._limited.launcher is not None:
            self._limited.launcher.hold(Hold(tenant=tenant, refusal=refusal))
        self._limited.workers.tell_storage(tenant, refusal)

    def hold_back(self, tenant: str, reason: str) -> None:
        """See `StorageOwner`."""
        self._limited.workers.hold_back(tenant, reason)


def _warnings(used: Usage | None, caps: Caps) -> Iterator[str]:
    """Say what of a change hurts, by what was used before it."""
    if used is None:
        return
    if caps.memory_bytes is not None and used.memory_bytes > caps.memory_bytes:
        yield (
            f"limits.memoryBytes: {used.memory_bytes} bytes were in use, more than "
            f"{caps.memory_bytes}: the kernel takes back what can be had again, and ends "
            "processes if that is not enough"
        )
    if caps.pids is not None and used.pids > caps.pids:
        yield (
            f"limits.pids: {used.pids} were in use, more than {caps.pids}: they run on, and "
            "none is added"
        )
