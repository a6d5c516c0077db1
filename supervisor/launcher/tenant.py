"""What runs for one tenant, and whose turn is next."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, NamedTuple

from protocol import launching
from protocol.errors import ErrorCode, GatewayError
from protocol.moments import unix_ms
from protocol.spawn import StorageRefusal
from supervisor.launcher.directory import Directories
from supervisor.launcher.terminals import Terminals

RETRY_AFTER_MS: Final = 1000


class Sandbox(NamedTuple):
    """One that runs: what is shown of it, and what ends it at once."""

    shown: launching.Running
    kill: Callable[[], None]


class Tenant:
    """One tenant, however many generations of its worker there are.

    Args:
        place: What the supervisor said of it.
        directories: Its directories.
        report: Takes what has to be written into the audit.
    """

    def __init__(
        self,
        place: launching.Place,
        directories: Directories,
        report: Callable[[launching.TerminalEvent], None],
    ) -> None:
        self.place: launching.Place = place
        """The newest word of the supervisor."""
        self.directories: Final = directories
        self.terminals: Final = Terminals(
            place.tenant, lambda: self.place.ceilings, time.monotonic, unix_ms, report
        )
        self.running: Final[dict[str, Sandbox]] = {}
        self.refusal: StorageRefusal | None = None
        """Why it may run nothing, if it may not."""
        self.stopped: Final[dict[str, GatewayError]] = {}
        """Sandboxes that were ended for that, until those who wait for them know."""
        self.links = 0
        """How many generations have one."""
        self._turns = 0
        self._changed: Final = asyncio.Event()
        self._waiting: Final[deque[asyncio.Future[None]]] = deque()

    @property
    def in_use(self) -> bool:
        """Whether anything runs for it, or may be asked for."""
        return bool(self.links or self.running or len(self.terminals))

    async def end(self) -> None:
        """End everything that runs for it. Bound the wait outside."""
        await self.terminals.end()
        for sandbox in tuple(self.running.values()):
            sandbox.kill()
        while self.running:
            self._changed.clear()
            await self._changed.wait()

    @contextlib.contextmanager
    def listed(self, sandbox: Sandbox) -> Iterator[None]:
        """Have a sandbox be among those that run."""
        self.running[sandbox.shown.sandbox_id] = sandbox
        if self.refusal is not None:  # since it was let pass
            self._stop(sandbox, self.refusal)
        try:
            yield
        finally:
            del self.running[sandbox.shown.sandbox_id]
            self._changed.set()

    @property
    def queued(self) -> int:
        """How many runs wait for their turn."""
        return len(self._waiting)

    def check(self) -> None:
        """Let pass what is to be started.

        Raises:
            GatewayError: the tenant may run nothing now, with the reason.
        """
        if self.refusal is not None:
            raise self.refusal.error()

    def hold(self, refusal: StorageRefusal | None) -> None:
        """Have it run nothing, if there is a reason, until there is none."""
        self.refusal = refusal
        if refusal is not None:
            for sandbox in tuple(self.running.values()):
                self._stop(sandbox, refusal)

    def _stop(self, sandbox: Sandbox, refusal: StorageRefusal) -> None:
        if sandbox.shown.kind == "run":
            self.stopped.setdefault(sandbox.shown.sandbox_id, refusal.error())
        sandbox.kill()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until another run may start, and keep its place in the block.

        Raises:
            GatewayError: RATE_LIMITED, too many wait already.
        """
        ceilings = self.place.ceilings
        if self._turns < ceilings.concurrent and not self._waiting:
            self._turns += 1
        elif len(self._waiting) >= ceilings.queued:
            message = (
                f"{self._turns} sandboxes run and {len(self._waiting)} wait; "
                "try again when one has ended"
            )
            raise GatewayError(ErrorCode.RATE_LIMITED, message, retryAfterMs=RETRY_AFTER_MS)
        else:
            await self._wait()
        try:
            yield
        finally:
            self._turns -= 1
            self._next()

    async def _wait(self) -> None:
        due: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(due)
        try:
            await due
        except asyncio.CancelledError:
            if due.done() and not due.cancelled():  # it had just been given its turn
                self._turns -= 1
                self._next()
            else:
                with contextlib.suppress(ValueError):  # passed over already
                    self._waiting.remove(due)
            raise

    def _next(self) -> None:
        while self._waiting and self._turns < self.place.ceilings.concurrent:
            due = self._waiting.popleft()
            if not due.done():
                self._turns += 1
                due.set_result(None)
