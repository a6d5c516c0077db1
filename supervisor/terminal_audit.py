"""Who had which terminal, as the audit keeps it.

The launcher tells that one began or ended, the front who has seen it. Both keep what one tenant can
have written within a rate; that of the front, which strangers talk to, is bounded here as a whole.
"""

import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from protocol.errors import GatewayError
from protocol.launching import TerminalEvent
from protocol.pace import Pace
from protocol.spawn import TerminalAttached
from supervisor.disk import Disk
from supervisor.tenants import TenantDesk

ATTACHED_PER_SECOND: Final = 20.0
ATTACHED_BURST: Final = 1000.0


class TerminalAudit:
    """See the module.

    Args:
        desk: Where the audit is.
        disk: The thread of registry and audit.
        run: Runs a task to its end.
    """

    def __init__(
        self, desk: TenantDesk, disk: Disk, run: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._desk: Final = desk
        self._disk: Final = disk
        self._run: Final = run
        self._attached: Final = Pace(ATTACHED_PER_SECOND, ATTACHED_BURST)

    def on_event(self, event: TerminalEvent) -> None:
        """A terminal has begun or ended."""
        detail: dict[str, Any] = {
            "terminalId": event.sandbox_id,
            "mode": event.mode,
            "name": event.name,
            "program": event.program,
        }
        if event.lost:
            detail["linesLeftOut"] = event.lost
        if (ended := event.ended) is None:
            action = "terminal.opened"
        else:
            action = "terminal.ended"
            detail |= {
                "exitCode": ended.exit_code,
                "signal": ended.signal,
                "reason": ended.reason,
            }
        self._run(self._record(action, "tenant", event.tenant, lambda: detail))

    def on_attached(self, attached: TerminalAttached) -> None:
        """Somebody sees a terminal."""
        if not self._attached.take(time.monotonic()):
            return

        def detail() -> dict[str, Any]:
            given = {"terminalId": attached.terminal_id, "address": attached.address}
            with suppress(GatewayError):  # it has been revoked meanwhile
                token = self._desk.tokens.get(attached.tenant, attached.token_id)
                given["tokenName"] = token.name
            return given

        actor = f"token:{attached.token_id}"
        self._run(self._record("terminal.attached", actor, attached.tenant, detail))

    async def _record(
        self, action: str, actor: str, tenant: str, detail: Callable[[], dict[str, Any]]
    ) -> None:
        with suppress(GatewayError):  # the disk is full, say; the terminal is there all the same
            await self._disk(lambda: self._desk.record(action, actor, tenant, after=detail()))
