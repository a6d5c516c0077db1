"""Removes what is marked for it, a piece at a time, between the other writes.

What marks it is in the store: a process that ends in the middle leaves the rest to the next one.
"""

import asyncio
from typing import Final

import apsw

from protocol.errors import GatewayError
from worker import log
from worker.sessions import transcripts
from worker.store.database import Database

LATER_SECONDS: Final = 1.0


class Purging:
    """See the module.

    Args:
        database: Where the rows are.
    """

    def __init__(self, database: Database) -> None:
        self._database: Final = database
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def start(self) -> None:
        """Remove what there is to remove, now or when the turns in it have ended."""
        self._again = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Leave the rest to the next generation."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while self._again:
                self._again = False
                while True:
                    purged = await self._database.write(transcripts.purge, grows=False)
                    if not purged.more:
                        break
                if purged.blocked:
                    self._again = True
                    await asyncio.sleep(LATER_SECONDS)
            await self._database.shrink()
        except (GatewayError, apsw.Error) as error:
            log.failure("cannot remove what was deleted", error)
        finally:
            self._task = None
