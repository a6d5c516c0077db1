"""The doors of sandboxes that have a network, as egress gets them.

Each is a listener inside a sandbox's network namespace. They are kept as long as the sandbox runs:
an egress that is another gets them all again.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Final

import msgspec

from protocol import descriptors
from protocol.egress import Closed, Listener


class Outlets:
    """See the module. There may be no egress for a while; then clients wait in the backlog."""

    def __init__(self) -> None:
        self._channel: socket.socket | None = None
        self._open: Final[dict[str, tuple[Listener, int]]] = {}

    def use(self, channel: socket.socket) -> None:
        """Hand them to the present egress, over this channel."""
        if self._channel is not None:
            self._channel.close()
        channel.setblocking(False)
        self._channel = channel
        for listener, descriptor in self._open.values():
            self._send(listener, descriptor)

    @contextlib.contextmanager
    def opened(self, listener: Listener, descriptor: int) -> Iterator[None]:
        """Have one be open; takes the descriptor over."""
        self._open[listener.sandbox_id] = listener, descriptor
        self._send(listener, descriptor)
        try:
            yield
        finally:
            del self._open[listener.sandbox_id]
            os.close(descriptor)
            self._send(Closed(sandbox_id=listener.sandbox_id))

    def _send(self, message: Listener | Closed, *given: int) -> None:
        if self._channel is None:
            return
        try:
            descriptors.send(self._channel, msgspec.msgpack.encode(message), given)
        except OSError:
            # It has ended, or hangs and will be replaced: the next one gets them again.
            self._channel.close()
            self._channel = None
