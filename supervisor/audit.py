"""`audit.jsonl`: every change of state, one line each, chained by hash.

A line's `hash` is the SHA-256 of the line before's `hash` followed by this line's other fields as
canonical JSON, so that a line that was changed, dropped or moved breaks every line after it. What
happened to a tenant stays when the tenant is deleted. No secret is ever part of a line.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, Final

import msgspec

from supervisor.state import StateError

_GENESIS: Final = "0" * 64
LINE_BYTES_MAX: Final = 32 * 1024
# Holds the last whole line and a torn one after it.
_TAIL_BYTES: Final = 2 * LINE_BYTES_MAX
_encoder: Final = msgspec.json.Encoder(order="sorted")


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. `ts` is Unix ms, `actor` who did it, `detail` what changed."""

    seq: int
    ts: int
    actor: str
    action: str
    tenant: str | None = None
    detail: dict[str, Any] = {}
    hash: str = ""


class AuditError(StateError):
    """The audit cannot be continued."""


def entry_hash(previous: str, entry: Entry) -> str:
    """Give the hash (hex) that `entry` must carry after a line with the hash `previous`."""
    body = _encoder.encode(msgspec.structs.replace(entry, hash=""))
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
        self._seq = last.seq if last else 0
        self._hash = last.hash if last else _GENESIS

    def _last_entry(self) -> Entry | None:
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
        lines = tail[:complete].splitlines()
        if not lines:
            return None
        try:
            return msgspec.json.decode(lines[-1], type=Entry)
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
        entry = Entry(
            seq=self._seq + 1, ts=now_ms, actor=actor, action=action, tenant=tenant, detail=detail
        )
        entry = msgspec.structs.replace(entry, hash=entry_hash(self._hash, entry))
        line = _encoder.encode(entry) + b"\n"
        if len(line) > LINE_BYTES_MAX:
            msg = f"a line of audit.jsonl is over {LINE_BYTES_MAX} bytes"
            raise AuditError(msg)
        self._write(line)
        self._seq, self._hash = entry.seq, entry.hash

    def _write(self, line: bytes) -> None:
        end = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            written = os.pwrite(self._descriptor, line, end)
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise
        if written != len(line):
            os.ftruncate(self._descriptor, end)
            msg = "audit.jsonl takes no more (is the disk full?)"
            raise AuditError(msg)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
