"""The windows of quotas, against the calendar; and the one refusal of what goes over a limit."""

from datetime import UTC, datetime, timedelta
from typing import Final, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import quotas
from protocol.quotas import Metric, Quota, Reached

_STEPS: Final = {
    "requestsPerMinute": timedelta(minutes=1),
    "requestsPerHour": timedelta(hours=1),
    "tokensPerDay": timedelta(days=1),
    "costPerDayMicroUsd": timedelta(days=1),
}
MOMENTS: Final = st.integers(915148800, 7258118400).map(lambda at: datetime.fromtimestamp(at, UTC))


def _ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _truncated(moment: datetime, metric: str) -> datetime:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if metric not in _STEPS:
        return midnight.replace(day=1)
    if metric == "requestsPerMinute":
        return moment.replace(second=0, microsecond=0)
    if metric == "requestsPerHour":
        return moment.replace(minute=0, second=0, microsecond=0)
    return midnight


@given(MOMENTS, st.sampled_from([metric for metric in get_args(Metric) if "Runs" not in metric]))
def test_a_window_ends_where_the_calendar_says(moment: datetime, metric: Metric) -> None:
    begun = _truncated(moment, metric)
    after = begun + _STEPS.get(metric, timedelta(days=31))
    if metric not in _STEPS:
        after = after.replace(day=1)  # the first of the next month, however long this one is
    end = quotas.window_end(metric, _ms(moment))
    assert end == _ms(after)
    assert quotas.window_end(metric, end - 1) == end
    assert quotas.window_end(metric, end) > end


@pytest.mark.parametrize("metric", get_args(Metric))
def test_every_metric_is_a_field(metric: Metric) -> None:
    assert quotas.limit_of(Quota(), metric) is None
    assert quotas.limit_of(msgspec.convert({metric: 0}, Quota), metric) == 0


@given(st.integers(0, 2**53), st.none() | st.integers(1, 100))
def test_the_warning_begins_at_its_part_of_the_limit(limit: int, percent: int | None) -> None:
    soft = quotas.soft_limit(Quota(soft_percent=percent), limit)
    share = (percent or 80) * limit
    assert soft <= limit
    assert soft * 100 >= share > (soft - 1) * 100 or limit == soft == 0


def test_the_refusal_says_all_that_a_client_needs() -> None:
    reached = Reached(metric="tokensPerDay", limit=5, used=7, resets_at_ms=86_400_000)
    error = quotas.exceeded(reached, 86_399_000)
    assert error.code.http_status == 429
    assert error.body().data == {
        "code": "QUOTA_EXCEEDED",
        "metric": "tokensPerDay",
        "limit": 5,
        "used": 7,
        "nextWindowAt": "1970-01-02T00:00:00.000Z",
        "retryAfterMs": 1000,
        "retryable": True,
    }
