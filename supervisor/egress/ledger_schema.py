"""The ledger's schema, version by version; `user_version` counts those that a file has seen.

`entries` is the ledger: rows are only ever added, numbered from one without a gap. `totals` sums
them up by day and month of UTC, tenant, kind, provider and model, in the same transaction as each
row. `cards` are the rate cards that have priced a row. `reservations` are calls under way.
"""

from pathlib import Path
from typing import Final, Literal

import apsw

from supervisor import schema

Kind = Literal["model", "embedding", "sandbox", "egress"]
Per = Literal["day", "month"]
NAME: Final = "ledger.sqlite"

_MIGRATIONS: Final = (
    """
CREATE TABLE cards (
    id INTEGER PRIMARY KEY,
    version TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL
) STRICT;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL CHECK (at >= 0),
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('model', 'embedding', 'sandbox', 'egress')),
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL CHECK (input_tokens >= 0),
    cache_read_tokens INTEGER NOT NULL CHECK (cache_read_tokens >= 0),
    cache_write_tokens INTEGER NOT NULL CHECK (cache_write_tokens >= 0),
    output_tokens INTEGER NOT NULL CHECK (output_tokens >= 0),
    reasoning_tokens INTEGER NOT NULL CHECK (reasoning_tokens >= 0),
    tool_calls INTEGER NOT NULL CHECK (tool_calls >= 0),
    wall_ms INTEGER NOT NULL CHECK (wall_ms >= 0),
    cpu_ms INTEGER NOT NULL CHECK (cpu_ms >= 0),
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    cost_micro_usd INTEGER NOT NULL CHECK (cost_micro_usd >= 0),
    card INTEGER NOT NULL REFERENCES cards (id),
    estimated INTEGER NOT NULL CHECK (estimated IN (0, 1)),
    own_key INTEGER NOT NULL CHECK (own_key IN (0, 1)),
    request_id TEXT NOT NULL,
    run_id TEXT,
    session_key TEXT,
    reservation INTEGER UNIQUE
) STRICT;
CREATE INDEX entries_by_tenant ON entries (tenant, at);
CREATE TRIGGER entries_are_kept BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'entries are only ever added'); END;
CREATE TRIGGER entries_are_final BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'entries are only ever added'); END;
CREATE TRIGGER cards_are_kept BEFORE DELETE ON cards
    BEGIN SELECT RAISE(ABORT, 'cards are only ever added'); END;
CREATE TRIGGER cards_are_final BEFORE UPDATE ON cards
    BEGIN SELECT RAISE(ABORT, 'cards are only ever added'); END;
CREATE TABLE totals (
    tenant TEXT NOT NULL,
    per TEXT NOT NULL CHECK (per IN ('day', 'month')),
    period TEXT NOT NULL,
    kind TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    entries INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    tool_calls INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL,
    cpu_ms INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    cost_micro_usd INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    PRIMARY KEY (tenant, per, period, kind, provider, model)
) STRICT, WITHOUT ROWID;
CREATE INDEX totals_by_period ON totals (per, period);
CREATE TABLE reservations (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    at INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    cost_micro_usd INTEGER NOT NULL
) STRICT;
""",
)
"""What makes each version of the schema from the one before; only ever added to."""
SCHEMA_VERSION: Final = len(_MIGRATIONS)
SUMMED: Final = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "tool_calls",
    "wall_ms",
    "cpu_ms",
    "bytes",
    "cost_micro_usd",
    "estimated",
)
"""The columns of a row that `totals` has the sums of; `entries` counts the rows."""
GROUPED: Final = ("tenant", "per", "period", "kind", "provider", "model")
"""The columns that a total is of."""


def migrate(db: apsw.Connection, path: Path) -> None:
    """Bring an open ledger to the newest schema; see `supervisor.schema.migrate`."""
    schema.migrate(db, path, NAME, _MIGRATIONS)


def check_version(db: apsw.Connection) -> int:
    """Give the version that the file has; see `supervisor.schema.check_version`."""
    return schema.check_version(db, NAME, SCHEMA_VERSION)
