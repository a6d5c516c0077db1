"""The supervisor's side of the front: start it, tell it the tenants, hand it links, replace it."""

import asyncio
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from protocol import aio, frames
from protocol.link import ANSWERS, LIVENESS, REQUESTS
from protocol.meters import FrontMeters
from protocol.quotas import CountedRequests
from protocol.spawn import (
    TENANTS_PER_UPDATE_MAX,
    TOKENS_PER_UPDATE_MAX,
    DetachParams,
    FrontSettings,
    FrontSpec,
    LinkLost,
    TenantAccess,
    TenantLoad,
    TenantsUpdate,
    TerminalAttached,
    WorkerLink,
)
from supervisor.child import Exit
from supervisor.logs import Log
from supervisor.shared_process import EXIT_SECONDS, Greeting, SharedProcess, Told

ACCEPTS: Final = REQUESTS | ANSWERS | LIVENESS | {frames.Drained, frames.Event}
UPDATE_SECONDS: Final = 10.0
COMMAND: Final = ("-I", "-m", "supervisor.front")


def parts(tenants: Iterable[TenantAccess]) -> Iterator[list[TenantAccess]]:
    """Cut what is to be told into pieces that fit a frame."""
    part: list[TenantAccess] = []
    tokens = 0
    for access in tenants:
        part.append(access)
        tokens += len(access.tokens)
        if len(part) >= TENANTS_PER_UPDATE_MAX or tokens >= TOKENS_PER_UPDATE_MAX:
            yield part
            part, tokens = [], 0
    if part:
        yield part


class FrontEvents(NamedTuple):
    """Who gets what the front tells."""

    on_link_lost: Callable[[LinkLost], None]
    """A link to a worker has ended."""
    on_attached: Callable[[TerminalAttached], None]
    """Somebody sees a terminal."""
    on_counted: Callable[[CountedRequests], None]
    """Requests were counted."""


class FrontProcess(SharedProcess):
    """One front process, from its start to its end.

    Args:
        spec: What it is told first.
        listener: The listening socket; stays the supervisor's.
        on_call: Gets every call of the front.
        events: Who gets what the front tells.
        on_exit: Called once when it has ended.
        log: For what it writes to standard error.
    """

    def __init__(
        self,
        spec: FrontSpec,
        listener: socket.socket,
        on_call: Callable[[aio.LinkEnd, frames.Call], None],
        events: FrontEvents,
        on_exit: Callable[["FrontProcess", Exit], None],
        log: Log,
    ) -> None:
        told = {
            "worker.link_lost": Told(LinkLost, events.on_link_lost),
            "terminal.attached": Told(TerminalAttached, events.on_attached),
            "quota.counted": Told(CountedRequests, events.on_counted),
        }
        super().__init__("front", told, lambda status: on_exit(self, status), log)
        self._spec: Final = spec
        self._listener: Final = listener
        self._on_call: Final = on_call

    async def start(
        self, tenants: Iterable[TenantAccess], more: Iterable[TenantsUpdate] = ()
    ) -> None:
        """Start the process and tell it the tenants; it serves when this returns.

        Args:
            tenants: All.
            more: What else it is to know of them before it serves.

        Raises:
            OSError: it cannot be started.
            LinkClosedError: it ended at once; the log says why.
            TimeoutError: it did not answer.
        """
        greeting = Greeting(self._spec, [self._listener.fileno()])
        await self._begin(COMMAND, ACCEPTS, greeting=greeting)
        for part in parts(tenants):
            await self.tell(TenantsUpdate(known=part))
        for change in more:
            await self.tell(change)
        await self.tell(TenantsUpdate(complete=True))

    async def tell(self, change: TenantsUpdate | FrontSettings) -> None:
        """Tell it about tenants, or what the operator has decided; in force when this returns.

        Raises:
            GatewayError, LinkClosedError: it refused, or has ended.
            TimeoutError: it did not answer; it is killed and will be replaced.
        """
        of_tenants = isinstance(change, TenantsUpdate)
        await self._ask("tenants.update" if of_tenants else "front.configure", change)

    async def detach(self, tenant: str, generation: int) -> None:
        """Have it send nothing new to a generation; nothing is on its way when this returns.

        Raises:
            GatewayError, LinkClosedError: it refused, or has ended.
            TimeoutError: it did not answer; it is killed and will be replaced.
        """
        await self._ask("worker.detach", DetachParams(tenant=tenant, generation=generation))

    async def load(self) -> dict[str, TenantLoad]:
        """Give what is in flight and held, by tenant.

        Raises:
            LinkClosedError: it has ended.
            TimeoutError: it did not answer; it is killed and will be replaced.
        """
        return msgspec.json.decode(await self._ask("tenants.load", {}), type=dict[str, TenantLoad])

    async def meters(self) -> FrontMeters:
        """Give what it has counted.

        Raises:
            LinkClosedError: it has ended.
            TimeoutError: it did not answer; it is killed and will be replaced.
            msgspec.DecodeError: it answered what it must not.
        """
        return msgspec.json.decode(await self._ask("front.meters", {}), type=FrontMeters)

    async def _ask(self, method: str, params: object) -> bytes:
        try:
            async with asyncio.timeout(UPDATE_SECONDS):
                return await self._end.call(method, params)
        except TimeoutError:
            self.kill()
            raise

    def give_link(self, link: WorkerLink, sock: socket.socket) -> None:
        """Hand it the front's end of a link to a ready worker."""
        self._hand(link, [sock.fileno()], "link", link.tenant)

    async def drain(self, seconds: float) -> None:
        """Let it finish what clients wait for, and end it."""
        if not self._end.closed:
            self._end.link.send(frames.Drain(seconds))
            self._end.flush()
        await self._end_within(seconds + EXIT_SECONDS)

    # protocol.aio.LinkHandler; `Drained` is followed by its exit, which is what counts.

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        """See `LinkHandler`."""
        self._on_call(end, call)

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`. A front without its link is of no use."""
        super().on_closed(end, reason)
        self.kill()
