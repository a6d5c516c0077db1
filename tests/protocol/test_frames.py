"""What a frame may hold on the wire: every field at its bound, over it, and of the wrong type."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import frames
from protocol.codec import FrameDecoder, encode
from protocol.errors import RemoteProtocolError

ID_MAX = 2**53 - 1
SURPLUS: list[Any] = [None, 0, b"", []]
Text, Bytes, Int, Float, Optional = (str,), (bytes,), (int,), (float, int), (str, type(None))
Bool = (bool,)

# By class: an example on the wire, the types each field takes, how many fields must be there.
WIRE: dict[type, tuple[list[Any], list[tuple[type, ...]], int]] = {
    frames.Call: ([1, 1, "m", b"{}", 0, 0, None], [Int, Text, Bytes, Int, Int, Optional], 3),
    frames.Result: ([2, 1, b"1"], [Int, Bytes], 2),
    frames.Failure: ([3, 1, "INTERNAL", "no", b"{}"], [Int, Text, Text, Bytes], 3),
    frames.Chunk: ([4, 1, b"x", False], [Int, Bytes, Bool], 2),
    frames.End: ([5, 1, b"1"], [Int, Bytes], 2),
    frames.Credit: ([6, 1, 1], [Int, Int], 2),
    frames.Cancel: ([7, 1], [Int], 1),
    frames.Event: ([8, "t", b"1"], [Text, Bytes], 2),
    frames.Ping: ([9, 1], [Int], 1),
    frames.Pong: ([10, 1], [Int], 1),
    frames.Drain: ([11, 1.0], [Float], 1),
    frames.Drained: ([12], [], 0),
}

BOUNDS: list[tuple[type, int, list[Any], list[Any]]] = [
    *[
        (kind, 1, [1, ID_MAX], [0, -1, ID_MAX + 1, 2**64 - 1])
        for kind in (
            *(frames.Call, frames.Result, frames.Failure, frames.Chunk, frames.End),
            *(frames.Credit, frames.Cancel, frames.Ping, frames.Pong),
        )
    ],
    (frames.Call, 2, ["", "m" * 64, "é" * 64], ["m" * 65]),
    (frames.Call, 4, [0, 255], [-1, 256]),
    (frames.Call, 5, [0, 256], [-1, 257]),
    (frames.Call, 6, [None, "", "k" * 200], ["k" * 201]),
    (frames.Failure, 2, ["", "C" * 64], ["C" * 65]),
    (frames.Failure, 3, ["", "m" * 4096], ["m" * 4097]),
    (frames.Chunk, 2, [b"", bytes(65536)], [bytes(65537)]),
    (frames.Credit, 2, [1, 256], [0, -1, 257]),
    (frames.Event, 1, ["", "t" * 64], ["t" * 65]),
    (frames.Drain, 1, [0, 0.0, 3600, 3600.0], [-0.001, 3600.001, float("inf"), float("nan")]),
]


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


def read(value: Any) -> list[frames.Frame]:
    return list(FrameDecoder().feed(framed(msgspec.msgpack.encode(value))))


def refused(value: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        read(value)


def test_the_tables_here_are_complete() -> None:
    kinds = set(frames.Frame.__args__)
    assert set(WIRE) == kinds
    for kind, (example, types, _) in WIRE.items():
        assert len(example) == len(types) + 1 == len(msgspec.structs.fields(kind)) + 1
    assert sorted(example[0] for example, _, _ in WIRE.values()) == list(range(1, 13))


@pytest.mark.parametrize("kind", WIRE, ids=lambda kind: kind.__name__)
def test_wire_form_is_a_tagged_array(kind: type) -> None:
    example, _, _ = WIRE[kind]
    (frame,) = read(example)
    assert type(frame) is kind
    assert msgspec.msgpack.decode(encode(frame)[4:]) == example


def test_wire_form_to_the_byte() -> None:
    call = frames.Call(7, "sessions.list", b"{}", 5, 16, "k")
    assert encode(call) == b"\x19\0\0\0\x97\x01\x07\xadsessions.list\xc4\x02{}\x05\x10\xa1k"


@pytest.mark.parametrize("kind", WIRE, ids=lambda kind: kind.__name__)
def test_fields_left_out_or_too_many(kind: type) -> None:
    example, types, required = WIRE[kind]
    for count in range(len(types) + 1):
        if count >= required:
            assert len(read(example[: count + 1])) == 1
        else:
            refused(example[: count + 1])
    for surplus in SURPLUS:
        refused([*example, surplus])


@pytest.mark.parametrize("kind", WIRE, ids=lambda kind: kind.__name__)
def test_a_field_of_another_type_is_refused(kind: type) -> None:
    example, types, _ = WIRE[kind]
    others: list[Any] = [None, True, 1, 1.5, "x", b"x", [], {}, msgspec.msgpack.Ext(1, b"x")]
    for place, allowed in enumerate(types, start=1):
        for other in others:
            if type(other) not in allowed:
                refused([*example[:place], other, *example[place + 1 :]])


@pytest.mark.parametrize(
    ("kind", "place", "good", "bad"), BOUNDS, ids=lambda v: getattr(v, "__name__", None)
)
def test_bounds(kind: type, place: int, good: list[Any], bad: list[Any]) -> None:
    example, _, _ = WIRE[kind]
    for value in good:
        assert type(read([*example[:place], value, *example[place + 1 :]])[0]) is kind
    for value in bad:
        refused([*example[:place], value, *example[place + 1 :]])


@given(st.integers(-(2**63), 2**64 - 1).filter(lambda tag: not 1 <= tag <= 12))
def test_unknown_tags_are_refused(tag: int) -> None:
    refused([tag])
    refused([tag, 1, b"1"])


@pytest.mark.parametrize("tag", [None, True, 1.0, "1", "Call", b"\x01", [1]])
def test_a_tag_is_an_integer(tag: Any) -> None:
    refused([tag, 1])


@pytest.mark.parametrize("value", [None, 12, "x", b"x", [], {}, {"type": 12}])
def test_a_frame_is_an_array(value: Any) -> None:
    refused(value)


@pytest.mark.parametrize(
    "body",
    [
        b"\x92\x08\xa2\xff\xfe\xc4\x00",  # two fields announced, three there, text not UTF-8
        b"\x93\x08\xa2\xff\xfe\xc4\x00",  # text that is not UTF-8
        b"\x93\x08\xa3\xed\xa0\x80\xc4\x00",  # a lone surrogate
        b"\x91\x0c\x00",  # a byte after the value
        b"\xdd\xff\xff\xff\xff\x0c",  # four billion fields announced
        b"\x93\x02\x01\xc6\xff\xff\xff\xff",  # four billion bytes announced
        b"\xc1",  # never used in MessagePack
        b"",
        b"\x91" * 100_000,
    ],
)
def test_malformed_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        list(FrameDecoder().feed(framed(body)))
