"""The worker's link to the launcher: calls there, and the pipes that come from there."""

import os
import socket
from collections.abc import Callable
from typing import Final

from protocol import aio, descriptors, limits
from protocol.errors import ErrorCode, GatewayError
from protocol.launching import Ceilings
from worker.shared_link import Bounds, SharedLink, Streaming

__all__ = ["LauncherLink", "OnPipes", "Streaming"]

_PIPES: Final = 3
_BOUNDS: Final = Bounds(
    per_second=limits.LAUNCHER_CALLS_PER_SECOND,
    burst=limits.LAUNCHER_CALLS_BURST,
    wait_seconds=limits.LAUNCHER_WAIT_SECONDS,
    none=GatewayError(
        ErrorCode.UNAVAILABLE, "sandboxes cannot be had just now; try again", retryAfterMs=1000
    ),
    too_many=GatewayError(
        ErrorCode.RATE_LIMITED,
        "too many calls to do with sandboxes; try again",
        retryAfterMs=1000,
    ),
)

OnPipes = Callable[[tuple[int, int, int]], None]
"""Takes over write end of stdin, read ends of stdout and stderr."""


class LauncherLink(SharedLink):
    """The link to the present launcher, and the channel on which it hands over pipes."""

    def __init__(self) -> None:
        super().__init__("launcher", _BOUNDS)
        self.known_ceilings: Ceilings | None = None
        """What the operator allows, once a launcher has been made known."""
        self._channel: socket.socket | None = None
        self._reads = False
        self._waiting: Final[dict[int, OnPipes]] = {}
        self._last_number = 0

    def offer(self, link: int, channel: int, ceilings: Ceilings) -> None:
        """Take the ends of what leads to a launcher; an earlier one is forgotten."""
        self.take(link)
        self.known_ceilings = ceilings
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, channel)
        self._channel.setblocking(False)

    @property
    def ceilings(self) -> Ceilings:
        """What the operator allows.

        Raises:
            GatewayError: UNAVAILABLE, no launcher has been made known yet.
        """
        if self.known_ceilings is None:
            raise self.unavailable()
        return self.known_ceilings

    def expect_pipes(self, on_pipes: OnPipes) -> int:
        """Give a number for pipes that a call will have sent here; `forget_pipes` ends it."""
        self._last_number += 1
        self._waiting[self._last_number] = on_pipes
        return self._last_number

    def forget_pipes(self, number: int) -> None:
        """Expect them no more; what has come of them until now is handed over."""
        if self._channel is not None and self._reads:
            self._receive(self._channel)
        self._waiting.pop(number, None)

    def close(self) -> None:
        """See `SharedLink`."""
        super().close()
        self._close_channel()

    # Inside.

    async def _meet(self) -> aio.LinkEnd:
        end = await super()._meet()
        if self._channel is not None and not self._reads:
            self._reads = True
            self._loop.add_reader(self._channel, self._receive, self._channel)
        return end

    def _receive(self, channel: socket.socket) -> None:
        while channel is self._channel:
            try:
                payload, received = descriptors.receive(channel, _PIPES)
            except BlockingIOError:
                return
            except (EOFError, OSError, descriptors.DescriptorMessageError):
                self._close_channel()
                return
            on_pipes = self._waiting.pop(int(payload), None)
            if on_pipes is None or len(received) != _PIPES:
                for descriptor in received:
                    os.close(descriptor)
            else:
                stdin, stdout, stderr = received
                on_pipes((stdin, stdout, stderr))

    def _close_channel(self) -> None:
        if self._channel is not None:
            if self._reads:
                self._loop.remove_reader(self._channel)
            self._channel.close()
            self._channel, self._reads = None, False

    def _forget(self, end: aio.LinkEnd) -> None:
        if self._met is end:
            self._close_channel()
        super()._forget(end)
