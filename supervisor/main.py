"""The supervisor: parent of every process, owner of the state root and of the listening socket.

It decides and never serves: one event loop that no request can block, one thread for the disk.
"""

import asyncio
import contextlib
import functools
import os
import signal
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

import msgspec

from protocol import aio, frames, limits
from protocol.errors import ErrorCode, GatewayError, LinkClosedError
from protocol.spawn import (
    ControlRequest,
    FrontSpec,
    TenantAccess,
    TenantLoad,
    TenantsUpdate,
    WakeParams,
)
from supervisor import isolation
from supervisor.alerts import Alert, AlertCommand
from supervisor.child import FIRST_DESCRIPTOR, Exit
from supervisor.config import Config
from supervisor.control import ControlPlane
from supervisor.front_process import FrontProcess
from supervisor.logs import Log
from supervisor.notify import Notifier
from supervisor.reception import front_settings, listen, stage_certificate, url_of
from supervisor.registry import Quota, Tenant
from supervisor.state import StateError, StateLock, StateRoot
from supervisor.status import TenantStatus
from supervisor.tenants import SHARED_UIDS, CreatedTenant, TenantDesk, TenantView, unix_ms
from supervisor.version import VERSION
from supervisor.workers import Workers
from supervisor.zygote.main import command as zygote_program
from supervisor.zygote.spec import JailSpec
from supervisor.zygote.title import set_title
from supervisor.zygote_process import ZygoteProcess

GENERATIONS_PER_EPOCH: Final = 1 << 20
FRONT_DRAIN_SECONDS: Final = 30.0
WORKER_DRAIN_SECONDS: Final = 30.0
DELETE_DRAIN_SECONDS: Final = 2.0
RESPAWN_SECONDS_MIN: Final = 0.1
RESPAWN_SECONDS_MAX: Final = 5.0

P = ParamSpec("P")
T = TypeVar("T")


