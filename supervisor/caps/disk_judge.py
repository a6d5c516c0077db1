"""Who may write to the disk. No I/O in here, and time is an argument.

Two rules. A tenant over its own limit writes no more until it is below again. And when less is free
than the floor, those write no more who have been growing; below half of it, nobody does.
"""

from typing import Final, NamedTuple

from protocol.spawn import StorageRefusal
from supervisor.caps.disk_messages import Counted, Left
from supervisor.caps.disk_watch import Bounds

SETTLE_SECONDS: Final = 0.5
"""What is told to stop has stopped after this."""
OVERGROWTH_BYTES: Final = 32 * 2**20
OVERGROWTH_INODES: Final = 1000
"""So much a worker may need to remove what there is too much of; more is defiance."""
GROWING_BYTES: Final = 8 * 2**20
"""Who has grown by this lately is one of those who fill the disk."""
LATELY_SECONDS: Final = 10.0
"""What a tenant has grown by counts half after so long."""
FLOOR_SHARE_MAX: Final = 0.05
"""No floor is more than this part of a disk: on a small one nobody could write at all."""
FREE_AGAIN: Final = 9 / 8
"""So many times the floor must be free before those may write whom it has stopped."""
RETRY_AFTER_MS: Final = 5000
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


class _Case(NamedTuple):
    """One tenant.

    Attributes:
        bounds: What it may have.
        counted: The newest count.
        grown: Bytes that it has grown by lately.
        counted_at: When the newest count began.
        floored: Whether the floor has stopped it.
        stopped_at: Since when it may not write.
        settled: The first count that began after what it was told had to be in force.
    """

    bounds: Bounds
    counted: Counted | None = None
    grown: float = 0.0
    counted_at: float = 0.0
    floored: bool = False
    stopped_at: float | None = None
    settled: Counted | None = None


class Judge:
    """Everybody who may be stopped. Times are seconds of any clock that only goes forward.

    Args:
        floor_bytes: What is to stay free.
    """

    def __init__(self, floor_bytes: int) -> None:
        self.floor_bytes = floor_bytes
        self._left: Left | None = None
        self._floor_stands = True
        self._cases: Final[dict[str, _Case]] = {}

    def bound(self, tenant: str, bounds: Bounds, now: float) -> None:
        """Give a tenant its bounds, or other ones."""
        case = self._cases.get(tenant, _Case(bounds))
        self._keep(tenant, case._replace(bounds=bounds), now)

    def give_another_chance(self, tenant: str, now: float) -> None:
        """Whoever has defied it has been ended: what is found from now on is somebody else's."""
        case = self._cases[tenant]
        self._cases[tenant] = case._replace(stopped_at=now, settled=None)

    def forget(self, tenant: str) -> None:
        """It is gone."""
        self._cases.pop(tenant, None)

    def count(self, counted: Counted, now: float) -> None:
        """Take a count of a tenant that has bounds."""
        case = self._cases.get(counted.tenant)
        if case is None:
            return
        began_at = now - counted.age_seconds
        grown = case.grown * 0.5 ** ((began_at - case.counted_at) / LATELY_SECONDS)
        if case.counted is not None:
            grown += max(0, counted.bytes - case.counted.bytes)
        settled = case.settled
        if (
            settled is None
            and case.stopped_at is not None
            and began_at >= case.stopped_at + SETTLE_SECONDS
        ):
            settled = counted
        case = case._replace(counted=counted, grown=grown, counted_at=began_at, settled=settled)
        self._keep(counted.tenant, case, now)

    def leave(self, left: Left, now: float) -> None:
        """Take what the disk has left."""
        self._left = left
        floor = self._floor()
        if left.bytes < floor:
            self._floor_stands = False
        elif left.bytes >= floor * FREE_AGAIN:
            self._floor_stands = True
        for tenant, case in list(self._cases.items()):
            self._keep(tenant, case, now)

    def _floor(self) -> float:
        assert self._left is not None
        return min(self.floor_bytes, self._left.total_bytes * FLOOR_SHARE_MAX)

    def _keep(self, tenant: str, case: _Case, now: float) -> None:
        if self._floor_stands:
            case = case._replace(floored=False)
        elif self._fills(case):
            case = case._replace(floored=True)
        stops = case.floored or _excess(case) is not None
        if not stops:
            case = case._replace(stopped_at=None, settled=None)
        elif case.stopped_at is None:
            case = case._replace(stopped_at=now)
        self._cases[tenant] = case

    def _fills(self, case: _Case) -> bool:
        assert self._left is not None
        return case.grown >= GROWING_BYTES or self._left.bytes < self._floor() / 2

    # What follows from it.

    def counted(self, tenant: str) -> Counted | None:
        """Give the newest count of a tenant."""
        case = self._cases.get(tenant)
        return None if case is None else case.counted

    def refusal(self, tenant: str) -> StorageRefusal | None:
        """Say why a tenant may not write; None if it may."""
        case = self._cases.get(tenant)
        if case is None:
            return None
        excess = _excess(case)
        if excess is None and case.floored:
            message = (
                "the gateway's disk is full: less is free than is kept free "
                f"({shown(self._floor())}, caps.disk_floor_bytes); remove what is not needed"
            )
            details: dict[str, int | str] = {"retryAfterMs": RETRY_AFTER_MS}
            return StorageRefusal(code="UNAVAILABLE", message=message, details=details)
        return excess

    def defiance(self, tenant: str) -> str | None:
        """Say by how much a tenant has grown that may not write and knows it; None if it has not.

        Its sandboxes have ended by then: it is its worker that writes.
        """
        case = self._cases.get(tenant)
        if case is None or case.settled is None or case.counted is None:
            return None
        size = case.counted.bytes - case.settled.bytes
        number = case.counted.inodes - case.settled.inodes
        if size <= OVERGROWTH_BYTES and number <= OVERGROWTH_INODES:
            return None
        more = shown(size) if size > OVERGROWTH_BYTES else f"{number} files"
        return f"it wrote {more} more to the disk after it had been told to stop"


def _excess(case: _Case) -> StorageRefusal | None:
    counted, bounds = case.counted, case.bounds
    if counted is None:
        return None
    details: dict[str, int | str]
    if counted.fault is not None:
        message = f"what the tenant has on the disk cannot be counted: {counted.fault}"
        details = {"limit": "diskInodes"}
    elif bounds.bytes is not None and counted.bytes > bounds.bytes:
        message = (
            f"the tenant's files take {shown(counted.bytes)} of the disk, and may take "
            f"{shown(bounds.bytes)} (limits.diskBytes); remove some, or ask the operator for more"
        )
        details = {"limit": "diskBytes", "used": counted.bytes, "most": bounds.bytes}
    elif bounds.inodes is not None and counted.inodes > bounds.inodes:
        message = (
            f"the tenant has {counted.inodes} files and directories or more, and may have "
            f"{bounds.inodes} (limits.diskInodes); remove some, or ask the operator for more"
        )
        details = {"limit": "diskInodes", "used": counted.inodes, "most": bounds.inodes}
    else:
        return None
    details["retryAfterMs"] = RETRY_AFTER_MS
    return StorageRefusal(code="QUOTA_EXCEEDED", message=message, details=details)


def shown(size: float) -> str:
    """Write a number of bytes for people."""
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:  # noqa: PLR2004
            break
        size /= 1024
    return f"{size:.4g} {unit}"
