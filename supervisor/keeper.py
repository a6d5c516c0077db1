"""Keeps a process that all tenants share: another one starts when it has died, or beside it."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, Protocol, TypeVar

from protocol.errors import GatewayError, LinkClosedError
from supervisor.child import Exit
from supervisor.logs import Log
from supervisor.zygote_process import SpawnError

RESPAWN_SECONDS_MIN: Final = 0.1
RESPAWN_SECONDS_MAX: Final = 5.0
START_ERRORS: Final = (OSError, GatewayError, LinkClosedError, SpawnError, TimeoutError)


class Kept(Protocol):
    """A process that can be kept."""

    @property
    def ended(self) -> bool:
        """Whether it has ended."""


P = TypeVar("P", bound=Kept)


class Keeper(Generic[P]):
    """Keeps one process of a kind.

    Args:
        name: What the log calls it.
        start: Starts one, which serves then; raises one of `START_ERRORS` when it does not.
        then: Called when the present one is another than before.
        run: Runs a task to its end; the gateway ends when it raises.
        log: Where deaths are written.
        respawns: Where those are counted that replace a dead one.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Awaitable[P]],
        then: Callable[[], None],
        run: Callable[[Coroutine[Any, Any, None]], None],
        log: Log,
        respawns: Counter[str],
    ) -> None:
        self.present: P | None = None
        """The one that serves; None while there is none."""
        self._name: Final = name
        self._start: Final = start
        self._then: Final = then
        self._run: Final = run
        self._log: Final = log
        self._respawns: Final = respawns
        self._turn: Final = asyncio.Lock()
        self._there: Final = asyncio.Event()
        self._over: Final = asyncio.Event()

    async def start(self) -> P | None:
        """Start another one, which is the present one from then on; gives the one before it.

        Raises:
            OSError, GatewayError, LinkClosedError, SpawnError, TimeoutError: it does not start; the
                one before it stays.
        """
        async with self._turn:
            return await self._start_another()

    async def _start_another(self) -> P | None:
        started = await self._start()
        if started.ended:
            msg = "it ended at once"
            raise OSError(msg)
        before, self.present = self.present, started
        self._there.set()
        self._then()
        return before

    async def get(self) -> P:
        """Give the present one, or the next one when it has started. Bound the wait outside."""
        while self.present is None:
            await self._there.wait()
        return self.present

    def close(self) -> None:
        """Start no other one."""
        self._over.set()

    def ended(self, process: P, status: Exit) -> None:
        """Take note that a process has ended, and replace the one that served."""
        if process is self.present:
            self.present = None
            self._there.clear()
            if not self._over.is_set():
                self._log.error(f"{self._name} died", status=str(status))
                self._run(self._replace())

    async def _replace(self) -> None:
        delay = RESPAWN_SECONDS_MIN
        while not self._over.is_set() and self.present is None:
            try:
                async with self._turn:
                    if self.present is None:
                        await self._start_another()
                        self._respawns[self._name] += 1
            except START_ERRORS as error:
                self._log.error(f"{self._name} does not start", error=str(error))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), delay)
                delay = min(delay * 2, RESPAWN_SECONDS_MAX)
