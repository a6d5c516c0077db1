"""The supervisor's side of egress: start it, hand it the workers, tell it what holds."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from protocol import egress, frames
from protocol.link import ANSWERS, LIVENESS
from protocol.quotas import Standing
from protocol.spawn import LinkLost
from supervisor.child import Exit
from supervisor.logs import Log
from supervisor.shared_process import Greeting, SharedProcess, Told

ACCEPTS: Final = ANSWERS | LIVENESS | {frames.Event}
COMMAND: Final = ("-I", "-m", "supervisor.egress")


class EgressProcess(SharedProcess):
    """One egress process, from its start to its end.

    Args:
        on_link_lost: Gets its word that a link to a worker has ended.
        on_standing: Gets its word on what a tenant has come to.
        on_exit: Called once when it has ended.
        log: For what it writes to standard error.
    """

    def __init__(
        self,
        on_link_lost: Callable[[LinkLost], None],
        on_standing: Callable[[Standing], None],
        on_exit: Callable[["EgressProcess", Exit], None],
        log: Log,
    ) -> None:
        events = {
            "worker.link_lost": Told(LinkLost, on_link_lost),
            "quota.standing": Told(Standing, on_standing),
        }
        super().__init__("egress", events, lambda status: on_exit(self, status), log)

    async def start(self, settings: egress.Settings) -> None:
        """Start the process; what it is handed from here on waits until it serves.

        Raises:
            OSError: it cannot be started.
        """
        with _in_memory(settings) as file:
            greeting = Greeting(egress.Configured(), (file,))
            await self._begin(COMMAND, ACCEPTS, greeting=greeting)

    async def configure(self, settings: egress.Settings) -> None:
        """Have other settings be in force: they are when this returns. Bound the wait outside.

        Raises:
            LinkClosedError: it has ended.
        """
        await self.call("configure", settings)

    def place(self, place: egress.Place, link: socket.socket) -> None:
        """Hand it a worker: its end of the link to it."""
        self._hand(place, [link.fileno()], "worker", place.tenant)

    def meet_launcher(self, channel: socket.socket) -> None:
        """Hand it the channel on which the present launcher hands over listeners."""
        self._hand(egress.Proxies(), [channel.fileno()], "channel", "")

    def charge(self, ran: egress.Ran) -> None:
        """Have a sandbox be charged that has ended."""
        self._tell("sandbox.ran", ran)

    def forget(self, tenant: str) -> None:
        """Have what a deleted tenant brought be gone."""
        self._tell("gone", egress.Gone(tenant=tenant))

    async def call(self, method: str, params: msgspec.Struct) -> bytes:
        """Ask it. Bound the wait outside.

        Raises:
            GatewayError: it refused.
            LinkClosedError: it has ended.
        """
        return await self._end.call(method, params)


@contextlib.contextmanager
def _in_memory(settings: egress.Settings) -> Iterator[int]:
    """Give a descriptor of a file in memory that holds them."""
    with open(os.memfd_create("settings"), "w+b") as file:  # noqa: PTH123 - a descriptor
        file.write(msgspec.msgpack.encode(settings))
        file.flush()
        yield file.fileno()
