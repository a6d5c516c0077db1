"""What the front may say of itself, and what is refused of it."""

from bisect import bisect_left
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.meters import LAG_BOUNDS, LATENCY_BOUNDS, FrontMeters, Histogram, lag, latency


@given(st.lists(st.floats(0, 100)))
def test_every_observation_is_counted_once(observed: list[float]) -> None:
    histogram = latency()
    for seconds in observed:
        histogram.observe(seconds)
    assert sum(histogram.counts) == len(observed)
    assert histogram.total == pytest.approx(sum(observed))
    for place, bound in enumerate(LATENCY_BOUNDS):
        below = sum(seconds <= bound for seconds in observed)
        assert sum(histogram.counts[: place + 1]) == below
        assert bisect_left(LATENCY_BOUNDS, bound) == place


def test_what_is_counted_arrives_as_it_was() -> None:
    meters = FrontMeters(auth_failures=2, connections=3)
    for status, seconds in ((200, 0.002), (200, 0.2), (404, 99.0)):
        meters.answered("rpc", status, seconds)
    meters.answered("ws", 101, 0.0)
    meters.loop_lag.observe(0.004)
    assert meters.answers["rpc"].statuses == {200: 2, 404: 1}
    assert meters.answers["rpc"].seconds.counts[-1] == 1
    assert msgspec.json.decode(msgspec.json.encode(meters), type=FrontMeters) == meters
    assert FrontMeters().answers == {}  # nothing is shared
    assert sum(lag().counts) == 0


@pytest.mark.parametrize(
    "said",
    [
        {"answers": {"/a/path": {}}},
        {"answers": {"rpc": {"statuses": {"7": 1}}}},
        {"answers": {"rpc": {"statuses": {"200": -1}}}},
        {"answers": {"rpc": {"statuses": {"acme": 1}}}},
        {"loop_lag": {"bounds": [1.0, 2.0], "counts": [1, 2, 3]}},
        {"loop_lag": {"bounds": LAG_BOUNDS, "counts": [1]}},
        {"hold_seconds": {"bounds": LATENCY_BOUNDS, "counts": ["1"] * 12}},
        {"held": -1},
    ],
)
def test_a_front_cannot_say_what_is_no_number_of_ours(said: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(said), type=FrontMeters)


def test_a_histogram_has_bounds_that_we_know() -> None:
    with pytest.raises(ValueError, match="bounds"):
        Histogram(bounds=(1.0,))
