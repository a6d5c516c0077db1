"""The tenant's events: on to the front while somebody listens there, and kept for those who poll.

While nobody does either, nothing is made and nothing is kept. What is kept is lost with this
process: a cursor names the generation, the stretch of keeping and the position in it, so that one
from another time is known to be, and its owner told to read again.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.methods.events import EventName, PolledEvent, PollResult
from protocol.pace import Pace
from worker.clock import Clock

Push = Callable[[str, bytes], bool]
"""Sends an event on; False when there is no room for it."""

_encode: Final = msgspec.json.Encoder().encode


class _Kept(NamedTuple):
    position: int
    name: EventName
    payload: bytes


class Events:
    """See the module.

    Args:
        clock: For what has an end.
        generation: This worker's number.
    """

    def __init__(self, clock: Clock, generation: int) -> None:
        self._clock: Final = clock
        self._generation: Final = generation
        self._push: Push | None = None
        self._missed = False
        self._events: Final = Pace(limits.EVENTS_PER_SECOND, limits.EVENTS_BURST)
        self._bytes: Final = Pace(limits.EVENT_BYTES_PER_SECOND, limits.EVENT_BYTES_BURST)
        self._kept: Final[deque[_Kept]] = deque()
        self._kept_bytes = 0
        self._keep_until = float("-inf")
        self._stretch = 0
        self._position = 0
        self._pollers = 0
        self._news = asyncio.Event()
        self._closed = False

    @property
    def wanted(self) -> bool:
        """Whether anybody would hear of an event; else none should be made."""
        return self._push is not None or self._keeps()

    def listen(self, push: Push) -> None:
        """Have events sent on."""
        self._push = push
        self._missed = False

    def unlisten(self, push: Push) -> None:
        """Have no more sent on, if this is where they go."""
        if self._push == push:
            self._push = None
            self._keep_on()

    def publish(self, name: EventName, payload: Any) -> None:
        """Tell those who listen; what is over `EVENT_BYTES_MAX` is not told, and leaves a gap.

        Args:
            name: The event's.
            payload: What msgspec encodes to a JSON object.
        """
        if not self.wanted:
            return
        encoded = _encode(payload)
        if self._push is not None:
            self._keep_on()
        self._position += 1
        cursor = self._cursor(self._position)
        if len(encoded) + limits.KIB > limits.EVENT_BYTES_MAX:
            self._kept.clear()
            self._kept_bytes = 0
            self._missed = True
        else:
            self._keep(_Kept(self._position, name, encoded))
            self._send(name, b'{"cursor":"%b","payload":%b}' % (cursor.encode(), encoded))
        self._news.set()
        self._news = asyncio.Event()

    async def poll(self, cursor: str | None, limit: int, wait_seconds: float) -> PollResult:
        """Give what came after a cursor, waiting for something if there is nothing.

        Args:
            cursor: Of an earlier answer; None: from now on.
            limit: How many at most.
            wait_seconds: How long to wait.

        Raises:
            GatewayError: INVALID_REQUEST: the cursor is of no answer of ours.
        """
        self._keep_on()
        since = self._position if cursor is None else self._find(cursor)
        if since is None:
            return PollResult(cursor=self._cursor(self._position), events=[], reset=True)
        if since == self._position and wait_seconds > 0 and not self._closed:
            await self._wait(wait_seconds)
            if since < self._first() - 1:
                return PollResult(cursor=self._cursor(self._position), events=[], reset=True)
        found = [kept for kept in self._kept if kept.position > since]
        events = [
            PolledEvent(
                event=kept.name,
                cursor=self._cursor(kept.position),
                payload=msgspec.Raw(kept.payload),
            )
            for kept in found[:limit]
        ]
        at = found[:limit][-1].position if found else since
        return PollResult(cursor=self._cursor(at), events=events, more=len(found) > limit)

    def close(self) -> None:
        """Have nobody wait any more: this worker ends."""
        self._closed = True
        self._news.set()

    # Inside.

    def _send(self, name: EventName, body: bytes) -> None:
        push = self._push
        if push is None:
            return
        if self._missed and self._may_send(64):
            self._missed = not push("events.reset", b'{"payload":{"reason":"events were dropped"}}')
        if self._missed or not self._may_send(len(body)) or not push(name, body):
            self._missed = True

    def _may_send(self, size: int) -> bool:
        now = self._clock.monotonic()
        return self._events.take(now) and self._bytes.take(now, size)

    def _keeps(self) -> bool:
        return self._pollers > 0 or self._clock.monotonic() < self._keep_until

    def _keep_on(self) -> None:
        """Keep what comes from now on; what was before a pause in it is of another stretch."""
        if not self._keeps():
            self._kept.clear()
            self._kept_bytes = 0
            self._stretch += 1
            self._position = 0
        self._keep_until = self._clock.monotonic() + limits.EVENTS_KEPT_SECONDS

    def _keep(self, event: _Kept) -> None:
        self._kept.append(event)
        self._kept_bytes += len(event.payload)
        while (
            len(self._kept) > limits.EVENTS_KEPT_MAX
            or self._kept_bytes > limits.EVENTS_KEPT_BYTES_MAX
        ):
            self._kept_bytes -= len(self._kept.popleft().payload)

    def _first(self) -> int:
        """The oldest position there is; the next one's if none is kept."""
        return self._kept[0].position if self._kept else self._position + 1

    async def _wait(self, seconds: float) -> None:
        news = self._news
        self._pollers += 1
        try:
            async with asyncio.timeout(seconds):
                await news.wait()
        except TimeoutError:
            pass
        finally:
            self._pollers -= 1
            self._keep_on()

    def _cursor(self, position: int) -> str:
        return f"{self._generation}-{self._stretch}-{position}"

    def _find(self, cursor: str) -> int | None:
        """Give the position of a cursor; None when what came after it is not known any more."""
        try:
            generation, stretch, position = (int(part) for part in cursor.split("-"))
        except ValueError:
            message = "cursor: must be that of an earlier answer"
            raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="cursor") from None
        if generation != self._generation or stretch != self._stretch:
            return None
        return position if self._first() - 1 <= position <= self._position else None
