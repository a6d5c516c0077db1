"""The state root: where it is, what lies in it, and who holds it.

Everything the gateway keeps is below one directory, which has one owner at a time: whoever holds
the lock on `gateway.lock`, a gateway or a command that works while there is none.
"""

import contextlib
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import msgspec

from protocol.names import ADMIN_KEY_PREFIX, digest, is_tenant_id

TENANT_FOLDERS: Final = ("sessions", "memory", "plugins", "sandbox", "cron", "channels")
LOCK_WAIT_SECONDS: Final = 10.0
LOCK_POLL_SECONDS: Final = 0.02
_ADMIN_KEY: Final = re.compile(r"[!-~]{16,256}")
_ADMIN_KEY_FILE_BYTES_MAX: Final = 4096
_LOCK_BYTES_MAX: Final = 4096


class StateError(Exception):
    """The state root cannot be used; the message names the path and the fix."""


class LockedError(Exception):
    """Another process holds the state root."""

    def __init__(self, holder: "Holder") -> None:
        super().__init__(f"the state directory is held by process {holder.pid}")
        self.holder: Final = holder


class Holder(msgspec.Struct, frozen=True):
    """Who holds the state root. `url` is empty until (or unless) it serves requests."""

    pid: int = 0
    url: str = ""


def default_root() -> Path:
    """Give `OPENCLAW_STATE_DIR`, else `/var/lib/openclaw` for root and `~/.openclaw` for a user.

    Raises:
        StateError: none is named and the user has no home.
    """
    named = os.environ.get("OPENCLAW_STATE_DIR")
    if named:
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/openclaw")
    try:
        return Path.home() / ".openclaw"
    except RuntimeError as error:
        msg = f"{error}; name the state directory with OPENCLAW_STATE_DIR"
        raise StateError(msg) from error


