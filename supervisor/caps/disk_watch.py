"""Whose directory is counted next. No I/O in here, and time is an argument.

Counting is dear, asking how much is free is not: nobody can have grown by more than the disk has
lost since his directory was counted. So a tenant is counted again when what has been lost since
could bring it over its limit. Others can hide its growth by giving back as much at the same time:
therefore everybody who can grow is counted again from time to time too.
"""

from typing import Final, NamedTuple

from supervisor.caps.disk_walk import Use

TICK_SECONDS: Final = 0.1
"""Between two questions how much is free."""
PERIOD_SECONDS: Final = 5.0
"""Between two counts of a tenant that nothing points to, while there are few of them."""
BLIND_SECONDS: Final = 1.0
"""The same on a file system that does not say how many inodes are free."""
PERIODIC_SHARE: Final = 0.05
"""The part of one processor that those may take."""
FLOOR_MARGIN: Final = 2
"""Below so many times the floor everybody is counted as soon as the disk loses anything."""


class Free(NamedTuple):
    """What the disk has left for tenants; `inodes` is None where the file system has no number."""

    bytes: int
    inodes: int | None
    total_bytes: int


class Bounds(NamedTuple):
    """What a tenant may have; None is no bound."""

    bytes: int | None
    inodes: int | None


class _Watched:
    """One tenant that can grow."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.use: Use | None = None
        self.seconds = 0.0
        """How long its last count took."""
        self.counting = False
        self.lost = Free(0, 0, 0)
        """What the disk had lost when its last count began."""
        self.changes = 0
        """How often the disk had changed then."""
        self.ended_at = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it was over a bound, or could not be counted."""
        return self.use is not None and is_over(self.use, self.bounds)


def is_over(use: Use, bounds: Bounds) -> bool:
    """Say whether a use is over its bounds; what cannot be counted is."""
    return (
        use.fault is not None
        or (bounds.bytes is not None and use.bytes > bounds.bytes)
        or (bounds.inodes is not None and use.inodes > bounds.inodes)
    )


class Watch:
    """Everybody who can grow. Times are seconds of any clock that only goes forward.

    Args:
        floor_bytes: What is to stay free.
    """

    def __init__(self, floor_bytes: int) -> None:
        self.floor_bytes = floor_bytes
        self._watched: Final[dict[str, _Watched]] = {}
        self._free: Free | None = None
        self._lost_bytes = 0
        self._lost_inodes = 0
        self._changes = 0

    def add(self, tenant: str, bounds: Bounds) -> None:
        """Watch a tenant, or give it other bounds: then it is counted as if for the first time."""
        known = self._watched.get(tenant)
        if known is None:
            self._watched[tenant] = _Watched(bounds)
        elif known.bounds != bounds:
            known.bounds, known.use = bounds, None

    def remove(self, tenant: str) -> None:
        """It cannot grow any more."""
        self._watched.pop(tenant, None)

    @property
    def is_idle(self) -> bool:
        """Whether there is nobody to watch."""
        return not self._watched

    def bounds(self, tenant: str) -> Bounds:
        """Give what a tenant may have; nothing bounds one that is not watched."""
        known = self._watched.get(tenant)
        return Bounds(None, None) if known is None else known.bounds

    def note_free(self, free: Free) -> None:
        """Take note of what is free now."""
        before, self._free = self._free, free
        if before is None or free == before:
            return
        self._changes += 1
        self._lost_bytes += max(0, before.bytes - free.bytes)
        if free.inodes is not None and before.inodes is not None:
            self._lost_inodes += max(0, before.inodes - free.inodes)

    def due(self, now: float) -> list[str]:
        """Give who is to be counted now, those first whose count is short."""
        period = PERIOD_SECONDS
        if self._free is not None and self._free.inodes is None:
            period = BLIND_SECONDS
        every = sum(known.seconds for known in self._watched.values()) / PERIODIC_SHARE
        found = [
            (known.seconds, tenant)
            for tenant, known in self._watched.items()
            if not known.counting and self._is_due(known, now, max(period, every))
        ]
        return [tenant for _, tenant in sorted(found)]

    def _is_due(self, known: _Watched, now: float, period: float) -> bool:
        if known.use is None or now - known.ended_at >= period:
            return True
        # One that is counted again and again takes half of the time at most.
        return now - known.ended_at >= known.seconds and self._is_suspect(known)

    def _is_suspect(self, known: _Watched) -> bool:
        assert known.use is not None
        if known.is_over:  # it may have been made smaller, or grow on
            return self._changes > known.changes
        lost_bytes = self._lost_bytes - known.lost.bytes
        lost_inodes = self._lost_inodes - (known.lost.inodes or 0)
        bounds, use = known.bounds, known.use
        if bounds.bytes is not None and lost_bytes > bounds.bytes - use.bytes:
            return True
        if bounds.inodes is not None and lost_inodes > bounds.inodes - use.inodes:
            return True
        near = self._free is not None and self._free.bytes < FLOOR_MARGIN * self.floor_bytes
        return near and lost_bytes > 0

    @property
    def changes(self) -> int:
        """How often the disk has changed."""
        return self._changes

    def correct(self, tenant: str, use: Use) -> None:
        """Take another use of a tenant that has been counted."""
        known = self._watched.get(tenant)
        if known is not None and known.use is not None:
            known.use = use

    def begin(self, tenant: str) -> None:
        """A count of a tenant begins now."""
        known = self._watched.get(tenant)
        if known is not None:
            known.counting = True
            known.lost = Free(self._lost_bytes, self._lost_inodes, 0)
            known.changes = self._changes

    def end(self, tenant: str, use: Use, seconds: float, now: float) -> None:
        """A count has ended.

        Args:
            tenant: Whose.
            use: What was found.
            seconds: How long it took.
            now: When it ended.
        """
        known = self._watched.get(tenant)
        if known is not None:
            known.counting = False
            known.use, known.seconds, known.ended_at = use, seconds, now
