"""The supervisor: parent of every process, owner of the state root and of the listening socket.

It decides and never serves: one event loop that no request can block, one thread for the disk.
"""

import asyncio
import contextlib
import functools
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from protocol import launching
from protocol.control.shapes import Reloaded
from protocol.egress import Place as EgressPlace
from protocol.errors import ErrorCode, GatewayError
from protocol.moments import unix_ms
from protocol.quotas import NO_QUOTA, Use
from protocol.spawn import (
    AgentSettings,
    FrontSettings,
    TenantsUpdate,
    WorkerSettings,
)
from supervisor import isolation, sandboxes
from supervisor.actions import Actions
from supervisor.alerts import Alert, AlertCommand
from supervisor.caps.report import Report
from supervisor.child import FIRST_DESCRIPTOR, Exit
from supervisor.config import Config
from supervisor.control.plane import ControlPlane
from supervisor.disk import Disk
from supervisor.egress_process import EgressProcess
from supervisor.front_process import FrontEvents, FrontProcess
from supervisor.front_requests import FrontRequests
from supervisor.fronts import Known
from supervisor.launcher_process import LauncherProcess
from supervisor.limiting import Limiting
from supervisor.logs import Log
from supervisor.meters import Meters, watch_loop
from supervisor.notify import Notifier
from supervisor.quotas import Quotas
from supervisor.reception import front_settings, front_spec, listen, stage_certificate, url_of
from supervisor.reconcile import Wanted
from supervisor.registry import Tenant
from supervisor.reload import Reloader
from supervisor.shared import Shared
from supervisor.state import StateLock, StateRoot, check_uids
from supervisor.tenant_requests import TenantRequests
from supervisor.tenants import SHARED_UIDS, TenantDesk
from supervisor.terminal_audit import TerminalAudit
from supervisor.workers import Workers
from supervisor.zygote.main import command as zygote_program
from supervisor.zygote.spec import JailSpec
from supervisor.zygote.title import set_title
from supervisor.zygote_process import ZygoteProcess

GENERATIONS_PER_EPOCH: Final = 1 << 20
FRONT_DRAIN_SECONDS: Final = 30.0
WORKER_DRAIN_SECONDS: Final = 30.0


class Reports(NamedTuple):
    """What of the jail holds here, and where cgroups are, this process in them already."""

    isolation: isolation.Report
    caps: Report