class StateRoot:
    """Paths below the state root, and the files of it that are no database."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.config: Final = path / "config.yaml"
        self.log: Final = path / "gateway.log"
        self.registry: Final = path / "registry.sqlite"
        self.audit: Final = path / "audit.jsonl"
        self.tenants: Final = path / "tenants"
        self.tls: Final = path / "tls"
        self.ledger: Final = path / "ledger"
        self._admin_key: Final = path / "admin.key"
        self._lock: Final = path / "gateway.lock"

    def prepare(self) -> None:
        """Make what is missing.

        Raises:
            StateError: it cannot be made, or (as root) a tenant's uid could not reach it.
        """
        root = os.geteuid() == 0
        # Root's tenants run under uids of their own, which have to pass through every directory
        # that is made here. By the umask, since it holds from the first moment and for ancestors.
        umask = os.umask(0o066 if root else 0o077)
        try:
            self.tenants.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = (
                f"{error.filename} cannot be made: {error.strerror}; "
                "name another directory with OPENCLAW_STATE_DIR"
            )
            raise StateError(msg) from error
        finally:
            os.umask(umask)
        if root:
            self._check_reachable()

    def prepare_ledger(self, uid: int | None) -> None:
        """Make the directory of what egress keeps, which is its own.

        Args:
            uid: Egress's, as root.

        Raises:
            OSError: it cannot be made, or given to it.
        """
        self.ledger.mkdir(mode=0o700, exist_ok=True)
        if uid is not None:
            os.chown(self.ledger, uid, uid, follow_symlinks=False)

    def _check_reachable(self) -> None:
        for directory in (self.tenants, *self.tenants.resolve().parents):
            if not directory.stat().st_mode & stat.S_IXOTH:
                msg = (
                    f"{directory} cannot be passed by other users, so no tenant could reach its "
                    f"own directory below it; use another state directory or chmod o+x {directory}"
                )
                raise StateError(msg)

    def tenant_directory(self, tenant: str) -> Path:
        """Give the directory of a tenant.

        Raises:
            ValueError: `tenant` is no tenant id.
        """
        if not is_tenant_id(tenant):
            msg = f"not a tenant id: {tenant!r}"
            raise ValueError(msg)
        return self.tenants / tenant

    def admin_key(self) -> str:
        """Give the admin key: `OPENCLAW_ADMIN_KEY`, else the one in `admin.key`.

        Raises:
            StateError: there is none, it cannot be read, or it is no key.
        """
        source: str | Path = "OPENCLAW_ADMIN_KEY"
        key = os.environ.get("OPENCLAW_ADMIN_KEY")
        if not key:
            source = self._admin_key
            try:
                with source.open("rb") as file:
                    key = file.read(_ADMIN_KEY_FILE_BYTES_MAX).decode("latin-1").strip()
            except FileNotFoundError as error:
                msg = f"{source} does not exist yet; start the gateway once"
                raise StateError(msg) from error
            except OSError as error:
                msg = f"{source} cannot be read: {error.strerror}; set OPENCLAW_ADMIN_KEY"
                raise StateError(msg) from error
        # An empty key above all: whoever presents none at all would hold it.
        if not _ADMIN_KEY.fullmatch(key):
            msg = f"{source} is no admin key: 16 to 256 printable ASCII characters without spaces"
            raise StateError(msg)
        return key

    def mint_admin_key(self) -> bytes:
        """Make `admin.key` if there is none; gives the digest of the one in force.

        Raises:
            StateError: the one that is there is no key.
            OSError: it cannot be written.
        """
        if not os.path.lexists(self._admin_key):
            # Whole under another name first: half a key must not pass for the key.
            fresh = self._admin_key.with_name(f".new-admin.key-{secrets.token_hex(8)}")
            try:
                descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 - a descriptor
                    file.write(ADMIN_KEY_PREFIX + secrets.token_hex(32) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                with contextlib.suppress(FileExistsError):
                    os.link(fresh, self._admin_key)
            finally:
                fresh.unlink(missing_ok=True)
        return digest(self.admin_key())

    def acquire(self, wait_seconds: float = 0.0) -> "StateLock":
        """Take the state root for this process.

        Args:
            wait_seconds: How long to wait for a holder that serves no requests: a command, or a
                gateway that starts or stops, is soon done.

        Raises:
            LockedError: somebody else has it.
            OSError: the lock cannot be opened.
        """
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                return StateLock(self._lock)
            except LockedError as error:
                if error.holder.url or time.monotonic() >= deadline:
                    raise
            time.sleep(LOCK_POLL_SECONDS)


class StateLock:
    """Holds the state root until it is released or the process ends."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take()
            self.announce("")
        except BaseException:
            os.close(self._descriptor)
            raise

    def _take(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            text = os.pread(self._descriptor, _LOCK_BYTES_MAX, 0)
            try:
                holder = msgspec.json.decode(text, type=Holder)
            except msgspec.DecodeError:
                holder = Holder()  # it is just writing
            raise LockedError(holder) from error

    def announce(self, url: str) -> None:
        """Write down who holds the lock and where it serves."""
        text = msgspec.json.encode(Holder(os.getpid(), url))
        # In this order: on a full disk the block that the file has is all there is.
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))

    def release(self) -> None:
        """Let go. What the file says means nothing while nobody holds it."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def check_uids(root: Path, strangers: Sequence[str], given: range, shared: range) -> None:
    """Refuse, as root, a state root whose uids do not fit this gateway.

    Args:
        root: Which.
        strangers: Tenants in it that have no uid of their own.
        given: What tenants have had.
        shared: What the gateway's own processes are to have.

    Raises:
        StateError: it is an ordinary user's, or a uid would be somebody else's too.
    """
    if strangers:
        msg = (
            f"{root} was made by an ordinary user ({strangers[0]} has no uid of its own); "
            "run the gateway as that user, or use another state directory"
        )
        raise StateError(msg)
    if shared.start < given.stop and given.start < shared.stop:
        msg = (
            f"isolation.uid_first: the gateway's own processes would get uids from {shared.start}, "
            f"which tenants have had; name one from {given.stop} on"
        )
        raise StateError(msg)
