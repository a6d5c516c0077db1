"""One thread for what takes its time, so that the event loop's thread does not stand still."""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from protocol.errors import ErrorCode, GatewayError

WAITING_MAX: Final = 64

T = TypeVar("T")


class _Work(NamedTuple):
    do: Callable[[], Any]
    future: asyncio.Future[Any]


class Lane:
    """Does one thing after another. The thread is started with the first.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._name: Final = name
        self._queue: Final[queue.SimpleQueue[_Work | None]] = queue.SimpleQueue()
        self._waiting = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    async def run(self, work: Callable[[], T]) -> T:
        """Give what `work` gives, or raise what it raises. What nobody waits for is not begun.

        Raises:
            GatewayError: UNAVAILABLE: too much waits already, or it is the end.
        """
        if self._closed:
            raise _stopping()
        if self._waiting >= WAITING_MAX:
            raise GatewayError(ErrorCode.UNAVAILABLE, "too much waits already; try again")
        loop = asyncio.get_running_loop()
        if self._thread is None:
            # A daemon, so that a process that has to end at once does not wait for it.
            self._thread = threading.Thread(
                target=self._work, args=(loop,), name=self._name, daemon=True
            )
            self._thread.start()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting += 1
        self._queue.put(_Work(work, future))
        return await future

    def close(self) -> None:
        """Finish what was begun, refuse what waits, and take nothing more."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (work := self._queue.get()) is not None:
            result: Any = None
            error: Exception | None = None
            if self._closed:
                error = _stopping()
            elif not work.future.cancelled():
                try:
                    result = work.do()
                except Exception as raised:  # noqa: BLE001 - the thread outlives every piece of work
                    error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self._resolve, work.future, result, error)

    def _resolve(
        self, future: asyncio.Future[Any], result: object, error: Exception | None
    ) -> None:
        self._waiting -= 1
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _stopping() -> GatewayError:
    return GatewayError(ErrorCode.UNAVAILABLE, "the worker is being stopped; try again")
