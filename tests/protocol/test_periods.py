"""Periods and their names, against the calendar of the standard library."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import periods
from protocol.periods import DAY_MS, Period, PeriodError, moment, period, span


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOW = ms("2024-03-01T00:00:00.000")


@pytest.mark.parametrize(
    ("name", "first", "end"),
    [
        ("today", "2024-03-01", "2024-03-02"),
        ("yesterday", "2024-02-29", "2024-03-01"),
        ("current-month", "2024-03-01", "2024-04-01"),
        ("last-month", "2024-02-01", "2024-03-01"),
        ("2023-12", "2023-12-01", "2024-01-01"),
        ("2023-12-31", "2023-12-31", "2024-01-01"),
        ("1970-01-01", "1970-01-01", "1970-01-02"),
    ],
)
def test_names(name: str, first: str, end: str) -> None:
    assert period(name, NOW) == Period(ms(first), ms(end))
    assert period(name, NOW).whole_days


@pytest.mark.parametrize(("at", "today"), [(-1, "2024-02-29"), (0, "2024-03-01")])
def test_midnight_begins_a_day(at: int, today: str) -> None:
    assert period("today", NOW + at) == period(today, 0)
    assert period("current-month", NOW + at) == period(today[:7], 0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "2026", "2026-13", "2026-00", "2026-2-3", "2026-02-30", "1969-12", "0000-01"),
        *("9999-01", "2026-11\n", "\uff12026-11", "today ", "2026-11-03T00:00:00Z", "2026-11-031"),
    ],
)
def test_what_is_none_is_named_with_those_there_are(text: str) -> None:
    with pytest.raises(PeriodError, match="current-month, last-month, today") as refused:
        period(text, NOW)
    assert str(refused.value).startswith(ascii(text)[:20])


@given(st.dates(date(1970, 1, 1), date(9998, 12, 31)))
def test_every_day_and_its_month(day: date) -> None:
    start = (day - date(1970, 1, 1)).days * DAY_MS
    assert period(day.isoformat(), 0) == Period(start, start + DAY_MS)
    assert periods.day_of(start) == periods.day_of(start + DAY_MS - 1) == day.isoformat()
    month = period(day.isoformat()[:7], 0)
    assert month.start_ms <= start < month.end_ms
    following = (day.replace(day=1) + timedelta(days=31)).replace(day=1)
    assert month.end_ms == (following - date(1970, 1, 1)).days * DAY_MS


def test_spans_hold_both_of_their_days() -> None:
    assert span("2024-02-28", "2024-03-01", NOW, 30) == Period(ms("2024-02-28"), ms("2024-03-02"))
    assert span(None, None, NOW, 30) == Period(ms("2024-02-01"), ms("2024-03-02"))
    assert span(None, "2024-01-10", NOW, 1) == Period(ms("2024-01-10"), ms("2024-01-11"))
    for first, last in (("2024-03-02", "2024-03-01"), ("x", None), (None, "2024-02-30")):
        with pytest.raises(PeriodError):
            span(first, last, NOW, 30)


def test_moments() -> None:
    assert moment("2024-03-01") == NOW
    assert moment("2024-02-29", ends=True) == NOW
    assert moment("2024-03-01T02:00:00+02:00", ends=True) == NOW
    assert moment("2024-03-01T00:00:00Z") == moment("2024-03-01T00:00:00") == NOW
    for text in ("", "yesterday", "2024-02-30", "0001-01-01T00:00:00+14:00"):
        with pytest.raises(PeriodError, match="is no"):
            moment(text)


def test_months_back_go_over_the_year_and_end_where_time_begins() -> None:
    assert [name for name, _ in periods.months_back(NOW, 4)] == [
        *("2024-03", "2024-02", "2024-01", "2023-12"),
    ]
    assert [name for name, _ in periods.months_back(0, 3)] == ["1970-01"]
