"""Keys that tenants bring for providers: sealed on the disk, opened for the call that needs one.

AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits. What is sealed is bound to tenant and
provider as additional data: moved to another row it does not open. The key that seals is minted
once, in `seal.key` beside the rows. Whoever reads the rows alone has nothing.
"""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from protocol.egress import KnownKey
from protocol.errors import ErrorCode, GatewayError

SEAL_KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS keys (
    tenant TEXT NOT NULL,
    provider TEXT NOT NULL,
    nonce BLOB NOT NULL,
    sealed BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, provider)
) STRICT, WITHOUT ROWID
"""


class KeysError(Exception):
    """`seal.key` or the rows cannot be used; the message names the file and the fix."""


class _Sealed(NamedTuple):
    nonce: bytes
    sealed: bytes
    created_at: int


class OwnKeys:
    """The keys of all tenants. Not thread-safe; every change is on the disk when it returns.

    In memory they are sealed too. What opens them is imported when the first one is there.

    Args:
        directory: Where `seal.key` and `keys.sqlite` are, or will be.

    Raises:
        KeysError: what is there cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        self._seal_path: Final = directory / "seal.key"
        self._path: Final = directory / "keys.sqlite"
        self._db: apsw.Connection | None = None
        self._known: Final[dict[str, dict[str, _Sealed]]] = {}
        self._seal_key: bytes | None = None
        if self._path.exists():
            self._load()

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def key(self, tenant: str, provider: str) -> str | None:
        """Give a tenant's own key for a provider; None if it has none.

        Raises:
            GatewayError: UNAVAILABLE, what is kept does not open: it was changed, moved here from
                elsewhere, or `seal.key` is another.
        """
        kept = self._known.get(tenant, {}).get(provider)
        if kept is None:
            return None
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - few gateways need it
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        try:
            cipher = AESGCM(self._seal())
            return cipher.decrypt(kept.nonce, kept.sealed, _bound_to(tenant, provider)).decode()
        except (InvalidTag, UnicodeDecodeError, KeysError):
            message = f"your key for {provider} does not open any more; set it again"
            raise GatewayError(ErrorCode.UNAVAILABLE, message, provider=provider) from None

    def known(self, tenant: str) -> list[KnownKey]:
        """Say which keys a tenant has."""
        return [
            KnownKey(provider=provider, created_at=kept.created_at)
            for provider, kept in sorted(self._known.get(tenant, {}).items())
        ]

    def providers(self, tenant: str) -> frozenset[str]:
        """Say for which providers a tenant has keys."""
        return frozenset(self._known.get(tenant, ()))

    def set(self, tenant: str, provider: str, key: str, now_ms: int) -> None:
        """Keep a tenant's key for a provider, in the place of an earlier one.

        Raises:
            GatewayError: UNAVAILABLE, it cannot be written.
        """
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        try:
            nonce = secrets.token_bytes(NONCE_BYTES)
            sealed = AESGCM(self._seal()).encrypt(nonce, key.encode(), _bound_to(tenant, provider))
            self._open().execute(
                "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?)",
                (tenant, provider, nonce, sealed, now_ms),
            )
        except (KeysError, apsw.Error, OSError):
            raise _UNWRITABLE from None
        self._known.setdefault(tenant, {})[provider] = _Sealed(nonce, sealed, now_ms)

    def delete(self, tenant: str, provider: str) -> bool:
        """Forget a tenant's key for a provider; gives whether there was one.

        Raises:
            GatewayError: UNAVAILABLE, it cannot be written.
        """
        mine = self._known.get(tenant, {})
        if provider not in mine:
            return False
        self._forget("DELETE FROM keys WHERE tenant = ? AND provider = ?", (tenant, provider))
        del mine[provider]
        return True

    def forget(self, tenant: str) -> None:
        """Forget all that a tenant has brought: it is gone.

        Raises:
            GatewayError: UNAVAILABLE, it cannot be written.
        """
        if self._known.get(tenant):
            self._forget("DELETE FROM keys WHERE tenant = ?", (tenant,))
        self._known.pop(tenant, None)

    # Inside.

    def _forget(self, statement: str, of: tuple[str, ...]) -> None:
        try:
            db = self._open()
            db.execute(statement, of)
            # What was deleted is not left in the log either.
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except (KeysError, apsw.Error, OSError):
            raise _UNWRITABLE from None

    def _open(self) -> apsw.Connection:
        if self._db is not None:
            return self._db
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            os.close(descriptor)
            db = apsw.Connection(str(self._path))
            try:
                for pragma in (
                    "busy_timeout=5000",
                    "journal_mode=WAL",
                    "synchronous=FULL",
                    "trusted_schema=OFF",
                    "secure_delete=ON",
                    "temp_store=MEMORY",
                ):
                    db.execute(f"PRAGMA {pragma}")
                db.execute(_SCHEMA)
            except BaseException:
                db.close()
                raise
        except (OSError, apsw.Error) as error:
            msg = f"{self._path} cannot be opened: {error}"
            raise KeysError(msg) from error
        self._db = db
        return db

    def _load(self) -> None:
        try:
            rows = self._open().execute(
                "SELECT tenant, provider, nonce, sealed, created_at FROM keys"
            )
            for tenant, provider, nonce, sealed, created_at in rows:
                self._known.setdefault(tenant, {})[provider] = _Sealed(nonce, sealed, created_at)
        except apsw.Error as error:
            msg = f"{self._path} cannot be read: {error}; tenants set their keys anew without it"
            raise KeysError(msg) from error

    def _seal(self) -> bytes:
        """Give the key that seals; minted when there are no rows that another one has sealed.

        Raises:
            KeysError: it is missing, or no key.
            OSError: it cannot be read or written.
        """
        if self._seal_key is None:
            if not self._seal_path.exists() and not self._known:
                self._mint()
            try:
                found = self._seal_path.read_bytes()
            except FileNotFoundError as error:
                msg = f"{self._seal_path} is missing: put it back, or remove {self._path} too"
                raise KeysError(msg) from error
            if len(found) != SEAL_KEY_BYTES:
                msg = f"{self._seal_path} is no key: it must hold {SEAL_KEY_BYTES} bytes"
                raise KeysError(msg)
            self._seal_key = found
        return self._seal_key

    def _mint(self) -> None:
        fresh = self._seal_path.with_suffix(".new")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SEAL_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self._seal_path)
        directory = os.open(self._seal_path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


_UNWRITABLE: Final = GatewayError(ErrorCode.UNAVAILABLE, "keys cannot be kept just now; try again")


def _bound_to(tenant: str, provider: str) -> bytes:
    # Neither can hold a NUL, so no two pairs are written alike.
    return f"openclaw own key\0{tenant}\0{provider}".encode()
