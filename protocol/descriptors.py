"""The descriptor channel: small messages that carry open files between our processes.

Descriptors never travel on a data link: asyncio's and uvloop's stream transports read with plain
`recv` and drop them. A `SEQPACKET` pair read with `recvmsg` keeps message and descriptors together.
"""

import array
import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

from protocol.limits import DESCRIPTOR_MESSAGE_BYTES_MAX, DESCRIPTORS_PER_MESSAGE_MAX


class WorkerDescriptors(NamedTuple):
    """What a worker holds when its own code starts, beside its standard streams.

    `supervisor` is its end of the data link to the supervisor; on `channel`, a descriptor channel,
    the supervisor hands it one link to each front that lives; `ready` is a pipe that takes the
    readiness byte and is closed after it.
    """

    supervisor: int
    channel: int
    ready: int


class DescriptorMessageError(Exception):
    """A message on the descriptor channel is torn, too large or carries too many descriptors."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Make a connected descriptor channel; both ends are close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, payload: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one message and copies of `descriptors`; the caller keeps and closes its own.

    Raises:
        DescriptorMessageError: over the bounds of `protocol.limits`.
        OSError: the peer is gone, or (non-blocking channel) its queue is full.
    """
    if not payload or len(payload) > DESCRIPTOR_MESSAGE_BYTES_MAX:
        msg = f"a message is 1..{DESCRIPTOR_MESSAGE_BYTES_MAX} bytes, not {len(payload)}"
        raise DescriptorMessageError(msg)
    if len(descriptors) > DESCRIPTORS_PER_MESSAGE_MAX:
        msg = f"a message carries at most {DESCRIPTORS_PER_MESSAGE_MAX} descriptors"
        raise DescriptorMessageError(msg)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    channel.sendmsg([payload], ancillary if descriptors else [])


def receive(
    channel: socket.socket, descriptors_max: int = DESCRIPTORS_PER_MESSAGE_MAX
) -> tuple[bytes, list[int]]:
    """Receive one message and its descriptors, all close-on-exec and owned by the caller.

    Raises:
        EOFError: the peer closed the channel.
        DescriptorMessageError: the message is over a bound; its descriptors have been closed.
        BlockingIOError: the channel is non-blocking and empty.
    """
    space = socket.CMSG_SPACE(array.array("i").itemsize * DESCRIPTORS_PER_MESSAGE_MAX)
    payload, ancillary, flags, _ = channel.recvmsg(
        DESCRIPTOR_MESSAGE_BYTES_MAX + 1, space, socket.MSG_CMSG_CLOEXEC
    )
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    too_many = len(descriptors) > descriptors_max or flags & socket.MSG_CTRUNC
    if too_many or len(payload) > DESCRIPTOR_MESSAGE_BYTES_MAX or flags & socket.MSG_TRUNC:
        for descriptor in descriptors:
            os.close(descriptor)
        msg = "a message over its bounds arrived on the descriptor channel"
        raise DescriptorMessageError(msg)
    if not payload:
        for descriptor in descriptors:
            os.close(descriptor)
        raise EOFError
    return payload, list(descriptors)