class Supervisor:
    """One gateway, from start to end.

    Args:
        state: The state root, prepared.
        lock: Its lock, held.
        config: The configuration.
        read_config: Reads it anew for a reload; raises ConfigError.
        reports: What holds here, checked already.
        log: The gateway's log.
        zygote_command: Arguments of the interpreter that start what forks workers.
    """

    def __init__(
        self,
        state: StateRoot,
        lock: StateLock,
        config: Config,
        read_config: Callable[[], Config],
        reports: Reports,
        log: Log,
        zygote_command: Sequence[str] | None = None,
    ) -> None:
        self._state: Final = state
        self._root: Final = state.path.resolve()
        self._tls: Final = self._root / state.tls.name
        self._lock: Final = lock
        self._isolation, self._caps = reports
        self._log: Final = log
        self.meters: Final = Meters()
        self._alerts: Final = AlertCommand(config.alerts.command, log)
        self._notifier: Final = Notifier(os.environ)
        self._disk: Final = Disk("disk")
        self._desk: Final = TenantDesk(state, config)
        self._stop_asked = asyncio.Event()
        self._serves = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._generation = self._desk.registry.next_epoch() * GENERATIONS_PER_EPOCH
        floor_bytes = config.caps.disk_floor_bytes
        self.limiting: Final = Limiting(reports.caps.claimed, floor_bytes, self, log)
        self.groups: Final = self.limiting.groups
        """See `supervisor.surroundings.Surroundings`."""
        self.storage: Final = self.limiting.storage
        """See `supervisor.surroundings.Surroundings`."""
        self.workers: Final = Workers(self, log)
        read = functools.partial(self._disk, read_config)
        self._reloader: Final = Reloader(config, read, self, log, self._notifier)
        self._actions: Final = Actions(self._desk, self._disk, self, self.workers, log)
        self._control: Final = ControlPlane(state.mint_admin_key(), self._actions)
        self.quotas: Final = Quotas(
            self._desk.registry, self._disk, self, self._spawn_task, unix_ms, log
        )
        """See `supervisor.actions.Around`."""
        self._terminals: Final = TerminalAudit(self._desk, self._disk, self._spawn_task)
        tenant_requests = TenantRequests(self._actions, time.monotonic)
        self._requests: Final = FrontRequests(self.workers, self._control, tenant_requests)
        command = zygote_command or zygote_program(FIRST_DESCRIPTOR)[1:]
        self._shared: Final = Shared(state, self._isolation, command, self, self._spawn_task, log)
        self._listener: socket.socket

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
            SpawnError: the zygote does not start; the log says why.
        """
        set_title("openclaw: supervisor")
        stage_certificate(self.config.gateway, self._tls, self._isolation.front_uid)
        self._state.prepare_ledger(self._isolation.egress_uid)
        if self._desk.audit.repaired_bytes:
            self._log.warning("audit repaired", bytes_cut=self._desk.audit.repaired_bytes)
        self._listener = listen(self.config.gateway.host, self.config.gateway.port)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn_task(self._on_reload_signal()))
        zygote = loop.create_task(self._shared.zygotes.start())
        try:
            await self._actions.load()
            self._check_owner()
            await self.quotas.load()
            await self._shared.start()
            await zygote
            self._spawn_task(self._actions.finish_deletions())
            self._spawn_task(self.workers.watch())
            self._spawn_task(self._shared.watch())
            self._spawn_task(self.quotas.keep_writing())
            self._spawn_task(watch_loop(self.meters.loop_lag))
            url = url_of(self._listener, secure=self.config.gateway.tls is not None)
            self._lock.announce(url)
            held = {"isolation": self._isolation.summary(), "caps": self._caps.summary()}
            self._log.info("gateway ready", url=url, **held)
            self._serves = True
            on_ready(url)
            self._notifier.say("READY=1", f"STATUS=serving {url}")
            self._spawn_task(self._notifier.feed_watchdog())
            await self._stop_asked.wait()
        finally:
            zygote.cancel()
            await asyncio.gather(zygote, return_exceptions=True)
            await self._stop()
        if self._failure is not None:
            raise self._failure

    def _check_owner(self) -> None:
        if os.geteuid() == 0:
            strangers = [row.id for row in self._actions.rows.values() if row.uid is None]
            first = self.config.isolation.uid_first
            shared = range(first, first + SHARED_UIDS)
            check_uids(self._root, strangers, self._desk.registry.uids_given(), shared)

    def _on_stop_signal(self) -> None:
        if self._stop_asked.is_set():
            self.workers.kill_all()
            self._shared.kill()
        self._stop_asked.set()

    async def _on_reload_signal(self) -> None:
        if self._serves and not self._stop_asked.is_set():
            with contextlib.suppress(GatewayError):  # the log tells
                await self._actions.reload(actor="signal")

    async def _stop(self) -> None:
        self._shared.close()
        self._notifier.say("STOPPING=1")
        with contextlib.suppress(OSError):  # who asks for the URL finds nobody there
            self._lock.announce("")
        self._log.info("gateway stops")
        await self._shared.fronts.drain(FRONT_DRAIN_SECONDS)
        await self.workers.stop_all(WORKER_DRAIN_SECONDS)
        await self._shared.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()
        await self._actions.close()
        await self.quotas.write()
        await self._disk(self._desk.close)
        self._disk.close()
        self.groups.close()
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

    # supervisor.shared.Around

    def new_front(self, ended: Callable[[FrontProcess, Exit], None]) -> FrontProcess:
        """See `supervisor.shared.Around`."""
        settings = front_settings(self.config.gateway, self._tls)
        notices = (*self._isolation.notices(), *self._caps.notices())
        return FrontProcess(
            front_spec(settings, self._isolation, self._root, notices),
            self._listener,
            lambda end, call: self._spawn_task(self._requests.answer(end, call)),
            FrontEvents(
                self.workers.link_lost, self._terminals.on_attached, self.quotas.on_counted
            ),
            ended,
            self._log.bind(source="front"),
        )

    async def known_to_front(self) -> Known:
        """See `supervisor.shared.Around`."""
        return await self._actions.accesses(), self.quotas.known()

    def on_terminal(self, event: launching.TerminalEvent) -> None:
        """See `supervisor.shared.Around`."""
        self._terminals.on_event(event)

    # What all tenants share.

    @property
    def front(self) -> FrontProcess | None:
        """See `supervisor.surroundings.Surroundings`."""
        return self._shared.fronts.present

    @property
    def launcher(self) -> LauncherProcess | None:
        """See `supervisor.surroundings.Surroundings`."""
        return self._shared.launchers.present

    @property
    def egress(self) -> EgressProcess | None:
        """See `supervisor.surroundings.Surroundings`."""
        return self._shared.egresses.present

    @property
    def pids(self) -> dict[str, int]:
        """See `supervisor.actions.Around`."""
        return self._shared.pids

    async def zygote(self) -> ZygoteProcess:
        """See `supervisor.surroundings.Surroundings`."""
        return await self._shared.zygote()

    async def tell_front(self, *changes: TenantsUpdate | FrontSettings) -> None:
        """See `supervisor.actions.Around`."""
        await self._shared.fronts.tell(*changes)

    # supervisor.quotas.Around

    async def spent(self, tenant: str) -> tuple[Use, ...]:
        """See `supervisor.quotas.Around`."""
        return await self._shared.egresses.spent(tenant)

    async def limit_spending(self, *tenants: str) -> None:
        """See `supervisor.actions.Around`."""
        await self._shared.egresses.limit(*tenants)

    def forget_spending(self, tenant: str) -> None:
        """See `supervisor.quotas.Around`."""
        self._shared.egresses.forget(tenant)

    # supervisor.egresses.Around

    @property
    def rows(self) -> dict[str, Tenant]:
        """See `supervisor.egresses.Around`."""
        return self._actions.rows

    # supervisor.limiting.Limited

    @property
    def config(self) -> Config:
        """See `Limited`."""
        return self._reloader.config

    def row(self, tenant: str) -> Tenant | None:
        """See `Limited`."""
        return self._actions.rows.get(tenant)

    # supervisor.surroundings.Surroundings

    def wanted(self, tenant: str) -> Wanted:
        """See `supervisor.surroundings.Surroundings`."""
        return self._actions.wanted(tenant)

    async def jail_of(self, tenant: str) -> JailSpec:
        """See `supervisor.surroundings.Surroundings`."""
        row = self._actions.rows.get(tenant)
        if row is None or row.state != "enabled":
            raise GatewayError(ErrorCode.NOT_FOUND, f"no such tenant: {tenant}")
        directory = self._state.tenant_directory(tenant)
        if not directory.is_dir():
            await self._disk(self._desk.ensure_directory, row)
        return self._worker_jail(tenant, row.uid)

    def _worker_jail(self, tenant: str, uid: int | None) -> JailSpec:
        memory = self.config.worker.memory_bytes
        return self._isolation.worker_jail(self._root, tenant, uid, memory)

    async def reload(self) -> Reloaded:
        """See `supervisor.actions.Around`."""
        return await self._reloader.reload()

    # supervisor.reload.Reloadable

    async def apply(self, config: Config) -> None:
        """See `Reloadable`."""
        await self._disk(stage_certificate, config.gateway, self._tls, self._isolation.front_uid)
        await self.tell_front(front_settings(config.gateway, self._tls))
        self._alerts.command = config.alerts.command
        self._desk.caps = config.caps
        self.storage.change_floor(config.caps.disk_floor_bytes)
        await self.apply_limits(*self._actions.rows)
        await self._shared.egresses.configure(config)
        self.workers.change_settings(self.worker_settings)

    async def apply_limits(self, *tenants: str) -> tuple[str, ...]:
        """See `supervisor.actions.Around`."""
        return await self.limiting.apply(*tenants)

    async def renew_zygote(self) -> int:
        """See `Reloadable`."""
        before = await self._shared.zygotes.start()
        if before is not None:
            self._spawn_task(before.retire())
        return (await self._shared.zygote()).pid

    async def reread_registry(self) -> None:
        """See `Reloadable`."""
        await self._actions.reread()
        self.workers.reconcile()

    def place_of(self, tenant: str, generation: int) -> launching.Place:
        """See `supervisor.surroundings.Surroundings`."""
        row = self._actions.rows.get(tenant)
        uid = None if row is None else row.uid
        place = sandboxes.place(self.config.sandbox, tenant, generation, uid)
        return msgspec.structs.replace(place, cgroup=self.groups.path_of(tenant))

    def egress_place_of(self, tenant: str, generation: int) -> EgressPlace:
        """See `supervisor.surroundings.Surroundings`."""
        row = self._actions.rows.get(tenant)
        quota, since_ms = (NO_QUOTA, 0) if row is None else (row.quota, row.created_at)
        return EgressPlace(tenant=tenant, generation=generation, quota=quota, since_ms=since_ms)

    def next_generation(self) -> int:
        """See `supervisor.surroundings.Surroundings`."""
        self._generation += 1
        return self._generation

    @property
    def worker_settings(self) -> WorkerSettings:
        """See `supervisor.surroundings.Surroundings`."""
        agents = self.config.agents
        return WorkerSettings(
            idle_seconds=self.config.worker.idle_seconds,
            agents=AgentSettings(
                model=agents.model,
                max_rounds=agents.max_rounds,
                max_tokens=agents.max_tokens,
                max_tool_calls=agents.max_tool_calls,
                max_seconds=agents.max_seconds,
                fetches=bool(self.config.egress.fetch_hosts),
            ),
        )

    def concurrent_runs(self, tenant: str) -> int | None:
        """See `supervisor.surroundings.Surroundings`."""
        row = self.row(tenant)
        return None if row is None else row.quota.concurrent_runs

    def unix_ms(self) -> int:
        """See `supervisor.surroundings.Surroundings`."""
        return unix_ms()

    def alert(self, tenant: str, reason: str) -> None:
        """See `supervisor.surroundings.Surroundings`."""
        self._alerts.send(Alert(tenant_id=tenant, state="failed", reason=reason, ts=unix_ms()))
        self._spawn_task(self._actions.record_failure(tenant, reason))
