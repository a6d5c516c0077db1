"""Containers that are started and were never used, for those who have just used one like it.

Each serves one sandbox and is thrown away, so that no two share more than their directory. They are
made in the background, at most `warm` of a shape, a few shapes of a tenant and some of all tenants,
and given up when nobody has asked for their shape for a while.
"""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from protocol import limits
from protocol.errors import GatewayError
from supervisor.launcher.docker_container import Container
from supervisor.launcher.docker_profile import Shape

Make = Callable[[Shape, int], Awaitable[Container]]
"""Makes a container that has an open directory at /work."""


class _Shelf:
    """Those of one shape, with one directory at /work."""

    def __init__(self, shape: Shape, directory: int) -> None:
        status = os.fstat(directory)
        self.shape: Final = shape
        self.directory: Final = os.dup(directory)
        self.identity: Final = (status.st_dev, status.st_ino)
        self.ready: Final[deque[Container]] = deque()
        self.waiting: Final[deque[asyncio.Future[Container]]] = deque()
        self.making = 0
        self.given_up = False
        self.idle: asyncio.TimerHandle | None = None


class Pool:
    """All of them.

    Args:
        make: Makes one.
        throw_away: Ends and removes one.
        warm: How many are kept ready of a shape that was just used.
    """

    def __init__(self, make: Make, throw_away: Callable[[Container], None], warm: int) -> None:
        self._make: Final = make
        self._throw_away: Final = throw_away
        self._warm: Final = warm
        self._shelves: Final[dict[Shape, _Shelf]] = {}  # the one asked for last is last
        self._turns: Final = asyncio.Semaphore(limits.DOCKER_STARTS_MAX)
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    @property
    def ready(self) -> int:
        """How many there are."""
        return sum(len(shelf.ready) for shelf in self._shelves.values())

    async def take(self, shape: Shape, directory: int) -> Container:
        """Give one, made now if there is none.

        Args:
            shape: What it is.
            directory: What is to be at /work, open; the caller's.

        Raises:
            GatewayError: it cannot be made.
        """
        shelf = self._shelf(shape, directory)
        while shelf.ready:
            container = shelf.ready.popleft()
            if container.runs:
                return container
            self._throw_away(container)
        wanted: asyncio.Future[Container] = asyncio.get_running_loop().create_future()
        shelf.waiting.append(wanted)
        is_new = shelf.making < len(shelf.waiting)
        self._stock(shelf, len(shelf.waiting))
        try:
            return await wanted
        except GatewayError:
            if is_new:
                raise
            # Begun before this was asked for, it may have failed for a reason that has gone.
            return await self.take(shape, directory)
        except asyncio.CancelledError:
            if wanted.done() and not wanted.cancelled() and wanted.exception() is None:
                self._put(shelf, wanted.result())
            raise

    def refill(self, shape: Shape) -> None:
        """Make ready what the next one will need who asks for that shape."""
        shelf = self._shelves.get(shape)
        if shelf is not None:
            self._stock(shelf, self._warm - len(shelf.ready) + len(shelf.waiting))

    def forget(self, tenant: str) -> None:
        """Give up a tenant's."""
        for shelf in [each for each in self._shelves.values() if each.shape.tenant == tenant]:
            self._give_up(shelf)

    async def close(self) -> None:
        """Give up all; waits for those that are being made."""
        for shelf in list(self._shelves.values()):
            self._give_up(shelf)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _shelf(self, shape: Shape, directory: int) -> _Shelf:
        shelf = self._shelves.pop(shape, None)
        status = os.fstat(directory)
        if shelf is not None and shelf.identity != (status.st_dev, status.st_ino):
            self._clear(shelf)  # another directory bears the name now
            shelf = None
        if shelf is None:
            shelf = _Shelf(shape, directory)
            self._make_room(shape.tenant)
        self._shelves[shape] = shelf
        if shelf.idle is not None:
            shelf.idle.cancel()
        loop = asyncio.get_running_loop()
        shelf.idle = loop.call_later(limits.DOCKER_IDLE_SECONDS, self._give_up, shelf)
        return shelf

    def _make_room(self, tenant: str) -> None:
        own = [shelf for shelf in self._shelves.values() if shelf.shape.tenant == tenant]
        if len(own) >= limits.DOCKER_SHAPES_PER_TENANT_MAX:
            self._give_up(own[0])
        elif len(self._shelves) >= limits.DOCKER_SHAPES_MAX:
            self._give_up(next(iter(self._shelves.values())))

    def _give_up(self, shelf: _Shelf) -> None:
        if self._shelves.get(shelf.shape) is shelf:
            del self._shelves[shelf.shape]
        self._clear(shelf)

    def _clear(self, shelf: _Shelf) -> None:
        shelf.given_up = True
        if shelf.idle is not None:
            shelf.idle.cancel()
        while shelf.ready:
            self._throw_away(shelf.ready.popleft())
        if not shelf.making:
            os.close(shelf.directory)

    def _stock(self, shelf: _Shelf, most: int) -> None:
        while shelf.making < most:
            shelf.making += 1
            task = asyncio.get_running_loop().create_task(self._fill(shelf))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _fill(self, shelf: _Shelf) -> None:
        try:
            async with self._turns:
                if shelf.given_up and not shelf.waiting:
                    return
                container = await self._make(shelf.shape, shelf.directory)
        except Exception as error:  # noqa: BLE001 - it is whoever waits who is told
            self._fail(shelf, error)
        else:
            self._put(shelf, container)
        finally:
            shelf.making -= 1
            if shelf.given_up and not shelf.making:
                os.close(shelf.directory)

    def _put(self, shelf: _Shelf, container: Container) -> None:
        while shelf.waiting:
            wanted = shelf.waiting.popleft()
            if not wanted.done():
                wanted.set_result(container)
                return
        if shelf.given_up or len(shelf.ready) >= self._warm:
            self._throw_away(container)
        else:
            shelf.ready.append(container)

    def _fail(self, shelf: _Shelf, error: Exception) -> None:
        while shelf.waiting:
            wanted = shelf.waiting.popleft()
            if not wanted.done():
                wanted.set_exception(error)
                return
