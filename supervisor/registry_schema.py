"""The registry's schema, version by version; `user_version` counts those that a file has seen."""

from pathlib import Path
from typing import Final

import apsw

from supervisor import schema

_MIGRATIONS: Final = (
    """
CREATE TABLE tenants (
    id TEXT PRIMARY KEY,
    uid INTEGER UNIQUE,
    display_name TEXT,
    state TEXT NOT NULL CHECK (state IN ('enabled', 'suspended', 'deleting')),
    created_at INTEGER NOT NULL,
    quota TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE tokens (
    digest BLOB PRIMARY KEY,
    tenant TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    scopes INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_tenant ON tokens (tenant);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
""",
    """
ALTER TABLE tokens RENAME TO nameless;
DROP INDEX tokens_by_tenant;
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    digest BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    scopes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT, WITHOUT ROWID;
INSERT INTO tokens
    SELECT 'tok_' || lower(hex(randomblob(8))), tenant, digest, 'default', scopes, created_at, NULL
    FROM nameless;
DROP TABLE nameless;
CREATE INDEX tokens_by_tenant ON tokens (tenant);
""",
    """
ALTER TABLE tenants ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';
""",
    """
CREATE TABLE kept_quotas (
    tenant TEXT PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
    kept TEXT NOT NULL
) STRICT, WITHOUT ROWID;
""",
)
"""What makes each version of the schema from the one before; only ever added to."""
SCHEMA_VERSION: Final = len(_MIGRATIONS)


def migrate(db: apsw.Connection, path: Path) -> None:
    """Bring an open registry to the newest schema; see `supervisor.schema.migrate`."""
    schema.migrate(db, path, "registry.sqlite", _MIGRATIONS)


def drop_copies(path: Path) -> None:
    """Remove the copies that `migrate` has made of the registry at `path`."""
    for copy in path.parent.glob(f"{path.name}.before-v*"):
        copy.unlink(missing_ok=True)
