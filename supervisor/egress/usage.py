"""What tenants ask of the ledger: read in threads, beside the one that writes it.

How much one of them can have read is bounded by the time it takes; how many wait, by tenant and in
all.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import apsw
import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.periods import Period
from protocol.usage import (
    Asked,
    DaysAsked,
    DaysUse,
    ModelUse,
    MonthsAsked,
    ProvidersAsked,
    ProviderUse,
    ReportAsked,
    SessionsAsked,
    Use,
)
from supervisor.bills import HEADER, Bills, Mark, Total
from supervisor.egress.ledger_schema import Per
from supervisor.ledger_reading import LedgerError, open_ledger

THREADS: Final = 2
_STEPS: Final = 10_000
"""Of SQLite's machine, about a millisecond: how often it looks at the time."""
_encode: Final = msgspec.json.Encoder().encode
_NONE: Final = GatewayError(ErrorCode.UNAVAILABLE, "usage cannot be read just now; try again")
_TOO_MANY: Final = GatewayError(
    ErrorCode.RATE_LIMITED, "too many questions about usage at a time; try again", retryAfterMs=1000
)
_TOO_LONG: Final = GatewayError(
    ErrorCode.TIMEOUT, f"it took over {limits.USAGE_SECONDS:.0f} s; ask for fewer days"
)


class UsageDesk:
    """Answers.

    Args:
        directory: Where the ledger is.
        own_keys: Gives the providers that a tenant has keys of its own for.
    """

    def __init__(self, directory: Path, own_keys: Callable[[str], frozenset[str]]) -> None:
        self._directory: Final = directory
        self._own_keys: Final = own_keys
        self._threads: Final = ThreadPoolExecutor(THREADS, "usage")
        self._mine: Final = threading.local()
        self._asking: Final[Counter[str]] = Counter()

    def close(self) -> None:
        """Answer no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def answer(self, tenant: str, asked: Asked, since_ms: int = 0) -> bytes:
        """Give what was asked for as JSON.

        What was used before `since_ms` (Unix ms) was used by another tenant of that id, which is
        gone: its rows and days are left out, but that totals of the day itself are whole.

        Raises:
            GatewayError: RATE_LIMITED; TIMEOUT, it is too much; UNAVAILABLE, there is no ledger.
        """
        if (
            self._asking[tenant] >= limits.USAGE_WAITING_PER_TENANT_MAX
            or self._asking.total() >= limits.USAGE_WAITING_MAX
        ):
            raise _TOO_MANY
        self._asking[tenant] += 1
        keys = self._own_keys(tenant)
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(self._threads, self._read, tenant, asked, keys, since_ms)
        # Not when its caller has gone: the thread is busy all the same.
        reading.add_done_callback(lambda _: self._answered(tenant))
        return await asyncio.shield(reading)

    def _answered(self, tenant: str) -> None:
        self._asking[tenant] -= 1
        if not self._asking[tenant]:
            del self._asking[tenant]

    # In a thread.

    def _read(self, tenant: str, asked: Asked, own_keys: frozenset[str], since_ms: int) -> bytes:
        try:
            db, bills = self._opened()
            ends = time.monotonic() + limits.USAGE_SECONDS
            db.set_progress_handler(lambda: time.monotonic() > ends, _STEPS)
            return _answer(bills, tenant, asked, own_keys, since_ms)
        except apsw.InterruptError:
            raise _TOO_LONG from None
        except (apsw.Error, LedgerError):
            raise _NONE from None

    def _opened(self) -> tuple[apsw.Connection, Bills]:
        mine: tuple[apsw.Connection, Bills] | None = getattr(self._mine, "opened", None)
        if mine is None:
            db = open_ledger(self._directory)
            if db is None:
                raise _NONE
            mine = self._mine.opened = db, Bills(db)
        return mine


def _answer(
    bills: Bills, tenant: str, asked: Asked, own_keys: frozenset[str], since_ms: int
) -> bytes:
    match asked:
        case MonthsAsked():
            return _encode(_months(bills, tenant, asked, since_ms))
        case DaysAsked():
            first = max(asked.first, _day_of(since_ms))
            return _encode(_days(bills, tenant, msgspec.structs.replace(asked, first=first)))
        case ProvidersAsked():
            return _encode(_providers(bills, tenant, asked, own_keys, since_ms))
        case ReportAsked():
            start_ms = max(asked.start_ms, since_ms)
            return _report(bills, tenant, msgspec.structs.replace(asked, start_ms=start_ms))
        case SessionsAsked():
            period = Period(max(asked.start_ms, since_ms), asked.end_ms)
            return _encode(bills.sessions(tenant, period, key=asked.key, at_most=asked.limit))


def _day_of(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


def _month_since(month: str, since_ms: int) -> tuple[Per, str, str]:
    """Give what a month is added up from: it alone, or its days from that moment's on."""
    since = _day_of(since_ms)
    return ("day", since, f"{month}-31") if since.startswith(month) else ("month", month, month)


