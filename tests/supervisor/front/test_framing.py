"""Whole messages are read and written as the library's state machine does it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from supervisor.front import framing

sizes = st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
BYTES_MAX = 100_000


def by_the_library(data: bytes) -> Frame | None:
    """The frame, if the state machine takes `data` for that and nothing else."""
    server = Protocol(Side.SERVER, state=State.OPEN, max_size=BYTES_MAX)
    server.receive_data(data)
    events = server.events_received()
    if server.parser_exc is not None or len(events) != 1 or server.reader.buffer:
        return None
    (event,) = events
    assert isinstance(event, Frame)
    return event


def sent(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


@given(sizes, st.sampled_from([Opcode.TEXT, Opcode.BINARY]))
def test_what_is_written_is_what_the_library_writes(size: int, opcode: Opcode) -> None:
    data = b"x" * size
    assert framing.written(opcode, data) == Frame(opcode, data).serialize(mask=False)


@given(sizes)
def test_what_is_read_is_what_the_library_reads(size: int) -> None:
    data = sent(Opcode.TEXT, b"y" * size)
    read = framing.read(data, BYTES_MAX)
    assert read == (by_the_library(data) if size < 65_536 else None)
    assert framing.size_of(Frame(Opcode.TEXT, b"y" * size)) == len(data)
    assert framing.read(data, size - 1) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        sent(Opcode.TEXT, b"begun", fin=False),
        sent(Opcode.CONT, b"ended"),
        sent(Opcode.BINARY, b"data"),
        sent(Opcode.PING, b"ping"),
        sent(Opcode.CLOSE, b"\x03\xe8"),
        sent(Opcode.TEXT, b"one") * 2,
        sent(Opcode.TEXT, b"cut off")[:-1],
        sent(Opcode.TEXT, b"x" * 300)[:3],
        Frame(Opcode.TEXT, b"not masked").serialize(mask=False),
        b"\xc1\x80" + bytes(4),
    ],
)
def test_everything_else_is_the_libraries(data: bytes) -> None:
    assert framing.read(data, BYTES_MAX) is None


@given(st.binary(max_size=12), st.binary(max_size=8))
def test_whatever_comes_is_read_as_the_library_does_or_not_at_all(start: bytes, end: bytes) -> None:
    for data in (start, b"\x81" + start, b"\x81\x85" + start + end, b"\x81\xfe\x00" + start):
        read = framing.read(data, BYTES_MAX)
        assert read is None or read == by_the_library(data)
