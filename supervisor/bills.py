"""What the ledger says, for bills and reports: rows as text, and what they add up to.

Reads only, and holds nothing: between two pages there is no transaction, so that a reader that
stands still keeps no writer from folding its log back. Rows are only ever added, with numbers that
rise; a report that keeps to those up to the newest of its beginning is the same as if it had been
made in one moment.

The text of a row is made by SQLite, which takes a third of the time that Python needs for it. What
has to be escaped in CSV hardly ever is there: rows are made without, a look at the page as a whole
tells whether that was right, and if not they are made again.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

import apsw

from protocol.periods import Period
from protocol.usage import SessionUse, Use

Shape = Literal["csv", "json"]
PAGE_ROWS: Final = 500
CACHE_KIB: Final = 8192

_TIME: Final = "strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch')"
_USD: Final = "printf('%d.%06d', cost_micro_usd / 1000000, cost_micro_usd % 1000000)"
# Most rows have the newest card, which need not be looked up for each.
_CARD: Final = "iif(card = ?7, ?8, (SELECT version FROM cards WHERE cards.id = card))"
# A cell that begins so is a formula to a spreadsheet:
# https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA: Final = "[-=+@\t\r\n]*"
_PLAIN_TEXT: Final = re.compile(r'(?![-=+@])[^",\t\r\n\0]*')
_STARTS: Final = (b",=", b",+", b",@")
_HARMLESS: Final = bytes(set(range(256)) - set(b'",=+@\t\r\n\0'))


def _cell(column: str) -> str:
    """Give SQL for a text as a CSV field (RFC 4180, section 2), which no spreadsheet runs."""
    plain = (
        f"""{column} NOT GLOB '*[",\t\r\n]*' AND {column} NOT GLOB '[-=+@]*' """
        f"AND NOT instr({column}, char(0))"
    )
    quoted = (
        f"""concat('"', iif({column} GLOB '{_FORMULA}', '''', ''), """
        f"""replace({column}, '"', '""'), '"')"""
    )
    return f"CASE WHEN {column} IS NULL THEN '' WHEN {plain} THEN {column} ELSE {quoted} END"


def cell(text: str) -> str:
    """Give a text as `_cell` does."""
    if _PLAIN_TEXT.fullmatch(text):
        return text
    harmless = "'" if text[0] in "-=+@\t\r\n" else ""
    return '"' + harmless + text.replace('"', '""') + '"'


def _is_plain(lines: list[str]) -> bool:
    """Say whether lines that were made without escapes need none: no field but the first can."""
    text = "\n".join(lines).encode()
    left = text.translate(None, _HARMLESS)
    commas, ends = left.count(b","), left.count(b"\n")
    if commas != len(lines) * (len(COLUMNS) - 1) or ends != len(lines) - 1 or b",-" in text:
        return False
    if len(left) == commas + ends:
        return True
    return not any(map(left.__contains__, b'"\t\r\0')) and not any(map(text.__contains__, _STARTS))


def _seconds(column: str) -> str:
    return f"iif({column}, printf('%d.%03d', {column} / 1000, {column} % 1000), 0)"


COLUMNS: Final = {
    "timestamp": _TIME,
    "tenant_id": "tenant",
    "kind": "kind",
    "provider": "provider",
    "model": "model",
    "input_tokens": "input_tokens",
    "cache_read_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "output_tokens": "output_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "tool_calls": "tool_calls",
    "sandbox_seconds": _seconds("wall_ms"),
    "sandbox_cpu_seconds": _seconds("cpu_ms"),
    "egress_bytes": "bytes",
    "cost_usd": _USD,
    "estimated": "iif(estimated, 'true', 'false')",
    "own_key": "iif(own_key, 'true', 'false')",
    "request_id": "request_id",
    "run_id": "ifnull(run_id, '')",
    "session_key": "ifnull(session_key, '')",
    "rate_card": _CARD,
    "entry_id": "id",
}
"""The columns of a report, in their order, and what they are made of. Only ever added to."""
_TEXTS: Final = ("provider", "model", "request_id", "run_id", "session_key")
_ESCAPED: Final = COLUMNS | {column: _cell(column) for column in _TEXTS}
HEADER: Final = ",".join(COLUMNS)

# Those of `protocol.usage.BillRow`. What is left out when it is null brings its own name.
_JSON: Final = (
    ("timestamp", f"concat('\"', {_TIME}, '\"')"),
    ("entryId", "id"),
    ("tenantId", "json_quote(tenant)"),
    ("kind", "json_quote(kind)"),
    ("provider", "json_quote(provider)"),
    ("model", "json_quote(model)"),
    ("inputTokens", "input_tokens"),
    ("cacheReadTokens", "cache_read_tokens"),
    ("cacheWriteTokens", "cache_write_tokens"),
    ("outputTokens", "output_tokens"),
    ("reasoningTokens", "reasoning_tokens"),
    ("toolCalls", "tool_calls"),
    ("sandboxWallMs", "wall_ms"),
    ("sandboxCpuMs", "cpu_ms"),
    ("egressBytes", "bytes"),
    ("costMicroUsd", "cost_micro_usd"),
    ("estimated", "iif(estimated, 'true', 'false')"),
    ("ownKey", "iif(own_key, 'true', 'false')"),
    ("rateCard", f"json_quote({_CARD})"),
    ("requestId", "json_quote(request_id)"),
)
_OPTIONAL: Final = (("runId", "run_id"), ("sessionKey", "session_key"))
_LINES: Final = {
    "csv": f"concat_ws(',', {', '.join(COLUMNS.values())})",
    "escaped csv": f"concat_ws(',', {', '.join(_ESCAPED.values())})",
    "json": "concat('{', "
    + ", ',', ".join(f"'\"{name}\":', {value}" for name, value in _JSON)
    + "".join(
        f", iif({column} IS NULL, '', concat(',\"{name}\":', json_quote({column})))"
        for name, column in _OPTIONAL
    )
    + ", '}')",
}
_PAGE: Final = {
    shape: f"SELECT {line}, at, id FROM entries WHERE tenant = ?1 AND (at, id) > (?2, ?3) "  # noqa: S608 - our own
    "AND at < ?4 AND id <= ?5 ORDER BY at, id LIMIT ?6"
    for shape, line in _LINES.items()
}
_OF_MODELS: Final = "kind IN ('model', 'embedding')"


def _summed(counted: str) -> str:
    """Give SQL for the fields of `Use`, in their order."""
    classes = ("input", "cache_read", "cache_write", "output", "reasoning")
    tokens = [f"{name}_tokens" for name in classes]
    return ", ".join(
        (
            f"sum(iif({_OF_MODELS}, {counted}, 0))",
            *(f"sum({column})" for column in tokens),
            f"sum({' + '.join(tokens)})",
            *("sum(tool_calls)", "sum(wall_ms)", "sum(cpu_ms)", "sum(bytes)", "sum(estimated)"),
            "sum(cost_micro_usd)",
        )
    )


_TOTALS: Final = (
    f"SELECT %s, {_summed('entries')} FROM totals "  # noqa: S608 - our own
    "WHERE per = ? AND %s GROUP BY %s"
)
_ROWS_SUMMED: Final = (
    f"SELECT kind, provider, model, {_summed('1')} FROM entries "  # noqa: S608 - our own
    "WHERE tenant = ? AND at >= ? AND at < ? GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
)
_SESSIONS: Final = f"""
SELECT session_key, min(at), max(at), count(*), sum(input_tokens), sum(cache_read_tokens),
    sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens),
    sum(input_tokens + cache_read_tokens + cache_write_tokens + output_tokens + reasoning_tokens),
    sum(tool_calls), sum(cost_micro_usd)
FROM entries WHERE tenant = ?1 AND at >= ?2 AND at < ?3 AND {_OF_MODELS}
    AND session_key IS NOT NULL AND (?4 IS NULL OR session_key = ?4)
GROUP BY session_key ORDER BY max(at) DESC, session_key LIMIT ?5
"""  # noqa: S608 - our own

_NEWEST_CARD: Final = "SELECT id, version FROM cards ORDER BY id DESC LIMIT 1"

By = Literal["tenant", "period", "kind", "provider", "model"]
Per = Literal["day", "month"]


class Mark(NamedTuple):
    """A row's place in the order of a report: its time, Unix ms, and its number."""

    at_ms: int
    entry_id: int


class Page(NamedTuple):
    """Rows as text, one each, and where the next ones begin; None after the last."""

    lines: list[str]
    last: Mark | None


class Total(NamedTuple):
    """What rows that have these columns in common add up to."""

    of: tuple[str, ...]
    use: Use


class Bills:
    """A ledger that is read. In one thread at a time.

    Args:
        db: From `supervisor.ledger_reading.open_ledger`.
    """

    def __init__(self, db: apsw.Connection) -> None:
        self._db: Final = db
        # Where egress reads there is no directory for temporary files.
        for pragma in ("query_only=ON", "temp_store=MEMORY", f"cache_size=-{CACHE_KIB}"):
            db.execute(f"PRAGMA {pragma}")

    def close(self) -> None:
        """Close it."""
        self._db.close()

    def interrupt(self) -> None:
        """End what another thread asks just now, with `apsw.InterruptError`."""
        self._db.interrupt()

    # Rows.

    def newest(self) -> int:
        """Give the number of the newest row; 0 where there is none."""
        return int(self._one("SELECT ifnull(max(id), 0) FROM entries", ()))

    def knows(self, tenant: str) -> bool:
        """Say whether anything was ever metered for a tenant."""
        return bool(self._one("SELECT EXISTS (SELECT 1 FROM totals WHERE tenant = ?)", (tenant,)))

    def count(self, tenant: str, period: Period) -> int:
        """Say about how many rows a report has; exact for whole days."""
        query = "SELECT count(*) FROM entries WHERE tenant = ? AND at >= ? AND at < ?"
        return int(self._one(query, (tenant, *period)))

    def page(
        self,
        shape: Shape,
        tenant: str,
        period: Period,
        *,
        after: Mark | None,
        newest: int,
        at_most: int = PAGE_ROWS,
    ) -> Page:
        """Give rows of a tenant, in the order of time and number.

        Args:
            shape: What the text of a row is; see `COLUMNS` and `protocol.usage.BillRow`.
            tenant: Whose rows.
            period: Rows of which time.
            after: The last row of the page before; None for the first page.
            newest: Rows with a higher number are left out; see the module.
            at_most: How many rows.
        """
        first = Mark(period.start_ms, 0)
        begins = first if after is None else max(first, after)
        bound = (tenant, *begins, period.end_ms, newest, at_most, *self._newest_card())
        rows: list[tuple[Any, ...]] = self._db.execute(_PAGE[shape], bound).fetchall()
        lines = [row[0] for row in rows]
        if shape == "csv" and not _is_plain(lines):
            rows = self._db.execute(_PAGE["escaped csv"], bound).fetchall()
            lines = [row[0] for row in rows]
        return Page(lines, Mark(rows[-1][1], rows[-1][2]) if len(rows) == at_most else None)

    def pages(self, shape: Shape, tenant: str, period: Period) -> Iterator[list[str]]:
        """Give all rows of a tenant as text, a page at a time."""
        newest = self.newest()
        after: Mark | None = None
        while True:
            page = self.page(shape, tenant, period, after=after, newest=newest)
            if page.lines:
                yield page.lines
            if page.last is None:
                return
            after = page.last

    # Sums.

    def totals(
        self,
        per: Per,
        first: str,
        last: str,
        *,
        tenant: str | None = None,
        by: tuple[By, ...] = (),
    ) -> list[Total]:
        """Give what whole days or months add up to, from the sums that the ledger keeps.

        Args:
            per: Days or months.
            first: The first of them: `2026-11-03`, `2026-11`.
            last: The last of them.
            tenant: Whose; None for all tenants.
            by: One sum for each combination of these; in their order.
        """
        columns = ", ".join(by) or "1"
        wanted = "period >= ? AND period <= ?" + (" AND tenant = ?" if tenant is not None else "")
        query = _TOTALS % (columns, wanted, columns)
        if by:
            query += f" ORDER BY {columns}"
        bound = (per, first, last) if tenant is None else (per, first, last, tenant)
        width = max(len(by), 1)
        return [Total(row[: len(by)], _use(row[width:])) for row in self._db.execute(query, bound)]

    def by_model(self, tenant: str, period: Period) -> list[Total]:
        """Give what rows of a tenant add up to, by kind, provider and model."""
        rows = self._db.execute(_ROWS_SUMMED, (tenant, *period))
        return [Total(row[:3], _use(row[3:])) for row in rows]

    def sessions(
        self, tenant: str, period: Period, *, key: str | None, at_most: int
    ) -> list[SessionUse]:
        """Give what sessions have used, last used first."""
        rows = self._db.execute(_SESSIONS, (tenant, *period, key, at_most))
        return [
            SessionUse(**dict(zip(SessionUse.__struct_fields__, row, strict=True))) for row in rows
        ]

    def _newest_card(self) -> tuple[int, str]:
        for number, version in self._db.execute(_NEWEST_CARD):
            return number, version
        return 0, ""

    def _one(self, query: str, bound: tuple[str | int, ...]) -> int:
        for (value,) in self._db.execute(query, bound):
            return int(value)
        return 0


def _use(row: tuple[int, ...]) -> Use:
    return Use(**dict(zip(Use.__struct_fields__, row, strict=True)))
