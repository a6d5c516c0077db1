"""All terminals of one tenant: how many there may be, and when they end.

They are the tenant's, whichever generation of its worker asks. What a terminal said last is kept
for a little while after its end, for those who come back for it.
"""

from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, NamedTuple

from protocol import launching, limits
from protocol.errors import ErrorCode, GatewayError
from protocol.pace import Pace
from protocol.params import printable
from supervisor.launcher.engine import Job, Size
from supervisor.launcher.terminal import Facts, Terminal

RETRY_MS: Final = 1000
PROGRAM_CHARS_SHOWN: Final = 200


class Started(NamedTuple):
    """A sandbox that has been started."""

    sandbox_id: str
    job: Job


class Opened(NamedTuple):
    """One with a terminal; `let_go` is called when it has ended, and closes the job."""

    started: Started
    let_go: Callable[[], None]


class Terminals:
    """See the module.

    Args:
        tenant: Whose they are.
        ceilings: What the tenant may have; asked again each time.
        now: Monotonic seconds.
        now_ms: The time of day, in Unix ms.
        report: Takes what has to be written into the audit.
    """

    def __init__(
        self,
        tenant: str,
        ceilings: Callable[[], launching.Ceilings],
        now: Callable[[], float],
        now_ms: Callable[[], int],
        report: Callable[[launching.TerminalEvent], None],
    ) -> None:
        self._tenant: Final = tenant
        self._ceilings: Final = ceilings
        self._now: Final = now
        self._now_ms: Final = now_ms
        self._report: Final = report
        self._all: Final[dict[str, Terminal]] = {}
        self._programs: Final[dict[str, str]] = {}
        self._let_go: Final[dict[str, Callable[[], None]]] = {}
        self._starting = 0
        self._is_over = False
        self._events: Final = Pace(limits.TERMINAL_EVENTS_PER_SECOND, limits.TERMINAL_EVENTS_BURST)
        self._events_lost = 0

    def __len__(self) -> int:
        """How many there are, with those that are about to be and those that have ended."""
        return self._starting + len(self._all)

    @property
    def _running(self) -> int:
        return sum(terminal.ended is None for terminal in self._all.values())

    async def open(
        self, asked: launching.OpenTerminal, start: Callable[[Size], Awaitable[Opened]]
    ) -> Terminal:
        """Start one.

        Args:
            asked: What the tenant wants.
            start: Starts its sandbox, with a terminal of this size.

        Raises:
            GatewayError: RATE_LIMITED: the tenant has as many as it may; or as `start`.
        """
        most = self._ceilings().terminals
        if self._running + self._starting >= most:
            msg = f"the tenant has {most} terminals, which is all it may; close one"
            raise GatewayError(ErrorCode.RATE_LIMITED, msg, retryAfterMs=RETRY_MS)
        size = Size(asked.columns, asked.rows)
        started_at_ms = self._now_ms()
        self._starting += 1
        try:
            started, let_go = await start(size)
        finally:
            self._starting -= 1
        facts = Facts(started.sandbox_id, asked.spec.mode, asked.spec.name, started_at_ms)
        terminal = Terminal(facts, size, started.job, self._now, self._now_ms, self._on_ended)
        self._let_go[facts.sandbox_id] = let_go
        self._all[facts.sandbox_id] = terminal
        self._programs[facts.sandbox_id] = printable(asked.spec.argv[0], PROGRAM_CHARS_SHOWN)
        self._tell(terminal)
        if self._is_over:  # meanwhile
            terminal.end("tenant")
        return terminal

    def find(self, sandbox_id: str) -> Terminal:
        """Give one.

        Raises:
            GatewayError: NOT_FOUND: the tenant has none of this id.
        """
        terminal = self._all.get(sandbox_id)
        if terminal is None:
            raise GatewayError(ErrorCode.NOT_FOUND, "no such terminal", field="terminalId")
        return terminal

    def view(self) -> launching.Terminals:
        """Give what they are now."""
        return launching.Terminals(terminals=tuple(one.view() for one in self._all.values()))

    def tick(self, now: float) -> None:
        """End those that nobody has used for too long, and forget those that have ended long ago.

        Args:
            now: Monotonic seconds.
        """
        idle_since = now - self._ceilings().terminal_idle_seconds
        for terminal in list(self._all.values()):
            if terminal.ended is None and terminal.active_at <= idle_since:
                terminal.end("idle")
            elif now >= terminal.ended_at + limits.TERMINAL_ENDED_SECONDS:
                self._forget(terminal)

    async def end(self) -> None:
        """End all of them: the tenant is out of service. Bound the wait outside."""
        self._is_over = True
        try:
            for terminal in list(self._all.values()):
                terminal.end("tenant")
            for terminal in list(self._all.values()):
                await terminal.wait()
                self._forget(terminal)
        finally:
            self._is_over = False

    def _forget(self, terminal: Terminal) -> None:
        self._all.pop(terminal.facts.sandbox_id, None)
        self._programs.pop(terminal.facts.sandbox_id, None)

    def _on_ended(self, terminal: Terminal) -> None:
        self._let_go.pop(terminal.facts.sandbox_id)()
        self._tell(terminal)
        over = [one for one in self._all.values() if one.ended_at < inf]
        # As much memory as those take that it may have besides.
        if len(over) > self._ceilings().terminals:
            self._forget(min(over, key=lambda one: one.ended_at))

    def _tell(self, terminal: Terminal) -> None:
        """Have it written down; not more lines than one tenant may fill the audit with."""
        if not self._events.take(self._now()):
            self._events_lost += 1
            return
        facts = terminal.facts
        event = launching.TerminalEvent(
            tenant=self._tenant,
            sandbox_id=facts.sandbox_id,
            mode=facts.mode,
            name=facts.name,
            program=self._programs.get(facts.sandbox_id, ""),
            ended=terminal.ended,
            lost=self._events_lost,
        )
        self._events_lost = 0
        self._report(event)
