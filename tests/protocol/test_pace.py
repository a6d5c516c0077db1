"""A bucket that fills with time."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.pace import Pace


def test_a_full_bucket_and_what_flows_in() -> None:
    pace = Pace(per_second=2, most=3)
    assert [pace.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert pace.take(10.5)
    assert not pace.take(10.5)
    assert pace.take(100.0, 3)
    assert not pace.take(100.0)


def test_what_does_not_fit_takes_nothing() -> None:
    pace = Pace(per_second=1, most=5)
    assert not pace.take(0.0, 6)
    assert pace.take(0.0, 5)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    pace = Pace(per_second=1, most=1)
    assert pace.take(10.0)
    assert not pace.take(5.0)
    assert not pace.take(10.5)
    assert pace.take(11.0)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20)), max_size=50))
def test_never_more_than_the_bucket_and_what_flowed_in(asked: list[tuple[float, float]]) -> None:
    pace = Pace(per_second=3, most=10)
    asked.sort()
    taken = sum(count for now, count in asked if pace.take(now, count))
    span = asked[-1][0] - asked[0][0] if asked else 0
    assert taken <= 10 + 3 * span + 1e-6
