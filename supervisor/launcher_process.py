"""The supervisor's side of the launcher: start it, hand it the workers, replace it."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from protocol import frames, launching
from protocol.egress import Ran
from protocol.errors import GatewayError
from protocol.link import ANSWERS, LIVENESS
from protocol.spawn import LinkLost
from supervisor.child import Exit
from supervisor.logs import Log
from supervisor.shared_process import Greeting, SharedProcess, Told

ACCEPTS: Final = ANSWERS | LIVENESS | {frames.Event}
END_SECONDS: Final = 10.0
COMMAND: Final = ("-I", "-m", "supervisor.launcher")


class LauncherProcess(SharedProcess):
    """One launcher process, from its start to its end.

    Args:
        spec: What it is told first.
        on_link_lost: Gets its word that a link to a worker has ended.
        on_terminal: Gets its word that a terminal has begun or ended.
        on_ran: Gets its word that a sandbox has ended, and what it has used.
        on_exit: Called once when it has ended.
        log: For what it writes to standard error.
    """

    def __init__(
        self,
        spec: launching.LauncherSpec,
        on_link_lost: Callable[[LinkLost], None],
        on_terminal: Callable[[launching.TerminalEvent], None],
        on_ran: Callable[[Ran], None],
        on_exit: Callable[["LauncherProcess", Exit], None],
        log: Log,
    ) -> None:
        events = {
            "worker.link_lost": Told(LinkLost, on_link_lost),
            "terminal.event": Told(launching.TerminalEvent, on_terminal),
            "sandbox.ran": Told(Ran, on_ran),
        }
        super().__init__("launcher", events, lambda status: on_exit(self, status), log)
        self._spec: Final = spec

    async def start(self) -> None:
        """Start the process; what it is handed from here on waits until it serves.

        Raises:
            OSError: it cannot be started.
        """
        await self._begin(COMMAND, ACCEPTS, greeting=Greeting(self._spec))

    def place(self, place: launching.Place, link: socket.socket, channel: socket.socket) -> None:
        """Hand it a worker: its end of the data link and of the descriptor channel."""
        self._hand(place, [link.fileno(), channel.fileno()], "worker", place.tenant)

    def meet_egress(self, channel: socket.socket) -> None:
        """Hand it the channel to the present egress."""
        self._hand(launching.Outlet(), [channel.fileno()], "channel", "")

    async def end_tenant(self, tenant: str) -> None:
        """Have everything end that runs for a tenant, and wait for it, not for ever.

        A process that the kernel cannot end (in the middle of a slow disk, say) must not cost the
        other tenants theirs: that it still ends is said, and gone on.

        Raises:
            LinkClosedError: it has ended, and its sandboxes with it.
        """
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._end.call("tenant.end", launching.TenantEnd(tenant=tenant))
        except (GatewayError, TimeoutError) as error:
            self._log.error("sandboxes still end", tenant=tenant, error=str(error))

    def hold(self, hold: launching.Hold) -> None:
        """Have a tenant run nothing, or again."""
        self._tell("hold", hold)
