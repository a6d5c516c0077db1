"""`config.yaml` of the tenant: read when it has changed, written as a whole.

Files and YAML are a thread's matter. Another generation of the worker may write the file as well:
what is known of it is good for as long as it is the same file, and writers take turns by a lock.
"""

import hashlib
import os
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from protocol import documents, limits, params
from protocol.errors import ErrorCode, GatewayError
from protocol.methods.config import Overlay
from worker.store.files import Directory, NotAFileError, UnsafePathError
from worker.store.gate import Gate
from worker.store.lane import Lane

PATH: Final = "config.yaml"
LOCK: Final = ".config.lock"

Tree = dict[str, Any]


class Loaded(NamedTuple):
    """What the file holds. With `issues` it cannot be used, and `overlay` is empty."""

    overlay: Overlay
    exists: bool
    hash: str
    issues: tuple[str, ...] = ()

    @property
    def tree(self) -> Tree:
        """The overlay as plain values, secrets and all."""
        tree: Tree = msgspec.to_builtins(self.overlay)
        return tree


class _Identity(NamedTuple):
    inode: int
    changed_ns: int
    size: int


class OverlayError(Exception):
    """The file cannot be used: trying again changes nothing (exit code 78)."""


class OverlayFile:
    """See the module.

    Args:
        directory: The tenant's directory.
        gate: Says whether the tenant may write.
    """

    def __init__(self, directory: Directory, gate: Gate | None = None) -> None:
        self._directory: Final = directory
        self._gate: Final = gate or Gate()
        self._lane: Final = Lane("config")
        self._known: tuple[_Identity | None, Loaded] | None = None

    @property
    def last_seen(self) -> Overlay:
        """What the file held when it was last looked at."""
        return Overlay() if self._known is None else self._known[1].overlay

    def check(self) -> None:
        """Look at the file, when nothing else waits yet.

        Raises:
            OverlayError: it cannot be read, or not be used.
        """
        try:
            loaded = self._read()
        except OSError as error:
            raise OverlayError(f"{PATH} cannot be read: {error.strerror}") from error
        if loaded.issues:
            raise OverlayError(f"{PATH}: {loaded.issues[0]}")

    async def current(self) -> Loaded:
        """Give what the file holds now.

        Raises:
            GatewayError: UNAVAILABLE: it cannot be read.
        """
        try:
            if self._known is not None and self._known[0] == self._identity():
                return self._known[1]
            return await self._lane.run(self._read)
        except OSError as error:
            raise _unreadable() from error

    async def usable(self) -> Overlay:
        """Give what the file says now.

        Raises:
            GatewayError: UNAVAILABLE: it cannot be read. CONFLICT: it cannot be used; what it would
                have forbidden is not known, so nothing is allowed.
        """
        loaded = await self.current()
        if loaded.issues:
            msg = f"config.yaml cannot be used ({loaded.issues[0]}); config.set replaces it"
            raise GatewayError(ErrorCode.CONFLICT, msg)
        return loaded.overlay

    async def write(self, change: Callable[[Loaded], Overlay], base_hash: str | None) -> Loaded:
        """Write what `change` makes of the file. What changes nothing is done already.

        Raises:
            GatewayError: CONFLICT: it is not the file of `base_hash`. UNAVAILABLE: it cannot be
                written. And what `change` raises.
        """
        try:
            self._gate.check()
            return await self._lane.run(lambda: self._write(change, base_hash))
        except OSError as error:
            raise _unreadable() from error

    def close(self) -> None:
        """Finish what was begun."""
        self._lane.close()

    # In the lane.

    def _read(self) -> Loaded:
        identity = self._identity()
        loaded = load(self._text())
        # Read after it was looked at: a file that comes in between is read again.
        self._known = identity, loaded
        return loaded

    def _write(self, change: Callable[[Loaded], Overlay], base_hash: str | None) -> Loaded:
        with self._directory.lock(LOCK):
            before = self._read()
            overlay = change(before)
            text = _rendered(overlay)
            if before.exists and not before.issues and overlay == before.overlay:
                return before
            if base_hash not in (None, before.hash):
                raise _changed_since(before)
            with self._directory.open_write(PATH) as file:
                file.write(text)
            return self._read()

    # In either thread.

    def _identity(self) -> _Identity | None:
        try:
            with self._directory.open_read(PATH) as file:
                found = os.fstat(file.fileno())
        except FileNotFoundError:
            return None
        except (UnsafePathError, NotAFileError):
            return _Identity(0, 0, 0)
        return _Identity(found.st_ino, found.st_mtime_ns, found.st_size)

    def _text(self) -> bytes | None:
        try:
            with self._directory.open_read(PATH) as file:
                return file.read(limits.OVERLAY_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except (UnsafePathError, NotAFileError):
            return b"- not a regular file"


def load(text: bytes | None) -> Loaded:
    """Give what a file's text holds; None: there is no file."""
    digest = hashlib.sha256(text or b"").hexdigest()
    if text is None:
        return Loaded(Overlay(), exists=False, hash=digest)
    if len(text) > limits.OVERLAY_BYTES_MAX:
        issue = f"more than {limits.OVERLAY_BYTES_MAX} bytes"
        return Loaded(Overlay(), exists=True, hash=digest, issues=(issue,))
    try:
        overlay = overlay_of(documents.parse(text))
    except documents.DocumentError as error:
        issue = params.printable(str(error), params.REASON_CHARS_SHOWN)
        return Loaded(Overlay(), exists=True, hash=digest, issues=(issue,))
    except GatewayError as error:
        return Loaded(Overlay(), exists=True, hash=digest, issues=(error.message,))
    return Loaded(overlay, exists=True, hash=digest)


def overlay_of(tree: Any) -> Overlay:
    """Give the overlay that a tree of plain values is.

    Raises:
        GatewayError: INVALID_REQUEST naming the key: one that a tenant may not write, or a wrong
            value.
    """
    try:
        return msgspec.convert(tree, Overlay)
    except msgspec.ValidationError as error:
        path, reason = params.explain(str(error))
        if reason == params.UNKNOWN_FIELD:
            reason = "a tenant may not write this key; config.schema has those it may"
        where = params.printable(path, params.NAME_CHARS_SHOWN)
        why = params.printable(reason, params.REASON_CHARS_SHOWN)
        message = f"{where or 'the configuration'}: {why}"
        raise GatewayError(
            ErrorCode.INVALID_REQUEST, message, field=f"raw.{where}" if where else "raw"
        ) from None


def _rendered(overlay: Overlay) -> bytes:
    text = documents.render(msgspec.to_builtins(overlay)).encode()
    if len(text) > limits.OVERLAY_BYTES_MAX:
        message = f"the configuration has more than {limits.OVERLAY_BYTES_MAX} bytes"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="raw")
    return text


def _changed_since(found: Loaded) -> GatewayError:
    message = "the configuration has changed since; read it again (config.get)"
    return GatewayError(ErrorCode.CONFLICT, message, field="baseHash", hash=found.hash)


def _unreadable() -> GatewayError:
    return GatewayError(ErrorCode.UNAVAILABLE, "the configuration cannot be read or written")
