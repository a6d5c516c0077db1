"""Reading the ledger, while egress writes it or while nobody does: rows, and their totals.

Rows come one after the other, in memory that does not grow. Times are Unix ms, periods those of
UTC: `2026-11-03` is a day, `2026-11` a month.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw

from supervisor import schema
from supervisor.egress import ledger_schema
from supervisor.egress.ledger_schema import GROUPED, SUMMED, Kind, Per
from supervisor.state import StateError

BUSY_MS: Final = 5000


class LedgerError(StateError):
    """The ledger cannot be read; the message says why."""


class Entry(NamedTuple):
    """A row of the ledger. `card_version` is the rate card that has priced it.

    A sandbox has its mode as `provider`, its id as `request_id`, and `wall_ms` and `cpu_ms`. What
    was moved for fetches and sandboxes has `fetch` or `sandbox` as `provider`, and `bytes`.
    """

    id: int
    at: int
    tenant: str
    kind: Kind
    provider: str
    model: str
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    tool_calls: int
    wall_ms: int
    cpu_ms: int
    bytes: int
    cost_micro_usd: int
    estimated: int
    own_key: int
    request_id: str
    run_id: str | None
    session_key: str | None
    card_version: str


class Total(NamedTuple):
    """The sums of a tenant's rows of one kind, provider and model in a period.

    `entries` is how many rows there are, `estimated` how many of them were.
    """

    tenant: str
    per: Per
    period: str
    kind: Kind
    provider: str
    model: str
    entries: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    tool_calls: int
    wall_ms: int
    cpu_ms: int
    bytes: int
    cost_micro_usd: int
    estimated: int


_ENTRY_COLUMNS: Final = ", ".join(
    "cards.version" if name == "card_version" else f"entries.{name}" for name in Entry._fields
)
_TOTAL_COLUMNS: Final = ", ".join(Total._fields)


def open_ledger(directory: Path) -> apsw.Connection | None:
    """Open the ledger for reading; None where nothing was ever spent.

    Args:
        directory: `StateRoot.ledger`.

    Raises:
        LedgerError: it cannot be opened, is none, or is of a newer version.
    """
    path = directory / ledger_schema.NAME
    if not path.exists():
        return None
    try:
        return _open(path, apsw.SQLITE_OPEN_READONLY)
    except (apsw.Error, schema.TooNewError) as error:
        raise LedgerError(f"{path} cannot be read: {error}") from error


def _open(path: Path, mode: int) -> apsw.Connection:
    # Whose directory it lies in might lead us elsewhere by a link, or give the file a schema that
    # does more than hold rows.
    db = apsw.Connection(str(path), flags=mode | apsw.SQLITE_OPEN_NOFOLLOW)
    try:
        db.set_busy_timeout(BUSY_MS)
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        db.pragma("trusted_schema", value=False)
        db.pragma("cell_size_check", value=True)
        ledger_schema.check_version(db)
    except BaseException:
        db.close()
        raise
    return db


def entries(
    db: apsw.Connection,
    *,
    tenant: str | None = None,
    since_ms: int = 0,
    until_ms: int | None = None,
    kinds: Sequence[Kind] = (),
) -> Iterator[Entry]:
    """Give rows in the order of their times, of one tenant; in that of their numbers, of all.

    Args:
        db: From `open_ledger`.
        tenant: Whose; None is everybody's.
        since_ms: The first moment.
        until_ms: The first moment after it; None is no end.
        kinds: Of what; none is everything.
    """
    for row in rows(
        db, _ENTRY_COLUMNS, tenant=tenant, since_ms=since_ms, until_ms=until_ms, kinds=kinds
    ):
        yield Entry._make(row)


def rows(
    db: apsw.Connection,
    columns: str,
    *,
    tenant: str | None = None,
    since_ms: int = 0,
    until_ms: int | None = None,
    kinds: Sequence[Kind] = (),
) -> Iterator[tuple[Any, ...]]:
    """Give some columns of rows, for long reports; arguments as of `entries`.

    Args:
        columns: SQL, of our own writing: columns of `entries`, and `cards.version`.
        db: See `entries`.
        tenant: See `entries`.
        since_ms: See `entries`.
        until_ms: See `entries`.
        kinds: See `entries`.
    """
    conditions = ["entries.at >= ?"]
    values: list[str | int] = [since_ms]
    if tenant is not None:
        conditions.append("entries.tenant = ?")
        values.append(tenant)
    if until_ms is not None:
        conditions.append("entries.at < ?")
        values.append(until_ms)
    if kinds:
        conditions.append(f"entries.kind IN ({', '.join('?' * len(kinds))})")
        values.extend(kinds)
    order = "entries.id" if tenant is None else "entries.at, entries.id"
    # CROSS JOIN keeps the rows outside and each row's card inside, so that nothing is sorted.
    yield from db.execute(
        f"SELECT {columns} FROM entries CROSS JOIN cards ON cards.id = entries.card "  # noqa: S608 - no text from outside
        f"WHERE {' AND '.join(conditions)} ORDER BY {order}",
        values,
    )


def totals(
    db: apsw.Connection,
    per: Per,
    *,
    tenant: str | None = None,
    first: str | None = None,
    last: str | None = None,
) -> Iterator[Total]:
    """Give totals by tenant, period, kind, provider and model, in this order.

    Args:
        db: From `open_ledger`.
        per: Of days or of months.
        tenant: Whose; None is everybody's.
        first: The first period, such as `2026-11` with `month`.
        last: The last one.
    """
    conditions: list[str] = ["per = ?"]
    values: list[str] = [per]
    for condition, value in (("tenant = ?", tenant), ("period >= ?", first), ("period <= ?", last)):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    for row in db.execute(
        f"SELECT {_TOTAL_COLUMNS} FROM totals WHERE {' AND '.join(conditions)} "  # noqa: S608 - no text from outside
        "ORDER BY tenant, period, kind, provider, model",
        values,
    ):
        yield Total._make(row)


_SUMS_OF_ENTRIES: Final = " UNION ALL ".join(
    f"SELECT tenant, '{per}' AS per, strftime('{form}', at / 1000, 'unixepoch') AS period, "  # noqa: S608 - no text from outside
    f"kind, provider, model, count(*) AS entries, {', '.join(f'sum({name})' for name in SUMMED)} "
    "FROM entries GROUP BY 1, 2, 3, 4, 5, 6"
    for per, form in (("day", "%Y-%m-%d"), ("month", "%Y-%m"))
)


def differing_totals(db: apsw.Connection) -> Iterator[tuple[str, ...]]:
    """Give what of `totals` is not what the rows come to, as its columns `GROUPED`, each once."""
    yield from db.execute(
        f"WITH made AS ({_SUMS_OF_ENTRIES}), kept AS (SELECT {_TOTAL_COLUMNS} FROM totals) "  # noqa: S608 - no text from outside
        f"SELECT DISTINCT {', '.join(GROUPED)} FROM ("
        "SELECT * FROM (SELECT * FROM made EXCEPT SELECT * FROM kept) UNION ALL "
        "SELECT * FROM (SELECT * FROM kept EXCEPT SELECT * FROM made))"
    )


def rebuild_totals(directory: Path) -> int:
    """Make `totals` anew from the rows, and give how many there are; while no egress runs.

    Raises:
        LedgerError: there is no ledger, or it cannot be written.
    """
    path = directory / ledger_schema.NAME
    try:
        db = _open(path, apsw.SQLITE_OPEN_READWRITE)
        try:
            with db:
                db.execute("DELETE FROM totals")
                db.execute(f"INSERT INTO totals {_SUMS_OF_ENTRIES}")
                made = db.changes()
        finally:
            db.close()
    except (apsw.Error, schema.TooNewError) as error:
        raise LedgerError(f"{path} cannot be made right: {error}") from error
    return made