def _months(bills: Bills, tenant: str, asked: MonthsAsked, since_ms: int) -> dict[str, Use]:
    found: dict[str, Use] = {}
    for month in asked.months:
        if month >= _day_of(since_ms)[: len(month)]:
            for total in bills.totals(*_month_since(month, since_ms), tenant=tenant, by=("kind",)):
                found[month] = found.get(month, Use()) + total.use
    return found


def _days(bills: Bills, tenant: str, asked: DaysAsked) -> DaysUse:
    days = bills.totals("day", asked.first, asked.last, tenant=tenant, by=("period",))
    by: Final = ("kind", "provider", "model")
    models = bills.totals("day", asked.first, asked.last, tenant=tenant, by=by)
    return DaysUse(
        days={total.of[0]: total.use for total in days}, models=[_of_model(each) for each in models]
    )


def _of_model(total: Total) -> ModelUse:
    kind, provider, model = total.of
    of = {"kind": kind, "provider": provider, "model": model}
    return msgspec.convert(msgspec.to_builtins(total.use) | of, ModelUse)


def _providers(
    bills: Bills, tenant: str, asked: ProvidersAsked, own_keys: frozenset[str], since_ms: int
) -> list[ProviderUse]:
    def used(per: Per, first: str, last: str) -> dict[str, Use]:
        found: dict[str, Use] = {}
        for total in bills.totals(per, first, last, tenant=tenant, by=("provider", "kind")):
            provider, kind = total.of
            if kind in ("model", "embedding"):
                found[provider] = found.get(provider, Use()) + total.use
        return found

    today = used("day", asked.day, asked.day)
    month = used(*_month_since(asked.month, since_ms))
    return [
        ProviderUse(
            provider=provider,
            own_key=provider in own_keys,
            today=today.get(provider, Use()),
            month=month.get(provider, Use()),
        )
        for provider in sorted(month.keys() | today.keys() | own_keys)
    ]


def _report(bills: Bills, tenant: str, asked: ReportAsked) -> bytes:
    """Give a page of it; the JSON of rows is put into the answer as it is."""
    after, newest = None, bills.newest()
    if asked.cursor is not None:
        at_ms, entry_id, newest = map(int, asked.cursor.split("."))
        after = Mark(at_ms, entry_id)
    period = Period(asked.start_ms, asked.end_ms)
    lines: list[str] = []
    size = 0
    while True:
        # One row more would be too much, so a page is made of small ones.
        wanted = min(asked.limit - len(lines), _ROWS_AT_ONCE)
        page = bills.page(asked.format, tenant, period, after=after, newest=newest, at_most=wanted)
        lines += page.lines
        size += sum(map(len, page.lines))
        after = page.last
        if after is None or len(lines) == asked.limit or size > limits.USAGE_ROWS_BYTES_MAX:
            break
    answer: list[bytes] = []
    if asked.format == "csv":
        head = "" if asked.cursor is not None else f"{HEADER}\r\n"
        text = head + "".join(f"{line}\r\n" for line in lines)
        answer.append(b'"csv":' + _encode(text))
    else:
        answer.append(b'"rows":[' + ",".join(lines).encode() + b"]")
    if after is not None:
        cursor = f"{after.at_ms}.{after.entry_id}.{newest}"
        answer.append(b'"nextCursor":' + _encode(cursor))
    return b"{" + b",".join(answer) + b"}"


_ROWS_AT_ONCE: Final = 100
