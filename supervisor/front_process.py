"""The supervisor's side of the front: start it, tell it the tenants, hand it links, replace it."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from protocol import aio, descriptors, frames, limits
from protocol.link import ANSWERS, LIVENESS, REQUESTS
from protocol.meters import FrontMeters
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
from supervisor.child import FIRST_DESCRIPTOR, Child, Exit, start_python
from supervisor.logs import Log, LogPump

ACCEPTS: Final = REQUESTS | ANSWERS | LIVENESS | {frames.Drained, frames.Event}
UPDATE_SECONDS: Final = 10.0
EXIT_SECONDS: Final = 5.0
COMMAND: Final = (
    "-I",
    "-m",
    "supervisor.front",
    str(FIRST_DESCRIPTOR),
    str(FIRST_DESCRIPTOR + 1),
)


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


class FrontProcess:
    """One front process, from its start to its end.

    Args:
        spec: What it is told first.
        listener: The listening socket; stays the supervisor's.
        on_call: Gets every call of the front.
        on_link_lost: Gets the front's word that a link to a worker has ended.
        on_attached: Gets the front's word that somebody sees a terminal.
        on_exit: Called once when it has ended.
        log: For what it writes to standard error.
    """

    def __init__(
        self,
        spec: FrontSpec,
        listener: socket.socket,
        on_call: Callable[[aio.LinkEnd, frames.Call], None],
        on_link_lost: Callable[[LinkLost], None],
        on_attached: Callable[[TerminalAttached], None],
        on_exit: Callable[["FrontProcess", Exit], None],
        log: Log,
    ) -> None:
        self._spec: Final = spec
        self._listener: Final = listener
        self._on_call: Final = on_call
        self._on_link_lost: Final = on_link_lost
        self._on_attached: Final = on_attached
        self._on_exit: Final = on_exit
        self._log: Final = log
        self._end: aio.LinkEnd
        self._channel: socket.socket
        self._child: Child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._child.ended

    async def start(self, tenants: Iterable[TenantAccess]) -> None:
        """Start the process and tell it the tenants; it serves when this returns.

        Raises:
            OSError: it cannot be started.
            LinkClosedError: it ended at once; the log says why.
            TimeoutError: it did not answer.
        """
        ours, theirs = socket.socketpair()
        self._channel, their_channel = descriptors.pair()
        reader, writer = os.pipe()
        with theirs, their_channel:
            pid = start_python(COMMAND, (theirs.fileno(), their_channel.fileno()), writer)
        os.close(writer)
        LogPump(reader, self._log)
        self._child = Child(pid, lambda status: self._on_exit(self, status))
        self._channel.setblocking(False)
        descriptors.send(
            self._channel, msgspec.msgpack.encode(self._spec), [self._listener.fileno()]
        )
        self._end = await aio.attach(ours, ACCEPTS, self)
        for part in parts(tenants):
            await self.tell(TenantsUpdate(known=part))
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
        try:
            descriptors.send(self._channel, msgspec.msgpack.encode(link), [sock.fileno()])
        except OSError as error:
            # Its queue is full or it is gone: in both cases a new front gets all links again.
            self._log.warning("front takes no link", tenant=link.tenant, error=str(error))
            self.kill()

    def check_alive(self) -> None:
        """Ping it; one that has missed three is killed and will be replaced."""
        if not self._end.closed:
            missed = self._end.link.ping()
            self._end.flush()
            if missed >= limits.PING_MISSES_MAX:
                self._log.error("front hangs")
                self.kill()

    async def drain(self, seconds: float) -> None:
        """Let it finish what clients wait for, and end it."""
        if not self._end.closed:
            self._end.link.send(frames.Drain(seconds))
            self._end.flush()
        try:
            async with asyncio.timeout(seconds + EXIT_SECONDS):
                await self._child.wait()
        except TimeoutError:
            self.kill()
            await self._child.wait()

    def kill(self) -> None:
        """End it at once."""
        self._child.signal(signal.SIGKILL)

    # protocol.aio.LinkHandler

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        """See `LinkHandler`."""
        self._on_call(end, call)

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. What the front asks for is short and is not cut off."""

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. Nothing is streamed to the front."""

    def on_notice(self, end: aio.LinkEnd, frame: frames.Frame) -> None:
        """See `LinkHandler`. `Drained` is followed by its exit, which is what counts."""
        match frame:
            case frames.Event("worker.link_lost", body):
                self._on_link_lost(msgspec.json.decode(body, type=LinkLost))
            case frames.Event("terminal.attached", body):
                self._on_attached(msgspec.json.decode(body, type=TerminalAttached))

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`. A front without its link is of no use."""
        self._channel.close()
        if reason is not None:
            self._log.error("front broke its link", reason=str(reason))
        self.kill()
