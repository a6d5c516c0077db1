"""The descriptor channel with real descriptors; none may be left behind."""

import array
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import descriptors
from protocol.descriptors import DescriptorMessageError
from protocol.limits import DESCRIPTOR_MESSAGE_BYTES_MAX, DESCRIPTORS_PER_MESSAGE_MAX

Channel = tuple[socket.socket, socket.socket]


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough


@pytest.fixture
def channel() -> Iterator[Channel]:
    """A channel; fails the test that leaves a descriptor open."""
    before = open_descriptors()
    ours, theirs = descriptors.pair()
    with ours, theirs:
        yield ours, theirs
    assert open_descriptors() == before


@pytest.fixture
def pipe(channel: Channel) -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def send_raw(sock: socket.socket, payload: bytes, passed: list[int]) -> None:
    """Send as a peer does that keeps no bound."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed))
    sock.sendmsg([payload], [rights])


def test_a_pair_is_close_on_exec(channel: Channel) -> None:
    assert [os.get_inheritable(end.fileno()) for end in channel] == [False, False]


def test_a_message_without_descriptors(channel: Channel) -> None:
    ours, theirs = channel
    descriptors.send(ours, b"hello")
    descriptors.send(theirs, b"and back")
    assert descriptors.receive(theirs) == (b"hello", [])
    assert descriptors.receive(ours) == (b"and back", [])


def test_a_descriptor_is_passed_close_on_exec(channel: Channel, pipe: tuple[int, int]) -> None:
    ours, theirs = channel
    reader, writer = pipe
    descriptors.send(ours, b"front", [writer])
    payload, (passed,) = descriptors.receive(theirs)
    assert payload == b"front"
    assert passed != writer
    assert not os.get_inheritable(passed)
    os.write(passed, b"through")
    os.close(passed)
    assert os.read(reader, 16) == b"through"
    os.fstat(writer)  # the sender keeps its own


def test_messages_keep_their_own_descriptors(channel: Channel, pipe: tuple[int, int]) -> None:
    ours, theirs = channel
    reader, writer = pipe
    for payload, passed in ((b"a", [reader]), (b"b", []), (b"c", [writer, reader])):
        descriptors.send(ours, payload, passed)
    for payload, expected in ((b"a", [reader]), (b"b", []), (b"c", [writer, reader])):
        got, received = descriptors.receive(theirs)
        assert got == payload
        assert [os.fstat(fd).st_ino for fd in received] == [os.fstat(fd).st_ino for fd in expected]
        assert [same_access(*both) for both in zip(received, expected, strict=True)] == [
            True for _ in expected
        ]
        for fd in received:
            os.close(fd)


def same_access(one: int, other: int) -> bool:
    """Whether two descriptors are the same end of a pipe."""
    flags = [Path(f"/proc/self/fdinfo/{fd}").read_text().split()[3] for fd in (one, other)]
    return int(flags[0], 8) & os.O_ACCMODE == int(flags[1], 8) & os.O_ACCMODE


def test_as_many_descriptors_as_may_be(channel: Channel, pipe: tuple[int, int]) -> None:
    ours, theirs = channel
    descriptors.send(ours, b"x", [pipe[0]] * DESCRIPTORS_PER_MESSAGE_MAX)
    _, received = descriptors.receive(theirs)
    assert len(set(received)) == DESCRIPTORS_PER_MESSAGE_MAX
    for fd in received:
        os.close(fd)


def test_the_largest_message(channel: Channel, pipe: tuple[int, int]) -> None:
    ours, theirs = channel
    payload = os.urandom(DESCRIPTOR_MESSAGE_BYTES_MAX)
    descriptors.send(ours, payload, [pipe[0]])
    got, (passed,) = descriptors.receive(theirs)
    os.close(passed)
    assert got == payload


@pytest.mark.parametrize("payload", [b"", bytes(DESCRIPTOR_MESSAGE_BYTES_MAX + 1)])
def test_a_message_out_of_bounds_is_not_sent(channel: Channel, payload: bytes) -> None:
    ours, theirs = channel
    theirs.setblocking(False)
    with pytest.raises(DescriptorMessageError):
        descriptors.send(ours, payload)
    with pytest.raises(BlockingIOError):
        descriptors.receive(theirs)


def test_too_many_descriptors_are_not_sent(channel: Channel, pipe: tuple[int, int]) -> None:
    ours, theirs = channel
    theirs.setblocking(False)
    with pytest.raises(DescriptorMessageError):
        descriptors.send(ours, b"x", [pipe[0]] * (DESCRIPTORS_PER_MESSAGE_MAX + 1))
    with pytest.raises(BlockingIOError):
        descriptors.receive(theirs)


@pytest.mark.parametrize("count", [DESCRIPTORS_PER_MESSAGE_MAX + 1, 9, 10, 64, 253])
def test_surplus_descriptors_are_closed(
    channel: Channel, pipe: tuple[int, int], count: int
) -> None:
    ours, theirs = channel
    before = open_descriptors()
    send_raw(ours, b"x", [pipe[0]] * count)
    with pytest.raises(DescriptorMessageError):
        descriptors.receive(theirs)
    assert open_descriptors() == before


@pytest.mark.parametrize(("most", "count"), [(0, 1), (1, 2), (1, 8)])
def test_more_than_the_receiver_wants_are_closed(
    channel: Channel, pipe: tuple[int, int], most: int, count: int
) -> None:
    ours, theirs = channel
    before = open_descriptors()
    descriptors.send(ours, b"x", [pipe[0]] * count)
    with pytest.raises(DescriptorMessageError):
        descriptors.receive(theirs, most)
    assert open_descriptors() == before


@pytest.mark.parametrize("size", [DESCRIPTOR_MESSAGE_BYTES_MAX + 1, 100_000])
def test_a_message_too_large_is_refused_and_the_next_is_whole(
    channel: Channel, pipe: tuple[int, int], size: int
) -> None:
    ours, theirs = channel
    before = open_descriptors()
    send_raw(ours, bytes(size), [pipe[0], pipe[1]])
    descriptors.send(ours, b"next")
    with pytest.raises(DescriptorMessageError):
        descriptors.receive(theirs)
    assert open_descriptors() == before
    assert descriptors.receive(theirs) == (b"next", [])


def test_an_empty_message_is_an_end_and_its_descriptors_are_closed(
    channel: Channel, pipe: tuple[int, int]
) -> None:
    ours, theirs = channel
    before = open_descriptors()
    send_raw(ours, b"", [pipe[0]])
    with pytest.raises(EOFError):
        descriptors.receive(theirs)
    assert open_descriptors() == before


def test_the_end_comes_after_what_was_sent(channel: Channel, pipe: tuple[int, int]) -> None:
    ours, theirs = channel
    descriptors.send(ours, b"last", [pipe[0]])
    ours.close()
    payload, (passed,) = descriptors.receive(theirs)
    os.close(passed)
    assert payload == b"last"
    with pytest.raises(EOFError):
        descriptors.receive(theirs)
    with pytest.raises(BrokenPipeError):
        descriptors.send(theirs, b"x")


def test_a_full_channel_that_does_not_block_says_so(
    channel: Channel, pipe: tuple[int, int]
) -> None:
    ours, _ = channel
    ours.setblocking(False)

    def fill() -> None:
        while True:
            descriptors.send(ours, bytes(DESCRIPTOR_MESSAGE_BYTES_MAX), [pipe[0]])

    with pytest.raises(BlockingIOError):
        fill()


def test_what_was_never_received_is_closed_with_the_channel(pipe: tuple[int, int]) -> None:
    before = open_descriptors()
    ours, theirs = descriptors.pair()
    alone, writer = os.pipe()
    descriptors.send(ours, b"x", [writer])
    os.close(writer)
    ours.close()
    theirs.close()
    assert os.read(alone, 1) == b""  # the copy in the queue is gone too
    os.close(alone)
    assert open_descriptors() == before
