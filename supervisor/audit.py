"""`audit.jsonl`: every change of state, one line each, chained by hash.

A line's `hash` is the SHA-256 of the line before's `hash` followed by this line's other fields as
canonical JSON, so that a line that was changed, dropped or moved breaks every line after it. What
happened to a tenant stays when the tenant is deleted. No secret is ever part of a line.
"""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any, Final

import msgspec

from protocol.control.shapes import AuditEntry
from supervisor.state import StateError

GENESIS: Final = "0" * 64
LINE_BYTES_MAX: Final = 32 * 1024
# Holds the last whole line and a torn one after it.
_TAIL_BYTES: Final = 2 * LINE_BYTES_MAX
_encoder: Final = msgspec.json.Encoder(order="sorted")


class AuditError(StateError):
    """The audit cannot be continued."""


def encode_entry(entry: AuditEntry) -> bytes:
    """Give the one way in which an entry is written, without the line end."""
    return _encoder.encode(entry)


def entry_hash(previous: str, entry: AuditEntry) -> str:
    """Give the hash (hex) that `entry` must carry after a line with the hash `previous`."""
    body = encode_entry(msgspec.structs.replace(entry, hash=""))
    return hashlib.sha256(previous.encode("ascii") + body).hexdigest()


class Audit:
    """The open audit; one writer at a time, whoever holds the state root."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._descriptor: Final = os.open(path, flags, 0o600)
        self.repaired_bytes = 0
        """How much of a torn last line (a crash in mid-write) was cut off at the start."""
        try:
            last = self._last_entry()
        except BaseException:
            os.close(self._descriptor)
            raise
        self.seq = last.seq if last else 0
        """The number of the newest line."""
        self._hash = last.hash if last else GENESIS

    def _last_entry(self) -> AuditEntry | None:
        size = os.fstat(self._descriptor).st_size
        start = max(0, size - _TAIL_BYTES)
        tail = os.pread(self._descriptor, _TAIL_BYTES, start)
        complete = tail.rfind(b"\n") + 1
        if complete < len(tail):
            if not complete and start:
                msg = "the last line of audit.jsonl is over its bound"
                raise AuditError(msg)
            self.repaired_bytes = len(tail) - complete
            os.ftruncate(self._descriptor, start + complete)
            os.fsync(self._descriptor)
        self._end = start + complete
        lines = tail[:complete].splitlines()
        if not lines:
            return None
        try:
            return msgspec.json.decode(lines[-1], type=AuditEntry)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            msg = f"the last line of audit.jsonl cannot be read: {error}"
            raise AuditError(msg) from error

    def append(
        self, action: str, *, actor: str, now_ms: int, tenant: str | None = None, **detail: Any
    ) -> None:
        """Write one line; it is on disk when this returns.

        Args:
            action: What was done, `<thing>.<verb>`.
            actor: Who did it.
            now_ms: Unix time in ms.
            tenant: Whom it concerns.
            detail: JSON values that say what changed; never a secret.

        Raises:
            AuditError: the line is too long, or was not taken whole; none of it stays.
            OSError: it cannot be written; none of it stays.
        """
        entry = AuditEntry(
            seq=self.seq + 1, ts=now_ms, actor=actor, action=action, tenant=tenant, detail=detail
        )
        entry = msgspec.structs.replace(entry, hash=entry_hash(self._hash, entry))
        line = encode_entry(entry) + b"\n"
        if len(line) > LINE_BYTES_MAX:
            msg = f"a line of audit.jsonl is over {LINE_BYTES_MAX} bytes"
            raise AuditError(msg)
        self._write(line)
        self.seq, self._hash = entry.seq, entry.hash

    def _write(self, line: bytes) -> None:
        if os.fstat(self._descriptor).st_size > self._end:
            # Left by a write that failed, and that the disk did not let us undo.
            os.ftruncate(self._descriptor, self._end)
        try:
            written = os.pwrite(self._descriptor, line, self._end)
            os.fsync(self._descriptor)
        except OSError:
            self._take_back()
            raise
        if written != len(line):
            self._take_back()
            msg = "audit.jsonl takes no more (is the disk full?)"
            raise AuditError(msg)
        self._end += written

    def _take_back(self) -> None:
        with contextlib.suppress(OSError):  # then before the next line
            os.ftruncate(self._descriptor, self._end)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
