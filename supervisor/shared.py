"""The processes that all tenants share, each kept by a keeper of its own."""

import asyncio
import functools
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from protocol import descriptors, limits
from protocol.launching import TerminalEvent
from supervisor import sandboxes
from supervisor.child import Exit
from supervisor.disk_process import DiskProcess
from supervisor.egress_process import EgressProcess
from supervisor.egresses import Around as EgressAround
from supervisor.egresses import Egresses
from supervisor.front_process import FrontProcess
from supervisor.fronts import Fronts, Known
from supervisor.isolation import Report
from supervisor.keeper import Keeper
from supervisor.launcher_process import LauncherProcess
from supervisor.limiting import Limiting
from supervisor.logs import Log
from supervisor.meters import Meters
from supervisor.shared_process import SharedProcess
from supervisor.state import StateRoot
from supervisor.zygote_process import START_SECONDS, SpawnError, ZygoteProcess


class Around(EgressAround, Protocol):
    """What is needed of the supervisor."""

    @property
    def meters(self) -> Meters:
        """Where it is counted."""

    @property
    def limiting(self) -> Limiting:
        """What tenants may have."""

    def new_front(self, ended: Callable[[FrontProcess, Exit], None]) -> FrontProcess:
        """Make a front, which is not started."""

    async def known_to_front(self) -> Known:
        """Give what a front is to know."""

    def on_terminal(self, event: TerminalEvent) -> None:
        """A terminal has begun or ended."""


class Shared:
    """See the module.

    Args:
        state: The state root, its path free of symbolic links.
        isolation: How they are confined.
        zygote_command: Arguments of the interpreter that start what forks workers.
        around: The supervisor.
        run: Runs a task to its end; the gateway ends when it raises.
        log: For what they write.
    """

    def __init__(
        self,
        state: StateRoot,
        isolation: Report,
        zygote_command: Sequence[str],
        around: Around,
        run: Callable[[Coroutine[Any, Any, None]], None],
        log: Log,
    ) -> None:
        self._root: Final[Path] = state.path.resolve()
        self._state: Final = state
        self._isolation: Final = isolation
        self._zygote_command: Final = zygote_command
        self._around: Final = around
        self._log: Final = log
        kept = (around.workers.reconcile, run, log, around.meters.respawns)
        self.fronts: Final = Fronts(self._new_front, around.known_to_front, *kept)
        self.zygotes: Final = Keeper("zygote", self._start_zygote, *kept)
        self.launchers: Final = Keeper("launcher", self._start_launcher, *kept)
        self.disks: Final = Keeper("disk", self._start_disk, *kept)
        ledger = self._root / state.ledger.name
        self.egresses: Final = Egresses(ledger, isolation, around, *kept)
        self.egresses.on_started = self._on_egress

    async def start(self) -> None:
        """Start all that the zygote is not; what each is to know waits until it reads.

        Raises:
            OSError, LinkClosedError, TimeoutError: one does not start.
        """
        for keeper in (self.egresses, self.fronts, self.launchers, self.disks):
            await keeper.start()

    @property
    def pids(self) -> dict[str, int]:
        """See `supervisor.actions.Around`."""
        present = {
            "front": self.fronts.present,
            "zygote": self.zygotes.present,
            "launcher": self.launchers.present,
            "disk": self.disks.present,
            "egress": self.egresses.present,
        }
        pids = {name: process.pid for name, process in present.items() if process is not None}
        return {"supervisor": os.getpid(), **pids}

    def _linked(self) -> list[SharedProcess]:
        found = (
            self.fronts.present,
            self.launchers.present,
            self.disks.present,
            self.egresses.present,
        )
        return [process for process in found if process is not None]

    def close(self) -> None:
        """Replace none of them any more."""
        for keeper in (self.fronts, self.zygotes, self.launchers, self.disks, self.egresses):
            keeper.close()

    def kill(self) -> None:
        """End those that are spoken to over a link at once."""
        for process in self._linked():
            process.kill()

    async def stop(self) -> None:
        """End them all; the front has been drained."""
        if self.zygotes.present is not None:
            await self.zygotes.present.stop()
        for process in self._linked():
            await process.stop()

    async def watch(self) -> None:
        """Ping them, for ever; who does not answer is replaced."""
        while True:
            await asyncio.sleep(limits.PING_INTERVAL_SECONDS)
            for process in self._linked():
                process.check_alive()

    async def zygote(self) -> ZygoteProcess:
        """See `supervisor.surroundings.Surroundings`."""
        try:
            async with asyncio.timeout(START_SECONDS):
                return await self.zygotes.get()
        except TimeoutError as error:
            msg = "there is no zygote"
            raise SpawnError(msg) from error

    def _new_front(self) -> FrontProcess:
        return self._around.new_front(self.fronts.ended)

    def _on_egress(self, egress: EgressProcess) -> None:
        self._join(self.launchers.present, egress)

    async def _start_zygote(self) -> ZygoteProcess:
        memory = self._around.config.worker.memory_bytes
        zygote = ZygoteProcess(
            self._zygote_command,
            self._isolation.zygote_policy(),
            self.zygotes.ended,
            self._log.bind(source="zygote"),
            self._isolation.worker_jail(self._root, "", None, memory).shape,
            self._around.meters.spawn_seconds,
        )
        await zygote.start()
        return zygote

    async def _start_launcher(self) -> LauncherProcess:
        launcher = LauncherProcess(
            sandboxes.launcher_spec(
                self._around.config.sandbox,
                self._root,
                filtered=not self._isolation.found.seccomp,
            ),
            functools.partial(self._around.workers.shared_lost_link, "the launcher"),
            self._around.on_terminal,
            self.egresses.charge,
            self.launchers.ended,
            self._log.bind(source="launcher"),
        )
        await launcher.start()
        self._join(launcher, self.egresses.present)
        self._around.limiting.tell_launcher(launcher)
        return launcher

    def _join(self, launcher: LauncherProcess | None, egress: EgressProcess | None) -> None:
        """Give the two, one of which is new, the channel from the one to the other."""
        if launcher is not None and egress is not None:
            ours, theirs = descriptors.pair()
            theirs.shutdown(socket.SHUT_WR)  # egress hands over nothing
            with ours, theirs:
                launcher.meet_egress(ours)
                egress.meet_launcher(theirs)

    async def _start_disk(self) -> DiskProcess:
        storage = self._around.limiting.storage
        process = DiskProcess(
            self._root / self._state.tenants.name,
            self._isolation.disk_uid,
            storage.told,
            self.disks.ended,
            self._log.bind(source="disk"),
        )
        await process.start()
        storage.use(process)
        return process
