"""What the supervisor hands a process that serves tenants: links, on its descriptor channel."""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec

from protocol import descriptors
from supervisor.front.log import Log

T = TypeVar("T")


class Handed(Generic[T]):
    """Takes what comes on the channel; what cannot be read is logged, its descriptors closed.

    Args:
        channel: The channel, non-blocking; closed by `close`.
        kind: What a message is.
        counts: How many descriptors come with each kind.
        take: Takes a message with its descriptors, which are its to close.
        log: Where it is written what cannot be read.
    """

    def __init__(
        self,
        channel: socket.socket,
        kind: Any,
        counts: Mapping[Any, int],
        take: Callable[[T, list[socket.socket]], Coroutine[Any, Any, None]],
        log: Log,
    ) -> None:
        self._channel: Final = channel
        self._kind: Final = kind
        self._counts: Final = counts
        self._most: Final = max(counts.values())
        self._take: Final = take
        self._log: Final = log
        self._loop: Final = asyncio.get_running_loop()
        self._taking: Final[set[asyncio.Task[None]]] = set()
        self._loop.add_reader(channel, self._receive)

    def close(self) -> None:
        """Take no more."""
        self._loop.remove_reader(self._channel)
        self._channel.close()

    def _receive(self) -> None:
        while True:
            try:
                payload, received = descriptors.receive(self._channel, self._most)
            except BlockingIOError:
                return
            except (EOFError, OSError):
                # The data link says the same, and is what counts.
                self._loop.remove_reader(self._channel)
                return
            except descriptors.DescriptorMessageError as error:
                self._log.broken("descriptor channel", error)
                continue
            try:
                message = msgspec.msgpack.decode(payload, type=self._kind)
                _check_count(received, self._counts[type(message)])
            except (msgspec.DecodeError, ValueError) as error:
                for descriptor in received:
                    os.close(descriptor)
                self._log.broken("descriptor channel", error)
                continue
            ends = [socket.socket(fileno=descriptor) for descriptor in received]
            task = self._loop.create_task(self._take(message, ends))
            self._taking.add(task)
            task.add_done_callback(self._taking.discard)


def _check_count(received: list[int], count: int) -> None:
    if len(received) != count:
        raise ValueError(f"{len(received)} descriptors, not {count}")
