"""`registry.sqlite`: which tenants there are and which tokens are theirs.

One writer: the supervisor, or a command that holds the state root while there is none. No worker
ever sees this file, and no file that a worker can write is ever read here.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw
import msgspec

from protocol.control.shapes import NO_LIMITS, TenantLimits, TenantState
from protocol.methods import ALL_SCOPES
from protocol.names import digest, mint_token, mint_token_id
from protocol.quotas import Quota
from protocol.spawn import TokenGrant
from supervisor import registry_schema, schema
from supervisor.refusals import disk_refusals
from supervisor.state import StateError

DEFAULT_TOKEN: Final = "default"
"""The name of the token that a tenant is created with."""
LOG_PAGES_MAX: Final = 1000
"""A log of so many pages is moved into the file; SQLite's own number."""
SQLITE_VERSION_MIN: Final = (3, 51, 3)
"""Below it a WAL reset can corrupt a database (fixed in SQLite 3.51.3)."""


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `uid` is None where the gateway runs as an ordinary user; times are Unix ms."""

    id: str
    uid: int | None
    display_name: str | None
    state: TenantState
    created_at: int
    quota: Quota
    limits: TenantLimits


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """One token, without its secret; times are Unix ms, and `expires_at` is None for no end."""

    id: str
    name: str
    scopes: int
    created_at: int
    expires_at: int | None

    def expired(self, now_ms: int) -> bool:
        """Say whether its time is over."""
        return self.expires_at is not None and self.expires_at <= now_ms


class NewToken(NamedTuple):
    """A token, and the only copy of its secret."""

    token: Token
    secret: str


class RegistryError(StateError):
    """The registry cannot be used by this version."""


class RegistryUnwritableError(RegistryError):
    """The disk refuses a write; it may take it later."""


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
            self._path: Final = path
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise
        except apsw.Error as error:
            msg = f"{path} cannot be opened: {error}"
            raise RegistryError(msg) from error

    def _open(self) -> None:
        self._path.chmod(0o600)
        # In place of SQLite's own checkpoint, which is within the commit: what a VFS in Python
        # raises there comes out as the failure of a commit that has happened.
        self._log_pages = 0
        self._db.set_wal_hook(self._on_committed)
        for pragma in (
            "busy_timeout=5000",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "trusted_schema=OFF",
            "secure_delete=ON",  # what is revoked or deleted is not left in free pages
        ):
            self._db.execute(f"PRAGMA {pragma}")
        try:
            registry_schema.migrate(self._db, self._path)
        except schema.TooNewError as error:
            raise RegistryError(str(error)) from error

    def close(self) -> None:
        """Fold the write-ahead log back, if the disk lets us, and close."""
        with contextlib.suppress(apsw.Error):  # what is in the log is as safe as elsewhere
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()

    def drop_copies(self) -> None:
        """Remove what a change of the schema has kept: it names tenants that may be gone by now.

        Raises:
            OSError: one cannot be removed.
        """
        registry_schema.drop_copies(self._path)

    @contextlib.contextmanager
    def atomically(self) -> Iterator[None]:
        """Give a context whose changes are all kept at its end, or none if it raises."""
        with self._db:
            yield
        if self._log_pages >= LOG_PAGES_MAX:
            with contextlib.suppress(apsw.Error):  # the next change tries again
                self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _on_committed(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    # Tenants

    def create(
        self,
        tenant: str,
        *,
        uid_first: int | None,
        uid_count: int,
        display_name: str | None,
        quota: Quota,
        limits: TenantLimits = NO_LIMITS,
        now_ms: int,
    ) -> str:
        """Add a tenant with a first token; gives the token, which is kept nowhere.

        Args:
            tenant: The id, valid already.
            uid_first: First uid that tenants get, or None where they have none of their own.
            uid_count: How many uids there are from there on.
            display_name: What people call it.
            quota: What it may spend.
            limits: What it may have at once.
            now_ms: Unix time in ms.

        Raises:
            TenantExistsError: the id is taken.
            RegistryError: the uid range is used up.
        """
        with self._db:
            if self.find(tenant) is not None:
                raise TenantExistsError(tenant)
            uid = None if uid_first is None else self._next_uid(uid_first, uid_count)
            self._db.execute(
                "INSERT INTO tenants VALUES (?, ?, ?, 'enabled', ?, ?, ?)",
                (tenant, uid, display_name, now_ms, _json(quota), _json(limits)),
            )
            new = self.add_token(
                tenant, DEFAULT_TOKEN, int(ALL_SCOPES), now_ms=now_ms, expires_at=None
            )
        return new.secret

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

    def tenants(self, after: str = "", limit: int = -1) -> list[Tenant]:
        """Give tenants by id: so many of those after `after`, all for a negative number."""
        return self._tenants("WHERE id > ? ORDER BY id LIMIT ?", (after, limit))

    def update(
        self, tenant: str, *, display_name: str | None, quota: Quota, limits: TenantLimits
    ) -> None:
        """Give a tenant another name, quota and limits.

        Raises:
            UnknownTenantError: there is no such tenant.
        """
        with self._db:
            self.get(tenant)
            self._db.execute(
                "UPDATE tenants SET display_name = ?, quota = ?, limits = ? WHERE id = ?",
                (display_name, _json(quota), _json(limits), tenant),
            )

    def _tenants(self, where: str, values: tuple[str | int, ...]) -> list[Tenant]:
        columns = "id, uid, display_name, state, created_at, quota, limits"
        return [
            Tenant(
                id=row[0],
                uid=row[1],
                display_name=row[2],
                state=row[3],
                created_at=row[4],
                quota=msgspec.json.decode(row[5], type=Quota),
                limits=msgspec.json.decode(row[6], type=TenantLimits),
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

    def add_token(
        self, tenant: str, name: str, scopes: int, *, now_ms: int, expires_at: int | None
    ) -> NewToken:
        """Add a token.

        Args:
            tenant: Whose it is; it exists.
            name: Valid already.
            scopes: Bits of `protocol.methods.Scope`.
            now_ms: Unix time in ms.
            expires_at: Its end, Unix ms; None for none.
        """
        secret = mint_token(tenant)
        token = Token(
            id=mint_token_id(), name=name, scopes=scopes, created_at=now_ms, expires_at=expires_at
        )
        self._db.execute(
            "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?)",
            (token.id, tenant, digest(secret), name, scopes, now_ms, expires_at),
        )
        return NewToken(token, secret)

    def tokens(self, tenant: str) -> list[Token]:
        """Give a tenant's tokens, oldest first."""
        rows = self._db.execute(
            "SELECT id, name, scopes, created_at, expires_at FROM tokens WHERE tenant = ?"
            " ORDER BY created_at, id",
            (tenant,),
        )
        return [
            Token(id=row[0], name=row[1], scopes=row[2], created_at=row[3], expires_at=row[4])
            for row in rows
        ]

    def remove_token(self, token_id: str) -> None:
        """Forget a token."""
        self._db.execute("DELETE FROM tokens WHERE id = ?", (token_id,))

    def end_token(self, token_id: str, at_ms: int) -> None:
        """Have a token end at `at_ms` (Unix ms), or when it would have ended before."""
        self._db.execute(
            "UPDATE tokens SET expires_at = min(coalesce(expires_at, ?1), ?1) WHERE id = ?2",
            (at_ms, token_id),
        )

    def token_digests(self) -> dict[str, dict[str, TokenGrant]]:
        """Give, by tenant, its token digests (hex) with what they give."""
        found: dict[str, dict[str, TokenGrant]] = {}
        for tenant, *row in self._db.execute(
            "SELECT tenant, digest, id, scopes, expires_at FROM tokens"
        ):
            found.setdefault(tenant, {}).update([_grant(row)])
        return found

    def tokens_of(self, tenant: str) -> dict[str, TokenGrant]:
        """Give one tenant's token digests (hex) with what they give."""
        rows = self._db.execute(
            "SELECT digest, id, scopes, expires_at FROM tokens WHERE tenant = ?", (tenant,)
        )
        return dict(_grant(row) for row in rows)

    # What quotas have come to

    def kept_quotas(self) -> list[tuple[str, str]]:
        """Give what `keep_quotas` has written, by tenant."""
        return [(row[0], row[1]) for row in self._db.execute("SELECT * FROM kept_quotas")]

    @disk_refusals()
    def keep_quotas(self, texts: Iterable[tuple[str, bytes]]) -> None:
        """Write down what quotas of tenants have come to; one that is gone is passed over.

        Raises:
            GatewayError: UNAVAILABLE: the disk refuses.
        """
        with self.atomically():
            self._db.executemany(
                "INSERT OR REPLACE INTO kept_quotas SELECT id, ? FROM tenants WHERE id = ?",
                [(text.decode(), tenant) for tenant, text in texts],
            )

    # Counters

    def next_epoch(self) -> int:
        """Count one more start of a supervisor; the number is never given again.

        Raises:
            RegistryUnwritableError: it cannot be written.
        """
        try:
            with self._db:
                epoch = self._counter("epoch") + 1
                self._set_counter("epoch", epoch)
        except apsw.Error as error:
            msg = f"registry.sqlite cannot be written (is the disk full?): {error}"
            raise RegistryUnwritableError(msg) from error
        return epoch

    def _counter(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def _set_counter(self, name: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", (name, value))


def _json(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()


def _grant(row: Sequence[Any]) -> tuple[str, TokenGrant]:
    return row[0].hex(), TokenGrant(id=row[1], scopes=row[2], expires_at=row[3])
