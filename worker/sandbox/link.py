"""The worker's link to the launcher: calls there, and the pipes that come from there."""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec

from protocol import aio, descriptors, frames, limits
from protocol.errors import ErrorCode, GatewayError, LinkClosedError
from protocol.launching import Ceilings
from protocol.link import ANSWERS
from protocol.pace import Pace
from worker import log

_PIPES: Final = 3
_NONE: Final = GatewayError(
    ErrorCode.UNAVAILABLE, "sandboxes cannot be had just now; try again", retryAfterMs=1000
)
_TOO_MANY: Final = GatewayError(
    ErrorCode.RATE_LIMITED, "too many calls to do with sandboxes; try again", retryAfterMs=1000
)

OnPipes = Callable[[tuple[int, int, int]], None]
"""Takes over write end of stdin, read ends of stdout and stderr."""


class _Met(NamedTuple):
    """One launcher, as the supervisor made it known."""

    end: aio.LinkEnd
    channel: socket.socket


class Streaming(NamedTuple):
    """A stream of the launcher's."""

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


class LauncherLink:
    """The link to the present launcher; a `LinkHandler`.

    The link is made when something is first asked of it: most workers never do.
    """

    def __init__(self) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self.known_ceilings: Ceilings | None = None
        """What the operator allows, once a launcher has been made known."""
        self._offered: tuple[socket.socket, socket.socket] | None = None
        self._met: _Met | None = None
        self._meeting: Final = asyncio.Lock()
        self._waiting: Final[dict[int, OnPipes]] = {}
        self._last_number = 0
        self._pace: Final = Pace(limits.LAUNCHER_CALLS_PER_SECOND, limits.LAUNCHER_CALLS_BURST)
        self._there: Final = asyncio.Event()

    def offer(self, link: int, channel: int, ceilings: Ceilings) -> None:
        """Take the ends of what leads to a launcher; an earlier one is forgotten."""
        self.close()
        self._there.clear()
        self.known_ceilings = ceilings
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, link)
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, channel)
        ours.setblocking(False)
        self._offered = sock, ours
        self._there.set()

    @property
    def ceilings(self) -> Ceilings:
        """What the operator allows.

        Raises:
            GatewayError: UNAVAILABLE, no launcher has been made known yet.
        """
        if self.known_ceilings is None:
            raise _NONE
        return self.known_ceilings

    @staticmethod
    def unavailable() -> GatewayError:
        """Give the refusal of what no launcher can be asked for just now."""
        return _NONE

    async def call(self, method: str, params: Any) -> bytes:
        """Ask the launcher. Bound the wait outside; a cancellation is passed on.

        Raises:
            GatewayError: it refused; or UNAVAILABLE, there is none, or it has ended meanwhile.
        """
        met = await self._meet()
        try:
            return await met.end.call(method, params)
        except LinkClosedError:
            raise _NONE from None

    async def stream(
        self, method: str, params: Any, on_reply: aio.OnReply, credit: int
    ) -> "Streaming":
        """Ask the launcher for a stream; `on_reply` gets all of it, its end or the link's last.

        Raises:
            GatewayError: UNAVAILABLE, there is no launcher.
        """
        met = await self._meet()
        try:
            body = msgspec.json.encode(params)
            return Streaming(met.end, met.end.start_call(method, body, on_reply, credit=credit))
        except LinkClosedError:
            raise _NONE from None

    def expect_pipes(self, on_pipes: OnPipes) -> int:
        """Give a number for pipes that a call will have sent here; `forget_pipes` ends it."""
        self._last_number += 1
        self._waiting[self._last_number] = on_pipes
        return self._last_number

    def forget_pipes(self, number: int) -> None:
        """Expect them no more; what has come of them until now is handed over."""
        if self._met is not None:
            self._receive(self._met.channel)
        self._waiting.pop(number, None)

    def close(self) -> None:
        """Let go of the launcher; calls that it has not answered fail."""
        if self._offered is not None:
            for sock in self._offered:
                sock.close()
            self._offered = None
        if self._met is not None:
            self._met.end.close()
            self._forget(self._met)

    # Inside.

    async def _meet(self) -> _Met:
        if not self._pace.take(self._loop.time()):
            raise _TOO_MANY
        if self._met is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(limits.LAUNCHER_WAIT_SECONDS):
                    await self._there.wait()
        async with self._meeting:
            if self._met is None:
                if self._offered is None:
                    raise _NONE
                (sock, channel), self._offered = self._offered, None
                end = await aio.attach(sock, ANSWERS, self)
                self._met = _Met(end, channel)
                self._loop.add_reader(channel, self._receive, channel)
            return self._met

    def _receive(self, channel: socket.socket) -> None:
        while channel.fileno() >= 0:
            try:
                payload, received = descriptors.receive(channel, _PIPES)
            except BlockingIOError:
                return
            except (EOFError, OSError, descriptors.DescriptorMessageError):
                self._loop.remove_reader(channel)
                channel.close()
                return
            on_pipes = self._waiting.pop(int(payload), None)
            if on_pipes is None or len(received) != _PIPES:
                for descriptor in received:
                    os.close(descriptor)
            else:
                stdin, stdout, stderr = received
                on_pipes((stdin, stdout, stderr))

    def _forget(self, met: _Met) -> None:
        if met.channel.fileno() >= 0:
            self._loop.remove_reader(met.channel)
            met.channel.close()
        if self._met is met:
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
        """See `LinkHandler`. The supervisor will make the next launcher known."""
        if reason is not None:
            log.failure("launcher link broken", reason)
        if self._met is not None and self._met.end is end:
            self._forget(self._met)
