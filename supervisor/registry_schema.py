"""The registry's schema, version by version; `user_version` counts those that a file has seen."""

from pathlib import Path
from typing import Final

import apsw

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


class TooNewError(Exception):
    """The file has a schema that this version does not know."""


def migrate(db: apsw.Connection, path: Path) -> None:
    """Bring an open registry to the newest schema, whole or not at all; a used one is copied first.

    Raises:
        TooNewError: see there; nothing is changed.
        apsw.Error, OSError: it, or the copy, cannot be written.
    """
    version = int(db.pragma("user_version"))
    if version > SCHEMA_VERSION:
        msg = f"registry.sqlite has schema {version}; this version knows {SCHEMA_VERSION}"
        raise TooNewError(msg)
    if version == SCHEMA_VERSION:
        return
    if version:
        _copy(db, path.with_name(f"{path.name}.before-v{version + 1}"))
    with db:
        for script in _MIGRATIONS[version:]:
            db.execute(script)
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _copy(db: apsw.Connection, path: Path) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    copy = apsw.Connection(str(path))
    try:
        with copy.backup("main", db, "main") as backup:
            backup.step()
    finally:
        copy.close()


def drop_copies(path: Path) -> None:
    """Remove the copies that `migrate` has made of the registry at `path`."""
    for copy in path.parent.glob(f"{path.name}.before-v*"):
        copy.unlink(missing_ok=True)
