"""Reading `audit.jsonl`, also while it is written: streaming, in memory that does not grow.

Only whole lines count. What stands after the last line end is a line that is just being written, or
one that a crash has torn; the next start repairs it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec

from protocol import limits
from protocol.control.shapes import AuditEntry, AuditPage, AuditQuery
from supervisor.audit import GENESIS, LINE_BYTES_MAX, AuditError, encode_entry, entry_hash

_decoder: Final = msgspec.json.Decoder(AuditEntry)


class Verdict(NamedTuple):
    """What `verify` has found.

    Attributes:
        entries: How many lines are good, from the first on.
        head: `<seq>:<hash>` of the last good one. An operator who keeps it elsewhere notices later
            if lines were cut off at the end, which no chain can tell by itself.
        fault: What is wrong with the line after them; None if nothing is.
        torn_bytes: How many bytes stand after the last line end.
    """

    entries: int
    head: str
    fault: str | None
    torn_bytes: int


def verify(path: Path, expected_head: str | None = None) -> Verdict:
    """Check every line against the one before it.

    Args:
        path: The file; none is an empty audit.
        expected_head: A `head` of an earlier time, which must still be part of the chain.

    Raises:
        OSError: it cannot be read.
    """
    count, seq, previous = 0, 0, GENESIS
    found = expected_head is None
    fault: str | None = None
    try:
        with path.open("rb") as file:
            lines = _Lines(file)
            for number, line in enumerate(lines, 1):
                fault = _fault(line, seq, previous)
                if fault is not None:
                    fault = f"line {number}: {fault}"
                    break
                entry = _decoder.decode(line)
                count, seq, previous = number, entry.seq, entry.hash
                found = found or expected_head == f"{seq}:{previous}"
            fault = fault or lines.fault
            torn_bytes = lines.torn_bytes
    except FileNotFoundError:
        torn_bytes = 0
    if fault is None and not found:
        fault = f"{expected_head} is not part of this audit: lines were cut off, or it is another"
    return Verdict(count, f"{seq}:{previous}", fault, torn_bytes)


def _fault(line: bytes, seq: int, previous: str) -> str | None:
    try:
        entry = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"it cannot be read: {error}"
    if entry.seq != seq + 1:
        return f"it has number {entry.seq}, after {seq}: lines are missing, moved or added"
    if entry.hash != entry_hash(previous, entry):
        return "its hash does not fit: it, or the line before it, was changed"
    if encode_entry(entry) != line:
        return "it is not written as we write lines: it was changed"
    return None


def entries(path: Path, *, tenant: str | None = None, since: int = 0) -> Iterator[AuditEntry]:
    """Give the lines about a tenant (or all) from a time (Unix ms) on, oldest first.

    Raises:
        AuditError: a line cannot be read; `verify` says more.
        OSError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for line in _Lines(file):
                entry = _entry(line)
                if _concerns(entry, tenant, since):
                    yield entry
    except FileNotFoundError:
        return


def page(path: Path, query: AuditQuery) -> AuditPage:
    """Give what a query asks for, reading a bounded part of the file.

    Raises:
        AuditError: a line cannot be read.
        OSError: the file cannot be read.
    """
    found: list[AuditEntry] = []
    try:
        with path.open("rb") as file:
            after = int(query.cursor or 0)
            start = _seek_after(file, after)
            for line in _Lines(file):
                entry = _entry(line)
                if _concerns(entry, query.tenant or None, query.since):
                    found.append(entry)
                read = file.tell() - start
                if len(found) >= query.limit or read >= limits.AUDIT_SCAN_BYTES_MAX:
                    return AuditPage(entries=found, next_cursor=str(entry.seq))
    except FileNotFoundError:
        pass
    return AuditPage(entries=found)


class _Lines:
    """Whole lines from where a file stands on, without their ends."""

    def __init__(self, file: BinaryIO) -> None:
        self._file: Final = file
        self.torn_bytes = 0
        self.fault: str | None = None

    def __iter__(self) -> Iterator[bytes]:
        while line := self._file.readline(LINE_BYTES_MAX + 1):
            if not line.endswith(b"\n"):
                self.torn_bytes = len(line)
                if len(line) > LINE_BYTES_MAX:
                    self.fault = f"a line is over {LINE_BYTES_MAX} bytes"
                return
            yield line[:-1]


def _entry(line: bytes) -> AuditEntry:
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"a line of audit.jsonl cannot be read ({error}); openclaw audit verify says which"
        raise AuditError(msg) from error


def _concerns(entry: AuditEntry, tenant: str | None, since: int) -> bool:
    return entry.ts >= since and tenant in (None, entry.tenant)


def _seek_after(file: BinaryIO, seq: int) -> int:
    """Go to the first line whose number is over `seq`, by bisection; gives where that is."""
    low, high = 0, file.seek(0, 2)
    while low < high:
        middle = (low + high) // 2
        start = _line_start(file, middle)
        file.seek(start)
        line = file.readline(LINE_BYTES_MAX + 1)
        if line.endswith(b"\n") and _entry(line[:-1]).seq <= seq:
            low = start + len(line)
        else:
            high = start
    return file.seek(low)


def _line_start(file: BinaryIO, position: int) -> int:
    """Give where the line that holds the byte at `position` begins."""
    start = max(0, position - LINE_BYTES_MAX)
    file.seek(start)
    return start + file.read(position - start).rfind(b"\n") + 1
