"""The worker's end of a link to a process that all tenants share: it asks, the other answers."""

import asyncio
import socket
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec

from protocol import aio, frames
from protocol.errors import GatewayError, LinkClosedError
from protocol.link import ANSWERS
from protocol.pace import Pace
from worker import log


class Streaming(NamedTuple):
    """A stream of the other's."""

    end: aio.LinkEnd
    call_id: int

    def grant(self, count: int) -> None:
        """Take so many chunks more."""
        if not self.end.closed:
            self.end.link.grant(self.call_id, count)
            self.end.flush()

    def cancel(self) -> None:
        """Take nothing more."""
        if not self.end.closed:
            self.end.link.cancel(self.call_id)
            self.end.flush()


class Bounds(NamedTuple):
    """How much is asked of it, and how long its successor is waited for.

    `none` is what is told when there is none, `too_many` when too much is asked.
    """

    per_second: float
    burst: int
    wait_seconds: float
    none: GatewayError
    too_many: GatewayError


class SharedLink:
    """The link to the present one; a `LinkHandler`.

    The link is made when something is first asked of it: most workers never do.

    Args:
        name: What the log calls it.
        bounds: See there.
    """

    def __init__(self, name: str, bounds: Bounds) -> None:
        self._name: Final = name
        self._bounds: Final = bounds
        self._loop: Final = asyncio.get_running_loop()
        self._offered: socket.socket | None = None
        self._met: aio.LinkEnd | None = None
        self._meeting: Final = asyncio.Lock()
        self._pace: Final = Pace(bounds.per_second, bounds.burst)
        self._there: Final = asyncio.Event()

    def take(self, link: int) -> None:
        """Take our end of the link to one; an earlier one is forgotten."""
        self.close()
        self._offered = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, link)
        self._there.set()

    async def call(self, method: str, params: Any) -> bytes:
        """Ask it. Bound the wait outside; a cancellation is passed on.

        Raises:
            GatewayError: it refused; or UNAVAILABLE, there is none, or it has ended meanwhile.
        """
        end = await self._meet()
        try:
            return await end.call(method, params)
        except LinkClosedError:
            raise self._bounds.none from None

    async def stream(
        self, method: str, params: Any, on_reply: aio.OnReply, credit: int
    ) -> Streaming:
        """Ask it for a stream; `on_reply` gets all of it, its end or the link's last.

        Raises:
            GatewayError: UNAVAILABLE, there is none.
        """
        end = await self._meet()
        try:
            body = msgspec.json.encode(params)
            return Streaming(end, end.start_call(method, body, on_reply, credit=credit))
        except LinkClosedError:
            raise self._bounds.none from None

    def unavailable(self) -> GatewayError:
        """Give the refusal of what nobody can be asked for just now."""
        return self._bounds.none

    def close(self) -> None:
        """Let go of it; calls that it has not answered fail."""
        self._there.clear()
        if self._offered is not None:
            self._offered.close()
            self._offered = None
        if self._met is not None:
            self._met.close()
            self._forget(self._met)

    # Inside.

    async def _meet(self) -> aio.LinkEnd:
        if not self._pace.take(self._loop.time()):
            raise self._bounds.too_many
        if self._met is not None:
            return self._met
        if self._offered is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._bounds.wait_seconds):
                    await self._there.wait()
        async with self._meeting:
            if self._met is None:
                if self._offered is None:
                    raise self._bounds.none
                sock, self._offered = self._offered, None
                self._met = await aio.attach(sock, ANSWERS, self)
            return self._met

    def _forget(self, end: aio.LinkEnd) -> None:
        if self._met is end:
            self._met = None
            if self._offered is None:
                self._there.clear()

    # protocol.aio.LinkHandler

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        """See `LinkHandler`. The link takes no calls."""

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. As `on_call`."""

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. As `on_call`."""

    def on_notice(self, end: aio.LinkEnd, frame: frames.Frame) -> None:
        """See `LinkHandler`. As `on_call`."""

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`. The supervisor will make the next one known."""
        if reason is not None:
            log.failure(f"{self._name} link broken", reason)
        self._forget(end)
