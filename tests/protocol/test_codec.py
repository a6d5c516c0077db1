"""Bytes to frames and back, cut anywhere, damaged anywhere."""

import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import frames, limits
from protocol.codec import FrameDecoder, encode, encode_into
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frames import Frame
from tests.protocol.strategies import any_frame, any_message_pack, cut

places = st.lists(st.integers(0, 2**16), max_size=12)
# The body of the largest Result: tag, id and the header of a long byte string take 8 bytes.
BODY_MAX = limits.FRAME_BYTES_MAX - 8


def feed_all(decoder: FrameDecoder, pieces: list[bytes]) -> list[Frame]:
    return [frame for piece in pieces for frame in decoder.feed(piece)]


@given(st.lists(any_frame, max_size=8), places)
def test_any_frames_cut_anywhere_come_back(sent: list[Frame], where: list[int]) -> None:
    decoder = FrameDecoder()
    pieces = cut(b"".join(map(encode, sent)), where)
    assert feed_all(decoder, pieces) == sent
    assert decoder.pending_bytes == 0


@given(st.lists(any_frame, min_size=1, max_size=3))
def test_byte_by_byte(sent: list[Frame]) -> None:
    decoder = FrameDecoder()
    data = b"".join(map(encode, sent))
    assert feed_all(decoder, [data[i : i + 1] for i in range(len(data))]) == sent


@given(st.lists(any_frame, max_size=5))
def test_appended_frames_are_those_encoded_alone(sent: list[Frame]) -> None:
    buffer = bytearray(b"before")
    for frame in sent:
        encode_into(buffer, frame)
    assert bytes(buffer) == b"before" + b"".join(map(encode, sent))


@given(st.lists(any_frame, max_size=3), any_frame, st.data())
def test_an_incomplete_frame_is_kept_until_the_rest_comes(
    before: list[Frame], last: Frame, data: st.DataObject
) -> None:
    decoder = FrameDecoder()
    wire = encode(last)
    held = data.draw(st.integers(0, len(wire) - 1))
    assert feed_all(decoder, [b"".join(map(encode, before)) + wire[:held]]) == before
    assert decoder.pending_bytes == held
    assert feed_all(decoder, [wire[held:]]) == [last]


def read_or_refuse(pieces: list[bytes]) -> None:
    """Nothing but frames or RemoteProtocolError may come of it, and an error keeps nothing."""
    decoder = FrameDecoder()
    try:
        for frame in feed_all(decoder, pieces):
            assert isinstance(frame, Frame)
    except RemoteProtocolError:
        assert decoder.pending_bytes == 0
    else:
        assert decoder.pending_bytes <= sum(map(len, pieces))


@given(st.binary(max_size=300), places)
def test_any_bytes(data: bytes, where: list[int]) -> None:
    read_or_refuse(cut(data, where))


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_bytes_of_honest_length(bodies: list[bytes]) -> None:
    read_or_refuse([len(body).to_bytes(4, "little") + body for body in bodies])


@given(any_message_pack)
def test_any_message_pack(value: object) -> None:
    body = msgspec.msgpack.encode(value)
    read_or_refuse([len(body).to_bytes(4, "little") + body])


@given(
    st.lists(any_frame, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4),
    places,
)
def test_damaged_frames(sent: list[Frame], damage: list[tuple[int, int]], where: list[int]) -> None:
    data = bytearray(b"".join(map(encode, sent)))
    for place, byte in damage:
        data[place % len(data)] = byte
    read_or_refuse(cut(bytes(data), where))


@given(st.integers(limits.FRAME_BYTES_MAX + 1, 2**32 - 1), st.binary(max_size=16))
def test_a_length_over_the_bound_is_refused_when_it_is_read(size: int, rest: bytes) -> None:
    decoder = FrameDecoder()
    prefix = size.to_bytes(4, "little")
    assert feed_all(decoder, [encode(frames.Drained()), prefix[:3]]) == [frames.Drained()]
    with pytest.raises(RemoteProtocolError, match="over the bound"):
        feed_all(decoder, [prefix[3:] + rest])
    assert decoder.pending_bytes == 0


def test_frames_before_a_bad_one_are_given_out() -> None:
    reader = FrameDecoder().feed(encode(frames.Ping(1)) + b"\0\0\0\0")
    assert next(reader) == frames.Ping(1)
    with pytest.raises(RemoteProtocolError):
        next(reader)


def test_an_iteration_given_up_forgets_only_what_was_given_out() -> None:
    decoder = FrameDecoder()
    reader = decoder.feed(encode(frames.Ping(1)) + encode(frames.Ping(2)))
    assert next(reader) == frames.Ping(1)
    del reader
    assert list(decoder.feed(b"")) == [frames.Ping(2)]


def test_a_frame_at_the_bound_in_network_sized_pieces() -> None:
    wire = encode(frames.Result(1, bytes(BODY_MAX)))
    assert len(wire) == 4 + limits.FRAME_BYTES_MAX
    decoder = FrameDecoder()
    got: list[Frame] = []
    for start in range(0, len(wire), 256 * 1024):
        got += decoder.feed(wire[start : start + 256 * 1024])
        assert decoder.pending_bytes <= 4 + limits.FRAME_BYTES_MAX
    assert got == [frames.Result(1, bytes(BODY_MAX))]
    assert decoder.pending_bytes == 0


def test_a_frame_that_comes_byte_by_byte_costs_what_it_weighs() -> None:
    size = 100_000
    wire = encode(frames.Result(1, bytes(size)))
    decoder = FrameDecoder()
    tracemalloc.start()
    try:
        for place in range(size):
            assert list(decoder.feed(wire[place : place + 1])) == []
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * size


def test_a_frame_over_the_bound_is_not_sent() -> None:
    buffer = bytearray(b"before")
    with pytest.raises(LocalProtocolError, match="over the bound"):
        encode_into(buffer, frames.Result(1, bytes(BODY_MAX + 1)))
    assert buffer == b"before"


def test_the_largest_call_of_a_client_fits_a_frame() -> None:
    widest = "\U0010ffff"
    body = b'{"account":"%b","envelope":%b}' % (b"a" * 64, bytes(limits.HTTP_BODY_BYTES_MAX))
    call = frames.Call(
        2**53 - 1,
        widest * limits.METHOD_NAME_CHARS_MAX,
        body,
        limits.SCOPE_BITS_MAX,
        limits.STREAM_CREDIT_MAX,
        widest * limits.IDEMPOTENCY_KEY_CHARS_MAX,
    )
    assert list(FrameDecoder().feed(encode(call))) == [call]


@pytest.mark.parametrize(
    "frame",
    [
        frames.Event("\ud800", b""),
        frames.Failure(1, "INTERNAL", "caf\udce9"),
        frames.Cancel(2**64),
        frames.Cancel(-(2**63) - 1),
    ],
)
def test_what_has_no_wire_form_leaves_no_trace(frame: Frame) -> None:
    buffer = bytearray(b"before")
    with pytest.raises(LocalProtocolError, match="cannot be written"):
        encode_into(buffer, frame)
    assert buffer == b"before"


@settings(max_examples=20)
@given(st.integers(1, 200_000))
def test_many_small_frames_in_one_piece(count: int) -> None:
    count = count % 5_000
    decoder = FrameDecoder()
    assert sum(1 for _ in decoder.feed(encode(frames.Drained()) * count)) == count
    assert decoder.pending_bytes == 0
