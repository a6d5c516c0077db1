"""Server-sent events, torn at any byte, with any line end, within their bounds."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.egress import sse
from supervisor.egress.sse import Decoder, Event, SSEError

field_text = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20)
names = st.text("abcdefgh_", max_size=8)


def decoded(*pieces: bytes) -> list[Event]:
    decoder = Decoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"data: a\n\n", [Event(b"", b"a")]),
        (b"data:a\n\n", [Event(b"", b"a")]),
        (b"data:  a \n\n", [Event(b"", b" a ")]),
        (b"event: x\ndata: a\ndata: b\n\n", [Event(b"x", b"a\nb")]),
        (b"data\n\n", [Event(b"", b"")]),
        (b"data: a\n\n\n\ndata: b\n\n", [Event(b"", b"a"), Event(b"", b"b")]),
        (b": comment\n\n:\n\ndata: a\n\n", [Event(b"", b"a")]),
        (b"event: x\n\ndata: a\n\n", [Event(b"", b"a")]),
        (b"id: 1\nretry: 5\nother: x\nnothing\ndata: a\n\n", [Event(b"", b"a")]),
        (b"data : a\n\nDATA: b\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [Event(b"", b"a")]),
        (b"data: a", []),
        (b"data: a\n", []),
        (b"data: a\r\rdata: b\r\n\r\n", [Event(b"", b"a"), Event(b"", b"b")]),
        (b"data: a\n\rdata: b\r\r\n", [Event(b"", b"a"), Event(b"", b"b")]),
        (b"data: a:b\n\n", [Event(b"", b"a:b")]),
        (b"data: \xff\x00\n\n", [Event(b"", b"\xff\x00")]),
    ],
)  # fmt: skip
def test_it_reads_what_the_standard_says_however_it_is_torn(
    text: bytes, expected: list[Event]
) -> None:
    assert decoded(text) == expected
    assert decoded(*(text[at : at + 1] for at in range(len(text)))) == expected
    for at in range(len(text)):
        assert decoded(text[:at], text[at:]) == expected


@given(
    st.lists(st.tuples(names, st.lists(field_text, min_size=1, max_size=3)), max_size=5),
    st.sampled_from(["\n", "\r", "\r\n"]),
    st.data(),
)
def test_what_was_written_is_read(
    events: list[tuple[str, list[str]]], end: str, data: st.DataObject
) -> None:
    lines: list[str] = []
    for name, values in events:
        lines += [f"event: {name}", ": aside", *(f"data: {value}" for value in values), ""]
    text = "".join(line + end for line in lines).encode()
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=10).map(sorted))
    pieces = [text[begin:stop] for begin, stop in pairwise([0, *cuts, len(text)])]
    assert decoded(*pieces) == [
        Event(name.encode(), "\n".join(values).encode()) for name, values in events
    ]


@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"\r", b"\n", b"data:", b":"])))
def test_any_bytes_are_read_the_same_however_they_are_torn(pieces: list[bytes]) -> None:
    assert decoded(*pieces) == decoded(b"".join(pieces))


def test_a_line_without_end_is_cut_off() -> None:
    decoder = Decoder()
    block = b"a" * 65_536
    for _ in range(sse.LINE_BYTES_MAX // len(block)):
        decoder.feed(block)
    with pytest.raises(SSEError):
        decoder.feed(b"a")


def test_an_event_without_end_is_cut_off() -> None:
    decoder = Decoder()
    line = b"data: " + b"a" * 65_536 + b"\n"
    for _ in range(sse.EVENT_BYTES_MAX // 65_537):
        assert decoder.feed(line) == []
    with pytest.raises(SSEError):
        decoder.feed(line * 2)
