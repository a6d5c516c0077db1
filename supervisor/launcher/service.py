"""What the launcher is asked: by the supervisor to know a worker, by workers to run something."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from protocol import aio, descriptors, frames, launching, limits
from protocol.errors import ErrorCode, GatewayError, RemoteProtocolError
from protocol.link import LIVENESS, REQUESTS
from protocol.pace import Pace
from protocol.spawn import LinkLost, StorageRefusal
from supervisor.answering import answer, breach
from supervisor.front.log import Log
from supervisor.handed import Handed
from supervisor.launcher.directory import Directories
from supervisor.launcher.engine import Engine
from supervisor.launcher.nurseries import Nurseries
from supervisor.launcher.outlets import Outlets
from supervisor.launcher.runs import Runs
from supervisor.launcher.tenant import Tenant
from supervisor.launcher.terminal_calls import TerminalCalls

FROM_SUPERVISOR: Final = LIVENESS | REQUESTS | {frames.Event}
FROM_WORKER: Final = REQUESTS
LOOK_SECONDS: Final = 1.0
_DESCRIPTORS: Final = {launching.Place: 2, launching.Outlet: 1}

T = TypeVar("T")


class WorkerLink:
    """One generation of a tenant's worker, and what runs for it; a `LinkHandler`.

    Args:
        launcher: Where it is one of many.
        tenant: Whose it is.
        generation: Which.
        channel: Where descriptors are handed to it.
    """

    def __init__(
        self, launcher: "Launcher", tenant: Tenant, generation: int, channel: socket.socket
    ) -> None:
        self._launcher: Final = launcher
        self.tenant: Final = tenant
        self.generation: Final = generation
        self._channel: Final = channel
        self._tasks: Final[dict[int, asyncio.Task[bytes]]] = {}
        self._pace: Final = Pace(
            limits.LAUNCHER_CALLS_PER_SECOND * 2, limits.LAUNCHER_CALLS_BURST * 2
        )
        self._methods: Final[Mapping[str, Callable[[bytes], Awaitable[Any]]]] = {
            "run": self._run,
            "kill": self._kill,
            "list": self._list,
            "status": self._status,
        }
        self._terminals: Final = TerminalCalls(
            tenant.terminals, partial(launcher.runs.open, tenant, generation)
        )

    # What it may ask.

    async def _run(self, params: bytes) -> launching.Ran:
        spec = decoded(params, launching.Spec)
        return await self._launcher.runs.run(self.tenant, self.generation, spec, self._hand)

    def _hand(self, number: int, pipes: tuple[int, int, int]) -> None:
        try:
            descriptors.send(self._channel, str(number).encode(), pipes)
        except OSError as error:
            message = f"the worker takes no pipes: {error.strerror}"
            raise GatewayError(ErrorCode.UNAVAILABLE, message) from error

    async def _kill(self, params: bytes) -> dict[str, bool]:
        named = decoded(params, launching.Named)
        sandbox = self.tenant.running.get(named.sandbox_id)
        if sandbox is None:
            message = "no such sandbox runs"
            raise GatewayError(ErrorCode.NOT_FOUND, message, field="sandboxId")
        sandbox.kill()
        return {"ok": True}

    async def _list(self, _params: bytes) -> launching.Sandboxes:
        running = tuple(sandbox.shown for sandbox in self.tenant.running.values())
        return launching.Sandboxes(running=running, queued=self.tenant.queued)

    async def _status(self, _params: bytes) -> launching.Engines:
        place = self.tenant.place
        checks = [
            await engine.check()
            for mode, engine in self._launcher.engines.items()
            if mode in place.ceilings.modes
        ]
        return launching.Engines(
            engines=tuple(checks), ceilings=place.ceilings, cgroups=place.cgroup is not None
        )

    # protocol.aio.LinkHandler

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        """See `LinkHandler`.

        Raises:
            RemoteProtocolError: no worker of ours asks for this.
        """
        if not self._pace.take(asyncio.get_running_loop().time()):
            reason = "more calls than a worker may make"
            raise RemoteProtocolError(reason)
        if call.method in self._terminals.methods:
            self._terminals.on_call(end, call)
            return
        method = self._methods.get(call.method)
        if method is None:
            reason = f"a call of {call.method[:64]!r}, which the launcher does not have"
            raise RemoteProtocolError(reason)
        task = asyncio.get_running_loop().create_task(_encoded(method(call.params)))
        self._tasks[call.id] = task
        task.add_done_callback(partial(self._on_done, end, call.id))

    def _on_done(self, end: aio.LinkEnd, call_id: int, task: "asyncio.Task[bytes]") -> None:
        del self._tasks[call_id]
        self._launcher.let_go(self.tenant)
        answer(end, call_id, task, "the launcher", self._launcher.log)

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`."""
        task = self._tasks.get(call_id)
        if task is not None:
            task.cancel()
        self._terminals.on_cancel(call_id)

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`."""
        self._terminals.on_credit(call_id)

    def on_notice(self, end: aio.LinkEnd, frame: object) -> NoReturn:
        """See `LinkHandler`. The link takes none."""
        raise TypeError(type(frame).__name__)

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`. Its runs end with it, terminals do not; the supervisor hears why."""
        for task in self._tasks.values():
            task.cancel()
        self._terminals.on_closed()
        self._channel.close()
        self._launcher.lost(self, breach(reason))


class Launcher:
    """All tenants.

    Args:
        spec: What the supervisor said first.
        channel: Where it hands over the workers' links; non-blocking.
        engines: By mode.
        nurseries: Where sandboxes have their cgroups.
        log: For what only an operator must know.
    """

    def __init__(
        self,
        spec: launching.LauncherSpec,
        channel: socket.socket,
        engines: Mapping[launching.Mode, Engine],
        nurseries: Nurseries,
        log: Log,
    ) -> None:
        self.engines: Final = engines
        self._outlets: Final = Outlets()
        report = partial(self._tell, "sandbox.ran")
        self.runs: Final = Runs(engines, nurseries, report, self._outlets)
        self.log: Final = log
        self.supervisor: aio.LinkEnd | None = None
        self._spec: Final = spec
        self._loop: Final = asyncio.get_running_loop()
        self._tenants: Final[dict[str, Tenant]] = {}
        self._holds: Final[dict[str, StorageRefusal]] = {}
        self._handed: Final = Handed(channel, launching.Handed, _DESCRIPTORS, self._take, log)
        self.asked: Final = {"tenant.end": self._end_tenant}
        """See `supervisor.answering.Owner`."""
        self.told: Final = {"hold": self._on_hold}
        """See `supervisor.answering.Owner`."""
        self._looking = self._loop.call_later(LOOK_SECONDS, self._look)

    def close(self) -> None:
        """Take no more workers."""
        self._looking.cancel()
        self._handed.close()

    async def _take(self, message: launching.Handed, ends: list[socket.socket]) -> None:
        if isinstance(message, launching.Outlet):
            (channel,) = ends
            self._outlets.use(channel)
        else:
            await self._attach(message, ends)

    async def _attach(self, place: launching.Place, ends: list[socket.socket]) -> None:
        sock, ours = ends
        ours.setblocking(False)
        try:
            tenant = self._tenant(place)
        except OSError as error:
            self.log.warning("tenant's directory", tenant=place.tenant, error=str(error))
            sock.close()
            ours.close()
            return
        tenant.links += 1
        await aio.attach(sock, FROM_WORKER, WorkerLink(self, tenant, place.generation, ours))

    def _tenant(self, place: launching.Place) -> Tenant:
        tenant = self._tenants.get(place.tenant)
        if tenant is None:
            found = Directories(self._spec.state_root, place.tenant, place.uid, place.gid)
            tenant = self._tenants[place.tenant] = Tenant(place, found, self._report)
            self.runs.welcome(tenant)
            tenant.hold(self._holds.get(place.tenant))
        tenant.place = place
        return tenant

    def let_go(self, tenant: Tenant) -> None:
        """Forget a tenant that nothing runs for any more, and that nobody can ask for."""
        name = tenant.place.tenant
        if not tenant.in_use and self._tenants.get(name) is tenant:
            del self._tenants[name]
            tenant.directories.close()
            self.runs.forget(tenant)
            for engine in self.engines.values():
                engine.forget(name)

    def _on_hold(self, body: bytes) -> None:
        """Have a tenant run nothing, or again; also one whose worker is yet to come."""
        told = msgspec.json.decode(body, type=launching.Hold)
        if told.refusal is None:
            self._holds.pop(told.tenant, None)
        else:
            self._holds[told.tenant] = told.refusal
        tenant = self._tenants.get(told.tenant)
        if tenant is not None:
            tenant.hold(told.refusal)

    async def _end_tenant(self, params: bytes) -> bytes:
        """End everything that runs for a tenant; nothing of it does when this returns."""
        name = msgspec.json.decode(params, type=launching.TenantEnd).tenant
        tenant = self._tenants.get(name)
        if tenant is not None:
            await tenant.end()
            self.let_go(tenant)
        return b"{}"

    def lost(self, link: WorkerLink, reason: str | None) -> None:
        """Take note that a worker's link has ended, by what it did wrong or by its own end."""
        tenant = link.tenant
        tenant.links -= 1
        self.let_go(tenant)
        told = LinkLost(tenant=tenant.place.tenant, generation=link.generation, reason=reason)
        if reason is not None:
            self.log.warning("worker broke its link", **msgspec.structs.asdict(told))
        self._tell("worker.link_lost", told)

    def _look(self) -> None:
        self._looking = self._loop.call_later(LOOK_SECONDS, self._look)
        for tenant in list(self._tenants.values()):
            tenant.terminals.tick(time.monotonic())
            self.let_go(tenant)

    def _report(self, event: launching.TerminalEvent) -> None:
        self._tell("terminal.event", event)

    def _tell(self, topic: str, body: msgspec.Struct) -> None:
        supervisor = self.supervisor
        if supervisor is not None and not supervisor.closed:
            supervisor.link.send(frames.Event(topic, msgspec.json.encode(body)))
            supervisor.flush()


async def _encoded(answer: Awaitable[Any]) -> bytes:
    return msgspec.json.encode(await answer)


def decoded(params: bytes, kind: type[T]) -> T:
    """Read what a worker sent.

    Raises:
        RemoteProtocolError: no worker of ours sends this.
    """
    try:
        return msgspec.json.decode(params, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f"parameters that cannot be read: {error}"
        raise RemoteProtocolError(reason) from error
