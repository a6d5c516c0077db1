"""The front's ends of its links: to the supervisor, and to every worker that runs."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Final, NoReturn

import msgspec

from protocol import aio, frames, limits
from protocol.errors import ErrorCode, GatewayError, RemoteProtocolError
from protocol.link import ANSWERS, LIVENESS, REQUESTS
from protocol.pace import Pace
from protocol.spawn import LinkLost, WorkerLink
from supervisor.front.service import Front
from supervisor.front.subscription import Event
from supervisor.front.tenants import Tenant
from supervisor.handed import Handed

FROM_SUPERVISOR: Final = REQUESTS | ANSWERS | LIVENESS | {frames.Drain, frames.Event}
FROM_WORKER: Final = ANSWERS | {frames.Event}

Notice = frames.Event | frames.Drain | frames.Drained | frames.Pong


class SupervisorLink:
    """What the supervisor says. Implements `protocol.aio.LinkHandler`."""

    def __init__(self, front: Front) -> None:
        self._front: Final = front
        self.closed: Final = asyncio.Event()

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        """See `LinkHandler`."""
        front = self._front
        acts: dict[str, Callable[[bytes], bytes]] = {
            "tenants.update": front.update,
            "worker.detach": front.detach,
            "tenants.load": front.load,
            "front.meters": front.count,
            "front.configure": front.configure,
        }
        act = acts.get(call.method)
        if act is None:
            msg = "the front has no such method"
            end.fail(call.id, GatewayError(ErrorCode.METHOD_NOT_FOUND, msg))
            return
        try:
            result = act(call.params)
        except GatewayError as error:
            end.fail(call.id, error)
            return
        end.link.result(call.id, result)
        end.flush()

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. Every call is answered in the turn it comes in."""

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. Nothing is streamed to the supervisor."""

    def on_notice(self, end: aio.LinkEnd, frame: Notice) -> None:
        """See `LinkHandler`."""
        if isinstance(frame, frames.Drain):
            self._front.drain(frame.seconds)

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`."""
        self.closed.set()


class TenantLink:
    """What a worker says beside its answers. Implements `protocol.aio.LinkHandler`."""

    def __init__(self, front: Front, tenant: Tenant, generation: int) -> None:
        self._front: Final = front
        self._tenant: Final = tenant
        self._generation: Final = generation
        self._events: Final = Pace(limits.EVENTS_PER_SECOND * 2, limits.EVENTS_BURST * 2)
        self._bytes: Final = Pace(limits.EVENT_BYTES_PER_SECOND * 2, limits.EVENT_BYTES_BURST * 2)

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        """See `LinkHandler`."""
        self._refuse(call)

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`."""
        self._refuse(call_id)

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`."""
        self._refuse(call_id)

    def on_notice(self, end: aio.LinkEnd, frame: Notice) -> None:
        """See `LinkHandler`. Those of the link's tenant hear of it, and nobody else."""
        if not isinstance(frame, frames.Event):
            self._refuse(frame)
        now = self._front.now()
        if not (self._events.take(now) and self._bytes.take(now, len(frame.body))):
            reason = "more events than a worker may send"
            raise RemoteProtocolError(reason)
        self._tenant.publish(Event(frame.topic, frame.body))

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`. The supervisor hears of it: the worker may still live."""
        front, tenant = self._front, self._tenant
        tenant.link_down(end)
        front.forget_unknown(tenant)
        if isinstance(reason, OSError):
            reason = None  # closed with something unread, it looks reset; that is no breach
        lost = LinkLost(
            tenant=tenant.name,
            generation=self._generation,
            reason=None if reason is None else str(reason)[:512],
        )
        if reason is not None:
            front.log.warning("worker broke its link", **msgspec.structs.asdict(lost))
        supervisor = front.supervisor
        if supervisor is not None and not supervisor.closed:
            supervisor.link.send(frames.Event("worker.link_lost", msgspec.json.encode(lost)))
            supervisor.flush()

    @staticmethod
    def _refuse(what: object) -> NoReturn:
        # The link takes no such frame, so that this would be a mistake of our own.
        raise TypeError(type(what).__name__)


def take_links(front: Front, channel: socket.socket) -> Handed[WorkerLink]:
    """Have the links to workers that come on the descriptor channel be those of the tenants."""
    return Handed(channel, WorkerLink, {WorkerLink: 1}, partial(_attach, front), front.log)


async def _attach(front: Front, link: WorkerLink, ends: list[socket.socket]) -> None:
    (sock,) = ends
    tenant = front.tenant(link.tenant)
    handler = TenantLink(front, tenant, link.generation)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.LINK_SEND_BYTES)
    end = await aio.attach(sock, FROM_WORKER, handler)
    if end.closed:
        tenant.link_down(end)
    else:
        tenant.link_up(end, link.generation)
