"""The supervisor's side of the process that counts what is on the disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from protocol import frames
from protocol.link import LIVENESS
from supervisor.caps.disk_messages import Counted, Floor, Forgotten, Left, Watched
from supervisor.child import Exit
from supervisor.logs import Log
from supervisor.shared_process import SharedProcess, Told

ACCEPTS: Final = LIVENESS | {frames.Event}
COMMAND: Final = ("-I", "-m", "supervisor.caps.disk")


class DiskProcess(SharedProcess):
    """One such process, from its start to its end.

    Args:
        tenants: The directory of the tenants' directories.
        uid: As whom it runs.
        on_told: Gets what it has found.
        on_exit: Called once when it has ended.
        log: For what it writes to standard error.
    """

    def __init__(
        self,
        tenants: Path,
        uid: int,
        on_told: Callable[[Counted | Left], None],
        on_exit: Callable[["DiskProcess", Exit], None],
        log: Log,
    ) -> None:
        events = {"counted": Told(Counted, on_told), "left": Told(Left, on_told)}
        super().__init__("disk", events, lambda status: on_exit(self, status), log)
        self._arguments: Final = (str(tenants), str(uid))

    async def start(self) -> None:
        """Start the process; what it is told from here on waits until it reads.

        Raises:
            OSError: it cannot be started.
        """
        await self._begin(COMMAND, ACCEPTS, *self._arguments)

    def watch(self, watched: Watched) -> None:
        """Have a tenant counted whenever it could have come over its bounds."""
        self._tell("watch", watched)

    def forget(self, tenant: str) -> None:
        """Have it counted no more."""
        self._tell("forget", Forgotten(tenant=tenant))

    def set_floor(self, floor_bytes: int) -> None:
        """Say what is to stay free."""
        self._tell("floor", Floor(bytes=floor_bytes))
