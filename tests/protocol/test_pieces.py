"""Many bytes in pieces are the same bytes, wherever they are cut."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.codec import FrameDecoder, encode_apart
from protocol.frames import Call
from protocol.pieces import Pieces

sizes = st.lists(
    st.integers(0, 100) | st.integers(limits.PIECE_BYTES - 3, limits.PIECE_BYTES + 3), max_size=12
)


def pieces_of(counts: list[int]) -> tuple[Pieces, bytes]:
    found, whole = Pieces(), b""
    letters = itertools.cycle(b"abcdefg")
    for count in counts:
        piece = bytes(itertools.islice(letters, count))
        found.add(piece)
        whole += piece
    return found, whole


@given(sizes, st.integers(0, 200_000), st.integers(0, 200_000))
def test_pieces_are_the_bytes_that_were_added(counts: list[int], begin: int, end: int) -> None:
    found, whole = pieces_of(counts)
    assert (bytes(found), len(found)) == (whole, len(whole))
    cut = found.cut(begin, end)
    assert (bytes(cut), len(cut)) == (whole[begin:end], len(whole[begin:end]))


def test_what_comes_byte_by_byte_is_kept_in_few_pieces() -> None:
    found, _ = pieces_of([1] * 3 * limits.PIECE_BYTES)
    assert len(found.pieces) <= 3


@given(sizes, st.integers(0, 255), st.integers(0, 256), st.none() | st.text(max_size=200))
def test_a_call_whose_params_are_in_pieces_is_the_same_call(
    counts: list[int], scopes: int, credit: int, key: str | None
) -> None:
    found, whole = pieces_of(counts)
    wire = b"".join(encode_apart(Call(7, "a.method", b"", scopes, credit, key), found))
    assert list(FrameDecoder().feed(wire)) == [Call(7, "a.method", whole, scopes, credit, key)]
