"""Processes that are made ahead, so that a wake need not wait for the zygote.

A spare knows no tenant: it differs from what is made for a request in its age alone, and where
there is none that answers, one is made for the request.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from protocol import limits
from supervisor.logs import Log, LogPump
from supervisor.newborn import Newborn
from supervisor.zygote.spec import JailSpec


class MakeError(Exception):
    """No process could be made."""


class Spares:
    """The spares of one zygote.

    Args:
        shape: How they are jailed, whoever's they become; None if there are to be none.
        make: Has one made; `lose` hears of its end. Raises `MakeError` or OSError.
        log: Where their failures are written.
    """

    def __init__(
        self, shape: JailSpec | None, make: Callable[[JailSpec], Awaitable[Newborn]], log: Log
    ) -> None:
        self._shape: Final = shape
        self._make: Final = make
        self._log: Final = log
        self.waiting: Final[list[Newborn]] = []
        """The oldest first."""
        self._starting: Final[set[asyncio.Future[None]]] = set()
        self._refilling: asyncio.Task[None] | None = None
        self._closed = False
        self.wanted = 0
        """How many wait for a process now."""

    async def take(
        self, shape: JailSpec, order: bytes, entrances: Sequence[int] = ()
    ) -> Newborn | None:
        """Give one that has read its order; None if there is none of this shape that does."""
        while shape == self._shape and self.waiting:
            spare = self.waiting.pop(0)
            hangs = False
            try:
                async with asyncio.timeout(limits.SPARE_ANSWER_SECONDS):
                    if spare.tell(order, entrances) and await spare.told():
                        return spare
            except TimeoutError:
                self._log.error("a spare hangs", pid=spare.child.pid)
                hangs = True
            except BaseException:
                spare.kill()
                raise
            # Its end is awaited: it must not become a second worker of the generation after all.
            spare.kill()
            await spare.child.wait()
            spare.close()
            if hangs:
                break  # so may the others, and the request has waited once
        return None

    def started(self, newborn: Newborn) -> None:
        """Take note of a process that is on its way to serve: new spares are to wait for it."""
        self._starting.add(newborn.started)
        newborn.started.add_done_callback(self._starting.discard)

    def refill(self) -> None:
        """Make what is missing, when that is in nobody's way."""
        idle = self._refilling is None or self._refilling.done()
        if self._shape is not None and idle and not self._closed:
            self._refilling = asyncio.get_running_loop().create_task(self._fill(self._shape))

    def lose(self, newborn: Newborn) -> None:
        """Forget one that has ended; the next `refill` replaces it."""
        if newborn in self.waiting:
            self.waiting.remove(newborn)
            if not self._closed:
                self._log.error("a spare died", pid=newborn.child.pid)
            LogPump(os.dup(newborn.stderr), self._log)
            newborn.close()

    def kill(self) -> None:
        """End all at once, and make no more."""
        self._closed = True
        for spare in self.waiting:
            spare.kill()

    async def close(self) -> None:
        """End all, and wait for it; what is being made is the last."""
        self._closed = True
        if self._refilling is not None:
            await asyncio.wait([self._refilling], timeout=limits.SPARE_ANSWER_SECONDS)
        spares = list(self.waiting)
        self.kill()
        for spare in spares:
            await spare.child.wait()

    def _missing(self) -> bool:
        return len(self.waiting) < limits.SPARES and not self._closed

    async def _fill(self, shape: JailSpec) -> None:
        while self._missing():
            if self._starting:
                await asyncio.wait(self._starting, timeout=limits.SPARE_DELAY_SECONDS)
            if self.wanted:
                return  # they come first, and refill afterwards
            try:
                spare = await self._make(shape)
            except (MakeError, OSError) as error:
                if not self._closed:
                    self._log.error("no spare can be made", error=str(error))
                return
            self.waiting.append(spare)
            if self._closed:
                spare.kill()
            if not await asyncio.shield(spare.waits):
                # It has ended, or is about to; so would the next.
                spare.kill()
                await spare.child.wait()
                return
