"""Tells somebody when a tenant is out of service until an operator acts."""

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import Final

import msgspec

from supervisor.child import Child, Exit, start
from supervisor.logs import Log, LogPump

SECONDS_MAX: Final = 10.0
RUNNING_MAX: Final = 4


class Alert(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the command reads from its standard input, as one line of JSON. `ts` is Unix ms."""

    tenant_id: str
    state: str
    reason: str
    ts: int


class AlertCommand:
    """Runs the operator's command for each alert.

    Args:
        command: The program's path and its arguments; empty where none is wanted.
        log: Where alerts, and what the command writes, are kept in any case.
    """

    def __init__(self, command: Sequence[str], log: Log) -> None:
        self.command = tuple(command)
        self._log: Final = log
        self._running: set[Child] = set()

    def send(self, alert: Alert) -> None:
        """Write the alert down and run the command; it is killed after ten seconds."""
        self._log.critical("tenant failed", tenant=alert.tenant_id, reason=alert.reason)
        if not self.command:
            return
        if len(self._running) >= RUNNING_MAX:
            self._log.error("alert command skipped: too many run", tenant=alert.tenant_id)
            return
        try:
            self._start(msgspec.json.encode(alert) + b"\n")
        except OSError as error:
            self._log.error("alert command cannot be started", error=str(error))

    def _start(self, line: bytes) -> None:
        input_reader, input_writer = os.pipe()
        error_reader, error_writer = os.pipe()
        try:
            os.write(input_writer, line)  # far less than a pipe holds
            pid = start(self.command, (), error_writer, input_reader)
        except OSError:
            os.close(error_reader)
            raise
        finally:
            for descriptor in (input_reader, input_writer, error_writer):
                os.close(descriptor)
        LogPump(error_reader, self._log.bind(source="alert"))
        timer: asyncio.TimerHandle | None = None

        def ended(status: Exit) -> None:
            self._running.discard(child)
            if timer is not None:
                timer.cancel()
            if status.code != 0:
                self._log.error("alert command failed", status=str(status))

        child = Child(pid, ended)
        self._running.add(child)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(SECONDS_MAX, child.signal, signal.SIGKILL)
