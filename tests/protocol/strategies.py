"""Hypothesis strategies for frames and for what only looks like them."""

from itertools import pairwise

from hypothesis import strategies as st

from protocol import frames, limits

call_ids = st.integers(1, 2**53 - 1)
bodies = st.binary(max_size=64)
topics = st.text(max_size=limits.METHOD_NAME_CHARS_MAX)

any_frame: st.SearchStrategy[frames.Frame] = st.one_of(
    st.builds(
        frames.Call,
        call_ids,
        topics,
        bodies,
        st.integers(0, limits.SCOPE_BITS_MAX),
        st.integers(0, limits.STREAM_CREDIT_MAX),
        st.none() | st.text(max_size=limits.IDEMPOTENCY_KEY_CHARS_MAX),
    ),
    st.builds(frames.Result, call_ids, bodies),
    st.builds(
        frames.Failure, call_ids, st.text(max_size=64), st.text(max_size=100), details=bodies
    ),
    st.builds(frames.Chunk, call_ids, bodies),
    st.builds(frames.End, call_ids, bodies),
    st.builds(frames.Credit, call_ids, st.integers(1, limits.STREAM_CREDIT_MAX)),
    st.builds(frames.Cancel, call_ids),
    st.builds(frames.Event, topics, bodies),
    st.builds(frames.Ping, call_ids),
    st.builds(frames.Pong, call_ids),
    st.builds(frames.Drain, st.floats(0, limits.DRAIN_SECONDS_MAX)),
    st.just(frames.Drained()),
)

any_message_pack = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=True)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut `data` at `places`, taken modulo its length."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]
