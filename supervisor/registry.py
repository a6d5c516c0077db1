"""`registry.sqlite`: which tenants there are and which tokens are theirs.

One writer: the supervisor, or a command that holds the state root while there is none. No worker
ever sees this file, and no file that a worker can write is ever read here.
"""

import contextlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import apsw
import msgspec

from protocol.methods import ALL_SCOPES
from protocol.names import digest, mint_token
from supervisor.state import StateError

SCHEMA_VERSION: Final = 1
SQLITE_VERSION_MIN: Final = (3, 51, 3)
"""Below it a WAL reset can corrupt a database (fixed in SQLite 3.51.3)."""

_SCHEMA: Final = """
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
"""


class Quota(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a tenant may spend a day. None is no limit; zero is nothing at all."""

    tokens_per_day: int | None = None
    cost_per_day_micro_usd: int | None = None


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `uid` is None where the gateway runs as an ordinary user; times are Unix ms."""

    id: str
    uid: int | None
    display_name: str | None
    state: str
    created_at: int
    quota: Quota


class RegistryError(StateError):
    """The registry cannot be used by this version."""


class TenantExistsError(Exception):
    """There is a tenant of this id."""


class UnknownTenantError(Exception):
    """There is no tenant of this id."""


def sqlite_is_sound() -> bool:
    """Say whether this SQLite has no known corruption."""
    return tuple(map(int, apsw.sqlite_lib_version().split("."))) >= SQLITE_VERSION_MIN


class Registry:
    """The open registry. Not thread-safe: its owner calls it from one thread at a time.

    Raises:
        RegistryError: it is of a newer schema, is no database, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        if not sqlite_is_sound():
            msg = f"SQLite {apsw.sqlite_lib_version()} is too old; 3.51.3 is needed"
            raise RegistryError(msg)
        try:
            self._db: Final = apsw.Connection(str(path))
            try:
                self._open(path)
            except BaseException:
                self._db.close()
                raise
        except apsw.Error as error:
            msg = f"{path} cannot be opened: {error}"
            raise RegistryError(msg) from error

    def _open(self, path: Path) -> None:
        path.chmod(0o600)
        for pragma in (
            "busy_timeout=5000",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "trusted_schema=OFF",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        self._migrate()

    def close(self) -> None:
        """Fold the write-ahead log back, if the disk lets us, and close."""
        with contextlib.suppress(apsw.Error):  # what is in the log is as safe as elsewhere
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()

    def _migrate(self) -> None:
        version = self._db.pragma("user_version")
        if version > SCHEMA_VERSION:
            msg = f"registry.sqlite has schema {version}; this version knows {SCHEMA_VERSION}"
            raise RegistryError(msg)
        if version < SCHEMA_VERSION:
            with self._db:
                self._db.execute(_SCHEMA)
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def atomically(self) -> AbstractContextManager[object]:
        """Give a context whose changes are all kept at its end, or none if it raises."""
        return self._db

    # Tenants

    def create(
        self,
        tenant: str,
        *,
        uid_first: int | None,
        uid_count: int,
        display_name: str | None,
        quota: Quota,
        now_ms: int,
    ) -> str:
        """Add a tenant with a first token; gives the token, which is kept nowhere.

        Args:
            tenant: The id, valid already.
            uid_first: First uid that tenants get, or None where they have none of their own.
            uid_count: How many uids there are from there on.
            display_name: What people call it.
            quota: What it may spend.
            now_ms: Unix time in ms.

        Raises:
            TenantExistsError: the id is taken.
            RegistryError: the uid range is used up.
        """
        token = mint_token(tenant)
        with self._db:
            if self.find(tenant) is not None:
                raise TenantExistsError(tenant)
            uid = None if uid_first is None else self._next_uid(uid_first, uid_count)
            self._db.execute(
                "INSERT INTO tenants VALUES (?, ?, ?, 'enabled', ?, ?)",
                (tenant, uid, display_name, now_ms, msgspec.json.encode(quota).decode()),
            )
            self._add_token(tenant, token, now_ms)
        return token

    def _next_uid(self, first: int, count: int) -> int:
        # A counter, not max(uid) + 1: what a deleted tenant left behind must never fit a new one.
        uid = max(first, self._counter("next_uid"))
        if uid >= first + count:
            msg = f"the uid range {first}..{first + count - 1} is used up"
            raise RegistryError(msg)
        self._set_counter("next_uid", uid + 1)
        if not self._counter("first_uid"):
            self._set_counter("first_uid", uid)
        return uid

    def uids_given(self) -> range:
        """Give the range in which all uids lie that any tenant, here or gone, has ever had."""
        return range(self._counter("first_uid"), self._counter("next_uid"))

    def find(self, tenant: str) -> Tenant | None:
        """Give one tenant."""
        rows = self._tenants("WHERE id = ?", (tenant,))
        return rows[0] if rows else None

    def get(self, tenant: str) -> Tenant:
        """Give one tenant.

        Raises:
            UnknownTenantError: there is none.
        """
        row = self.find(tenant)
        if row is None:
            raise UnknownTenantError(tenant)
        return row

    def tenants(self) -> list[Tenant]:
        """Give all tenants by id."""
        return self._tenants("ORDER BY id", ())

    def _tenants(self, where: str, values: tuple[str, ...]) -> list[Tenant]:
        columns = "id, uid, display_name, state, created_at, quota"
        return [
            Tenant(
                id=row[0],
                uid=row[1],
                display_name=row[2],
                state=row[3],
                created_at=row[4],
                quota=msgspec.json.decode(row[5], type=Quota),
            )
            for row in self._db.execute(
                f"SELECT {columns} FROM tenants {where}",  # noqa: S608 - both are literals above
                values,
            )
        ]

    def begin_delete(self, tenant: str) -> None:
        """Take a tenant's tokens away and mark it; `finish_delete` comes after its files are gone.

        Raises:
            UnknownTenantError: there is none.
        """
        with self._db:
            self.get(tenant)
            self._db.execute("DELETE FROM tokens WHERE tenant = ?", (tenant,))
            self._db.execute("UPDATE tenants SET state = 'deleting' WHERE id = ?", (tenant,))

    def set_state(self, tenant: str, state: str) -> None:
        """Make a tenant `enabled` or `suspended`.

        Raises:
            UnknownTenantError: there is no such tenant.
        """
        with self._db:
            self.get(tenant)
            self._db.execute("UPDATE tenants SET state = ? WHERE id = ?", (state, tenant))

    def finish_delete(self, tenant: str) -> None:
        """Forget a tenant. Its uid is never given out again."""
        self._db.execute("DELETE FROM tenants WHERE id = ?", (tenant,))

    # Tokens

    def rotate(self, tenant: str, now_ms: int) -> str:
        """Replace all of a tenant's tokens with a new one; gives it.

        Raises:
            UnknownTenantError: there is no such tenant.
        """
        token = mint_token(tenant)
        with self._db:
            self.get(tenant)
            self._db.execute("DELETE FROM tokens WHERE tenant = ?", (tenant,))
            self._add_token(tenant, token, now_ms)
        return token

    def token_digests(self) -> dict[str, dict[str, int]]:
        """Give, by tenant, its token digests (hex) with their scopes."""
        found: dict[str, dict[str, int]] = {}
        for tenant, token_digest, scopes in self._db.execute(
            "SELECT tenant, digest, scopes FROM tokens"
        ):
            found.setdefault(tenant, {})[token_digest.hex()] = scopes
        return found

    def tokens_of(self, tenant: str) -> dict[str, int]:
        """Give one tenant's token digests (hex) with their scopes."""
        rows = self._db.execute("SELECT digest, scopes FROM tokens WHERE tenant = ?", (tenant,))
        return {token_digest.hex(): scopes for token_digest, scopes in rows}

    def _add_token(self, tenant: str, token: str, now_ms: int) -> None:
        self._db.execute(
            "INSERT INTO tokens VALUES (?, ?, ?, ?)",
            (digest(token), tenant, int(ALL_SCOPES), now_ms),
        )

    # Counters

    def next_epoch(self) -> int:
        """Count one more start of a supervisor; the number is never given again."""
        with self._db:
            epoch = self._counter("epoch") + 1
            self._set_counter("epoch", epoch)
        return epoch

    def _counter(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def _set_counter(self, name: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", (name, value))