class Supervisor:
    """One gateway, from start to end.

    Args:
        state: The state root, prepared.
        lock: Its lock, held.
        config: The configuration.
        isolation_report: What of the jail holds here, checked already.
        log: The gateway's log.
        zygote_command: Arguments of the interpreter that start what forks workers.
    """

    def __init__(
        self,
        state: StateRoot,
        lock: StateLock,
        config: Config,
        isolation_report: isolation.Report,
        log: Log,
        zygote_command: Sequence[str] | None = None,
    ) -> None:
        self._state: Final = state
        self._root: Final = state.path.resolve()
        self._tls: Final = self._root / state.tls.name
        self._lock: Final = lock
        self._config: Final = config
        self._isolation: Final = isolation_report
        self._log: Final = log
        self._alerts: Final = AlertCommand(config.alerts.command, log)
        self._notifier: Final = Notifier(os.environ)
        self._zygote_command: Final = zygote_command or zygote_program(FIRST_DESCRIPTOR)[1:]
        self._disk: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="disk")
        self._desk: Final = TenantDesk(state, config)
        self._rows: dict[str, Tenant] = {}
        self._front_lock = asyncio.Lock()
        self._stop_asked = asyncio.Event()
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._generation = self._desk.registry.next_epoch() * GENERATIONS_PER_EPOCH
        self._workers: Final = Workers(self, log)
        self._control: Final = ControlPlane(state.mint_admin_key(), self)
        self._listener: socket.socket
        self.front: FrontProcess | None = None
        self.zygote: ZygoteProcess

    # Start and stop

    async def serve(self, on_ready: Callable[[str], None]) -> None:
        """Run until SIGTERM or SIGINT; a second one ends everything at once.

        Args:
            on_ready: Called with the URL once requests are answered.

        Raises:
            StateError: the state root is an ordinary user's, and root runs this; or a uid of the
                shared processes is a tenant's.
            CertificateError: certificate and key cannot be used.
            OSError: the address cannot be listened on, or a process cannot be started.
            LinkClosedError, TimeoutError: the front does not start; the log says why.
        """
        set_title("openclaw: supervisor")
        stage_certificate(self._config.gateway, self._tls, self._isolation.front_uid)
        self._start_zygote()
        self._listener = listen(self._config.gateway.host, self._config.gateway.port)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal)
        try:
            await self._on_disk(self._desk.recover)
            for row in await self._on_disk(self._desk.registry.tenants):
                self._rows[row.id] = row
            self._check_owner()
            await self._start_front()
            self._spawn_task(self._workers.watch())
            self._spawn_task(self._watch_front())
            url = url_of(self._listener, secure=self._config.gateway.tls is not None)
            self._lock.announce(url)
            self._log.info("gateway ready", url=url, isolation=self._isolation.summary())
            on_ready(url)
            self._notifier.say("READY=1", f"STATUS=serving {url}")
            self._spawn_task(self._notifier.feed_watchdog())
            await self._stop_asked.wait()
        finally:
            await self._stop()
        if self._failure is not None:
            raise self._failure

    def _check_owner(self) -> None:
        strangers = [row.id for row in self._rows.values() if row.uid is None]
        if os.geteuid() == 0 and strangers:
            msg = (
                f"{self._root} was made by an ordinary user ({strangers[0]} has no uid of its "
                "own); run the gateway as that user, or use another state directory"
            )
            raise StateError(msg)
        given = self._desk.registry.uids_given()
        first = self._config.isolation.uid_first
        if os.geteuid() == 0 and first < given.stop and given.start < first + SHARED_UIDS:
            msg = (
                f"isolation.uid_first: the gateway's own processes would get uids from {first}, "
                f"which tenants have had; name one from {given.stop} on"
            )
            raise StateError(msg)

    def _on_stop_signal(self) -> None:
        if self._stop_asked.is_set():
            self._workers.kill_all()
            if self.front is not None:
                self.front.kill()
        self._stop_asked.set()

    async def _stop(self) -> None:
        self._stopping = True
        self._notifier.say("STOPPING=1")
        self._lock.announce("")
        self._log.info("gateway stops")
        async with self._front_lock:
            if self.front is not None:
                await self.front.drain(FRONT_DRAIN_SECONDS)
        await self._workers.stop_all(WORKER_DRAIN_SECONDS)
        await self.zygote.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()
        await self._on_disk(self._desk.close)
        self._disk.shutdown()
        self._log.info("gateway stopped")

    def _spawn_task(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._log.critical("supervisor failed", exc_info=task.exception())
            self._failure = self._failure or task.exception()
            self._stop_asked.set()

    async def _on_disk(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._disk, functools.partial(work, *args, **kwargs))

    # Zygote and front are replaced when they die.

    def _start_zygote(self) -> None:
        self.zygote = ZygoteProcess(
            self._zygote_command,
            self._isolation.zygote_policy(),
            self._zygote_ended,
            self._log.bind(source="zygote"),
        )
        self.zygote.start()

    def _zygote_ended(self, zygote: ZygoteProcess, status: Exit) -> None:
        if not self._stopping:
            self._log.error("zygote died", status=str(status))
            asyncio.get_running_loop().call_later(RESPAWN_SECONDS_MIN, self._restart_zygote)

    def _restart_zygote(self) -> None:
        if not self._stopping:
            self._start_zygote()

    def _front_ended(self, front: FrontProcess, status: Exit) -> None:
        if self.front is front:
            self.front = None
            if not self._stopping:
                self._log.error("front died", status=str(status))
                self._spawn_task(self._replace_front())

    async def _replace_front(self) -> None:
        """Start a front and hand it all there is, trying until there is one or the end comes."""
        delay = RESPAWN_SECONDS_MIN
        while not self._stop_asked.is_set():
            try:
                await self._start_front()
            except (OSError, LinkClosedError, TimeoutError) as error:
                self._log.error("front does not start", error=str(error))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop_asked.wait(), delay)
                delay = min(delay * 2, RESPAWN_SECONDS_MAX)
            else:
                return

    async def _start_front(self) -> None:
        async with self._front_lock:
            front = FrontProcess(
                self._front_spec(),
                self._listener,
                self._on_front_call,
                self._workers.link_lost,
                self._front_ended,
                self._log.bind(source="front"),
            )
            tokens = await self._on_disk(self._desk.registry.token_digests)
            await front.start([_access(row, tokens) for row in self._rows.values()])
            self.front = front
        self._workers.link_all()

    async def _watch_front(self) -> None:
        while True:
            await asyncio.sleep(limits.PING_INTERVAL_SECONDS)
            if self.front is not None:
                self.front.check_alive()

    def _front_spec(self) -> FrontSpec:
        settings = front_settings(self._config.gateway, self._tls)
        readable = (self._tls,) if settings.tls_directory else ()
        return FrontSpec(
            settings=settings,
            version=VERSION,
            notices=self._isolation.notices(),
            jail=msgspec.msgpack.encode(self._isolation.front_jail(self._root, *readable)),
        )

    async def _tell_front(self, change: TenantsUpdate) -> None:
        async with self._front_lock:
            if self.front is not None:
                try:
                    await self.front.update(change)
                except (LinkClosedError, TimeoutError):
                    # It has ended, or was killed for not answering: its successor knows all.
                    self._log.warning("front was not told")

    # What the front asks for.

    def _on_front_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        self._spawn_task(self._answer_front(end, call))

    async def _answer_front(self, end: aio.LinkEnd, call: frames.Call) -> None:
        try:
            body = await self._front_request(call)
        except GatewayError as error:
            if not end.closed:
                end.fail(call.id, error)
            return
        if not end.closed:
            end.link.result(call.id, body)
            end.flush()

    async def _front_request(self, call: frames.Call) -> bytes:
        match call.method:
            case "worker.wake":
                await self._workers.wake(_decode(call.params, WakeParams).tenant)
                return b"{}"
            case "control.request":
                request = _decode(call.params, ControlRequest)
                return msgspec.json.encode(await self._control.answer(request))
            case _:
                raise GatewayError(ErrorCode.METHOD_NOT_FOUND, "the supervisor has no such method")

    async def jail_of(self, tenant: str) -> JailSpec:
        """See `supervisor.surroundings.Surroundings`."""
        row = self._rows.get(tenant)
        if row is None or row.state != "enabled":
            raise GatewayError(ErrorCode.NOT_FOUND, f"no such tenant: {tenant}")
        directory = self._state.tenant_directory(tenant)
        if not directory.is_dir():
            await self._on_disk(self._desk.ensure_directory, row)
        memory = self._config.worker.memory_bytes
        return self._isolation.worker_jail(self._root, tenant, row.uid, memory)

    def next_generation(self) -> int:
        """See `supervisor.surroundings.Surroundings`."""
        self._generation += 1
        return self._generation

    @property
    def idle_seconds(self) -> float:
        """See `supervisor.surroundings.Surroundings`."""
        return self._config.worker.idle_seconds

    def unix_ms(self) -> int:
        """See `supervisor.surroundings.Surroundings`."""
        return unix_ms()

    def alert(self, tenant: str, reason: str) -> None:
        """See `supervisor.surroundings.Surroundings`."""
        self._alerts.send(Alert(tenant_id=tenant, state="failed", reason=reason, ts=unix_ms()))

    # supervisor.control.TenantActions

    async def create_tenant(
        self, tenant: str, *, actor: str, display_name: str | None, quota: Quota
    ) -> CreatedTenant:
        """See `TenantActions`."""
        created = await self._on_disk(
            self._desk.create, tenant, actor=actor, display_name=display_name, quota=quota
        )
        await self._know(tenant)
        return created

    async def list_tenants(self) -> list[TenantView]:
        """See `TenantActions`."""
        return await self._on_disk(self._desk.list)

    async def get_tenant(self, tenant: str) -> TenantView:
        """See `TenantActions`."""
        return await self._on_disk(self._desk.get, tenant)

    async def rotate_token(self, tenant: str, *, actor: str) -> str:
        """See `TenantActions`."""
        token = await self._on_disk(self._desk.rotate, tenant, actor=actor)
        await self._know(tenant)
        return token

    async def delete_tenant(self, tenant: str, *, actor: str) -> None:
        """See `TenantActions`."""
        await self._on_disk(self._desk.begin_delete, tenant, actor=actor)
        self._rows.pop(tenant, None)
        await self._tell_front(TenantsUpdate(gone=[tenant]))
        await self._workers.forget(tenant, DELETE_DRAIN_SECONDS)
        await self._on_disk(self._desk.finish_delete, tenant, actor=actor)

    async def restart_tenant(self, tenant: str) -> TenantStatus:
        """See `TenantActions`."""
        view = await self.get_tenant(tenant)
        if view.state != "enabled":
            msg = f"the tenant is {view.state}; a restart is not possible now"
            raise GatewayError(ErrorCode.CONFLICT, msg)
        await self._workers.restart(tenant)
        return (await self.status(tenant))[0]

    async def suspend_tenant(self, tenant: str, *, actor: str) -> None:
        """See `TenantActions`."""
        await self._on_disk(self._desk.set_state, tenant, "suspended", actor=actor)
        await self._know(tenant)
        await self._workers.suspend(tenant)

    async def resume_tenant(self, tenant: str, *, actor: str) -> None:
        """See `TenantActions`."""
        await self._on_disk(self._desk.set_state, tenant, "enabled", actor=actor)
        self._workers.resume(tenant)
        await self._know(tenant)

    async def status(self, tenant: str | None) -> list[TenantStatus]:
        """See `TenantActions`."""
        if tenant is not None:
            await self.get_tenant(tenant)
        load: dict[str, TenantLoad] = {}
        if self.front is not None:
            with contextlib.suppress(LinkClosedError, TimeoutError):
                load = await self.front.load()
        return [
            self._workers.status(row.id, row.state, load.get(row.id, TenantLoad()))
            for row in sorted(self._rows.values(), key=lambda row: row.id)
            if tenant in (None, row.id)
        ]

    async def _know(self, tenant: str) -> None:
        row = await self._on_disk(self._desk.registry.get, tenant)
        tokens = await self._on_disk(self._desk.registry.tokens_of, tenant)
        self._rows[tenant] = row
        await self._tell_front(TenantsUpdate(known=[_access(row, {tenant: tokens})]))


def _access(row: Tenant, tokens: dict[str, dict[str, int]]) -> TenantAccess:
    return TenantAccess(
        tenant=row.id, enabled=row.state == "enabled", tokens=tokens.get(row.id, {})
    )


def _decode(params: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(params, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GatewayError(ErrorCode.INVALID_REQUEST, str(error)) from error
