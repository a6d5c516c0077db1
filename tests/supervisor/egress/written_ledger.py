"""A ledger that a test writes by its schema, row by row, as the till would."""

from pathlib import Path
from typing import Any

import apsw

from supervisor.egress import ledger_schema

COLUMNS = (
    *("at", "tenant", "kind", "provider", "model", "input_tokens", "cache_read_tokens"),
    *("cache_write_tokens", "output_tokens", "reasoning_tokens", "tool_calls", "wall_ms", "cpu_ms"),
    *("bytes", "cost_micro_usd", "card", "estimated", "own_key", "request_id", "run_id"),
    "session_key",
)
PLAIN: dict[str, Any] = {
    **dict.fromkeys(COLUMNS, 0),
    "tenant": "acme",
    "kind": "model",
    "provider": "openai",
    "model": "gpt-4o",
    "card": 1,
    "request_id": "",
    "run_id": None,
    "session_key": None,
}
CARD = "c" * 64


def open_ledger(path: Path) -> apsw.Connection:
    """Make an empty one."""
    db = apsw.Connection(str(path))
    db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF")
    ledger_schema.migrate(db, path)
    db.execute("INSERT INTO cards (version, body) VALUES (?, '{}')", (CARD,))
    return db


def add(db: apsw.Connection, *rows: dict[str, Any]) -> None:
    """Write rows, and the sums of all."""
    with db:
        write(db, *rows)
        sum_up(db)


def write(db: apsw.Connection, *rows: dict[str, Any]) -> None:
    """Write rows alone."""
    marks = ", ".join("?" * len(COLUMNS))
    insert = f"INSERT INTO entries ({', '.join(COLUMNS)}) VALUES ({marks})"
    db.executemany(insert, (tuple((PLAIN | row).values()) for row in rows))


def sum_up(db: apsw.Connection) -> None:
    """Make `totals` of the rows anew."""
    summed = ", ".join(f"sum({name})" for name in ledger_schema.SUMMED)
    db.execute("DELETE FROM totals")
    for per, form in (("day", "%Y-%m-%d"), ("month", "%Y-%m")):
        db.execute(
            f"INSERT INTO totals SELECT tenant, '{per}', strftime('{form}', at / 1000, 'unixepoch')"
            f", kind, provider, model, count(*), {summed} FROM entries GROUP BY 1, 3, 4, 5, 6"
        )
