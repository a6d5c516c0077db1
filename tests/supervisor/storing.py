"""Who may write, where no process counts."""

from typing import Final

import structlog

from protocol.spawn import StorageRefusal
from supervisor.caps.disk_watch import Bounds
from supervisor.storage import Storage


class Told:
    """What follows from it, written down; see `supervisor.storage.StorageOwner`."""

    def __init__(self, bounds: Bounds = Bounds(None, None)) -> None:  # noqa: B008 - immutable
        self.bounds = bounds
        self.said: Final[list[tuple[str, str | None]]] = []
        self.held: Final[list[tuple[str, str]]] = []

    def disk_bounds(self, tenant: str) -> Bounds:
        del tenant
        return self.bounds

    def tell_storage(self, tenant: str, refusal: StorageRefusal | None) -> None:
        self.said.append((tenant, None if refusal is None else refusal.code))

    def hold_back(self, tenant: str, reason: str) -> None:
        self.held.append((tenant, reason))


def storage(owner: Told | None = None, floor_bytes: int = 0, linger_seconds: float = 60) -> Storage:
    """Make one."""
    return Storage(owner or Told(), floor_bytes, lambda: linger_seconds, structlog.get_logger())
