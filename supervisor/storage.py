"""Who may write to the disk: what is counted is judged, and whom it concerns is told.

Only those can grow who have processes, so only they are counted, and whoever is over its limit. A
sandbox can outlive the worker that asked for it for as long as a terminal may be idle.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from protocol.spawn import StorageRefusal
from supervisor.caps.disk_judge import Judge
from supervisor.caps.disk_messages import Counted, Left, Watched
from supervisor.caps.disk_watch import Bounds
from supervisor.disk_process import DiskProcess
from supervisor.logs import Log


class StorageOwner(Protocol):
    """What the supervisor does about it."""

    def disk_bounds(self, tenant: str) -> Bounds:
        """Say what a tenant may have."""

    def tell_storage(self, tenant: str, refusal: StorageRefusal | None) -> None:
        """Have a tenant's worker and sandboxes write no more, or again."""

    def hold_back(self, tenant: str, reason: str) -> None:
        """End a tenant's worker, and start no other one until `tell_storage` says None."""


class Storage:
    """See the module.

    Args:
        owner: What is done about it.
        floor_bytes: What is to stay free.
        linger_seconds: How long a tenant may have sandboxes without a worker.
        log: Where it is told who was stopped.
    """

    def __init__(
        self,
        owner: StorageOwner,
        floor_bytes: int,
        linger_seconds: Callable[[], float],
        log: Log,
    ) -> None:
        self._owner: Final = owner
        self._linger_seconds: Final = linger_seconds
        self._log: Final = log
        self._judge: Final = Judge(floor_bytes)
        self._process: DiskProcess | None = None
        self._watched: Final[dict[str, asyncio.TimerHandle | None]] = {}
        """By tenant: what ends its being watched, where it has no worker."""
        self._told: Final[dict[str, StorageRefusal]] = {}

    def refusal(self, tenant: str) -> StorageRefusal | None:
        """Say why a tenant may not write; None if it may."""
        return self._judge.refusal(tenant)

    def counted(self, tenant: str) -> Counted | None:
        """Give what a tenant had on the disk when it was counted last."""
        return self._judge.counted(tenant)

    def each(self, tell: Callable[[str, StorageRefusal], None]) -> None:
        """Tell somebody of all tenants that may not write."""
        for tenant, refusal in self._told.items():
            tell(tenant, refusal)

    @property
    def stopped(self) -> int:
        """How many tenants may not write."""
        return len(self._told)

    # What it is told of.

    def awake(self, tenant: str) -> None:
        """A worker of a tenant starts."""
        timer = self._watched.get(tenant)
        if timer is not None:
            timer.cancel()
        self._watched[tenant] = None
        self.change_bounds(tenant)

    def asleep(self, tenant: str) -> None:
        """The last worker of a tenant has ended."""
        if self._watched.get(tenant, self) is None:
            later = asyncio.get_running_loop().call_later
            self._watched[tenant] = later(self._linger_seconds(), self._rest, tenant)

    def _rest(self, tenant: str) -> None:
        if self._judge.refusal(tenant) is not None:  # it may be made smaller by an operator
            later = asyncio.get_running_loop().call_later
            self._watched[tenant] = later(self._linger_seconds(), self._rest, tenant)
            return
        self._watched.pop(tenant, None)
        if self._process is not None:
            self._process.forget(tenant)

    def forget(self, tenant: str) -> None:
        """A tenant is gone."""
        timer = self._watched.pop(tenant, None)
        if timer is not None:
            timer.cancel()
        self._judge.forget(tenant)
        self._told.pop(tenant, None)
        if self._process is not None:
            self._process.forget(tenant)

    def change_bounds(self, tenant: str) -> None:
        """Take over what a tenant may have now."""
        if tenant in self._watched:
            bounds = self._owner.disk_bounds(tenant)
            self._judge.bound(tenant, bounds, asyncio.get_running_loop().time())
            self._watch(tenant, bounds)
            self._act(tenant)

    def change_floor(self, floor_bytes: int) -> None:
        """Take over what is to stay free."""
        self._judge.floor_bytes = floor_bytes
        if self._process is not None:
            self._process.set_floor(floor_bytes)

    def use(self, process: DiskProcess | None) -> None:
        """Take another process that counts, which knows nothing yet."""
        self._process = process
        if process is not None:
            process.set_floor(self._judge.floor_bytes)
            for tenant in self._watched:
                self._watch(tenant, self._owner.disk_bounds(tenant))

    def _watch(self, tenant: str, bounds: Bounds) -> None:
        if self._process is not None:
            self._process.watch(
                Watched(tenant=tenant, bytes_max=bounds.bytes, inodes_max=bounds.inodes)
            )

    def told(self, message: Counted | Left) -> None:
        """Take what has been counted."""
        now = asyncio.get_running_loop().time()
        if isinstance(message, Counted):
            self._judge.count(message, now)
            self._act(message.tenant)
        else:
            self._judge.leave(message, now)
            for tenant in list(self._watched):
                self._act(tenant)

    # What follows.

    def _act(self, tenant: str) -> None:
        refusal, before = self._judge.refusal(tenant), self._told.get(tenant)
        if refusal is None and before is not None:
            del self._told[tenant]
            self._log.info("tenant may write again", tenant=tenant)
            self._owner.tell_storage(tenant, None)
        elif refusal is not None:
            self._told[tenant] = refusal
            if before is None:
                self._log.warning("tenant may not write", tenant=tenant, reason=refusal.message)
            if refusal != before:
                self._owner.tell_storage(tenant, refusal)
        defiance = self._judge.defiance(tenant)
        if defiance is not None:
            self._judge.give_another_chance(tenant, asyncio.get_running_loop().time())
            self._owner.hold_back(tenant, defiance)
