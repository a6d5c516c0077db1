"""Spans of time that bills are made for, in UTC: their names, and what they mean.

A period is `current-month`, `last-month`, `today`, `yesterday`, a month (`2026-11`) or a day
(`2026-11-03`). Days and months are those of UTC.
"""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple

DAY_MS: Final = 86_400_000
PERIOD_CHARS_MAX: Final = 32
PERIODS_SHOWN: Final = (
    "current-month, last-month, today, yesterday, a month (2026-11) or a day (2026-11-03)"
)
_MONTH: Final = re.compile(r"[0-9]{4}-[0-9]{2}", re.ASCII)
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_YEAR_MIN: Final = 1970
_YEAR_MAX: Final = 9998


class PeriodError(ValueError):
    """The text names no period; the message says which ones there are."""


class Period(NamedTuple):
    """From `start_ms` on, and before `end_ms`: Unix ms."""

    start_ms: int
    end_ms: int

    @property
    def whole_days(self) -> bool:
        """Whether it begins and ends at midnight."""
        return not self.start_ms % DAY_MS and not self.end_ms % DAY_MS


def period(text: str, now_ms: int) -> Period:
    """Give the period of a name.

    Args:
        text: See the module.
        now_ms: What `current-month` and its like are seen from, Unix ms.

    Raises:
        PeriodError: it is none.
    """
    today = datetime.fromtimestamp(now_ms / 1000, UTC).date()
    match text:
        case "today":
            return _days(today, today)
        case "yesterday":
            yesterday = today - timedelta(days=1)
            return _days(yesterday, yesterday)
        case "current-month":
            return month(today.year, today.month)
        case "last-month":
            last = today.replace(day=1) - timedelta(days=1)
            return month(last.year, last.month)
    try:
        if _MONTH.fullmatch(text):
            first = _date(f"{text}-01")
            return month(first.year, first.month)
        if _DAY.fullmatch(text):
            return _days(_date(text), _date(text))
    except ValueError:
        pass
    msg = f"{text[:PERIOD_CHARS_MAX]!a} is no period; there are {PERIODS_SHOWN}"
    raise PeriodError(msg)


def span(first: str | None, last: str | None, now_ms: int, days: int) -> Period:
    """Give the period from one day to another, both of them included.

    Args:
        first: A day; None: so many `days` up to the last one.
        last: A day; None: today.
        now_ms: What today is seen from, Unix ms.
        days: See `first`.

    Raises:
        PeriodError: a day is none, or the last is before the first.
    """
    end = day(last) if last is not None else datetime.fromtimestamp(now_ms / 1000, UTC).date()
    start = day(first) if first is not None else end - timedelta(days=days - 1)
    if start > end:
        msg = f"it ends ({end}) before it begins ({start})"
        raise PeriodError(msg)
    return _days(start, end)


def moment(text: str, *, ends: bool = False) -> int:
    """Give a moment in Unix ms: a day, or a time of day as RFC 3339 writes it.

    Args:
        text: A time without an offset is UTC.
        ends: Of a day take its end, the midnight after it.

    Raises:
        PeriodError: it is neither.
    """
    if _DAY.fullmatch(text):
        days = _days(day(text), day(text))
        return days.end_ms if ends else days.start_ms
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or not _YEAR_MIN < at.year <= _YEAR_MAX:
        msg = f"{text[:PERIOD_CHARS_MAX]!a} is no moment: 2026-11-03 or 2026-11-03T12:00:00Z"
        raise PeriodError(msg)
    return round(at.replace(tzinfo=at.tzinfo or UTC).timestamp() * 1000)


def day(text: str) -> date:
    """Give a day (`2026-11-03`).

    Raises:
        PeriodError: it is none.
    """
    try:
        if _DAY.fullmatch(text):
            return _date(text)
    except ValueError:
        pass
    msg = f"{text[:PERIOD_CHARS_MAX]!a} is no day, as in 2026-11-03"
    raise PeriodError(msg)


def month(year: int, number: int) -> Period:
    """Give a month: 1 is January."""
    start = date(year, number, 1)
    following = (start + timedelta(days=31)).replace(day=1)
    return _days(start, following - timedelta(days=1))


def months_back(now_ms: int, count: int) -> list[tuple[str, Period]]:
    """Give this month and those before it, `count` in all, newest first, each with its name."""
    first = datetime.fromtimestamp(now_ms / 1000, UTC).date().replace(day=1)
    found = []
    for _ in range(count):
        found.append((first.strftime("%Y-%m"), month(first.year, first.month)))
        if first.year <= _YEAR_MIN and first.month == 1:
            break
        first = (first - timedelta(days=1)).replace(day=1)
    return found


def day_of(at_ms: int) -> str:
    """Write the day of a moment, Unix ms, as `2026-11-03`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")


def _date(text: str) -> date:
    found = date.fromisoformat(text)
    if not _YEAR_MIN <= found.year <= _YEAR_MAX:
        raise ValueError(text)
    return found


def _days(first: date, last: date) -> Period:
    return Period(_midnight_ms(first), _midnight_ms(last + timedelta(days=1)))


def _midnight_ms(of: date) -> int:
    return (of - date(1970, 1, 1)).days * DAY_MS
