"""Keeps the front: each one knows all before it serves, and hears of one change after the other."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

from protocol.errors import LinkClosedError
from protocol.spawn import FrontSettings, TenantAccess, TenantsUpdate
from supervisor.front_process import FrontProcess
from supervisor.keeper import Keeper
from supervisor.logs import Log

Known = tuple[Iterable[TenantAccess], Iterable[TenantsUpdate]]
"""All tenants, and what else there is to know of them."""


class Fronts(Keeper[FrontProcess]):
    """See the module.

    Args:
        make: Makes one, which is not started.
        known: Gives what it is to know.
        then: See `Keeper`, like the others.
    """

    def __init__(
        self,
        make: Callable[[], FrontProcess],
        known: Callable[[], Awaitable[Known]],
        then: Callable[[], None],
        run: Callable[[Coroutine[Any, Any, None]], None],
        log: Log,
        respawns: Counter[str],
    ) -> None:
        super().__init__("front", self._started, then, run, log, respawns)
        self._make: Final = make
        self._known: Final = known
        self._speaking: Final = asyncio.Lock()

    async def _started(self) -> FrontProcess:
        # What changes meanwhile is told when it is there.
        async with self._speaking:
            front = self._make()
            await front.start(*await self._known())
        return front

    async def tell(self, *changes: TenantsUpdate | FrontSettings) -> None:
        """See `supervisor.actions.Around.tell_front`."""
        async with self._speaking:
            if self.present is not None:
                try:
                    for change in changes:
                        await self.present.tell(change)
                except (LinkClosedError, TimeoutError):
                    # It has ended, or was killed for not answering: its successor knows all.
                    self._log.warning("front was not told")

    async def drain(self, seconds: float) -> None:
        """Let the present one finish what clients wait for, and end it."""
        async with self._speaking:
            if self.present is not None:
                await self.present.drain(seconds)
