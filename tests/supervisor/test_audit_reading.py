"""The audit read and checked: what was done to it is found, however large it is."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits
from protocol.control.shapes import AuditQuery
from supervisor import audit_reading
from supervisor.audit import LINE_BYTES_MAX, Audit, AuditError, encode_entry, entry_hash
from tests.supervisor.scripts import line_of, running

LINES = 9

WRITE_ON = """
import itertools, sys
from pathlib import Path
from supervisor.audit import Audit
audit = Audit(Path(sys.argv[1]))
for number in itertools.count():
    audit.append("thing.done", actor="me", now_ms=number, tenant="acme", text="x" * 3000)
    print(number, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    fill(path)
    return path


def fill(path: Path, lines: int = LINES, text: str = "") -> None:
    audit = Audit(path)
    for number in range(1, lines + 1):
        audit.append("thing.done", actor="me", now_ms=number, tenant=f"t{number % 3}", text=text)
    audit.close()


def rewrite(path: Path, change: Callable[[list[bytes]], object]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))


def test_what_was_written_is_whole(path: Path) -> None:
    verdict = audit_reading.verify(path)
    last = list(audit_reading.entries(path))[-1]
    assert verdict == (LINES, f"{LINES}:{last.hash}", None, 0)


def test_none_and_an_empty_one_are_whole(tmp_path: Path) -> None:
    for name in ("none", "empty"):
        if name == "empty":
            (tmp_path / name).touch()
        verdict = audit_reading.verify(tmp_path / name)
        assert (verdict.entries, verdict.fault) == (0, None)
        assert list(audit_reading.entries(tmp_path / name)) == []
        assert audit_reading.page(tmp_path / name, AuditQuery()).entries == []


def edited(line: bytes, **changes: object) -> bytes:
    return json.dumps(json.loads(line) | changes, separators=(",", ":")).encode() + b"\n"


TAMPERINGS: dict[str, tuple[Callable[[list[bytes]], object], int]] = {
    "a changed word": (lambda lines: lines.__setitem__(3, lines[3].replace(b"me", b"he")), 4),
    "a dropped line": (lambda lines: lines.pop(3), 4),
    "the first line dropped": (lambda lines: lines.pop(0), 1),
    "two lines swapped": (lambda lines: lines.insert(3, lines.pop(4)), 4),
    "a line twice": (lambda lines: lines.insert(3, lines[3]), 5),
    "a line added": (lambda lines: lines.append(edited(lines[-1], seq=LINES + 1)), LINES + 1),
    "an unknown field": (lambda lines: lines.__setitem__(3, edited(lines[3], x=1)), 4),
    "other spacing": (lambda lines: lines.__setitem__(3, lines[3].replace(b":", b": ", 1)), 4),
    "a field twice": (
        lambda lines: lines.__setitem__(3, lines[3].replace(b"{", b'{"ts":1,', 1)),
        4,
    ),
    "no JSON": (lambda lines: lines.__setitem__(3, b"x\n"), 4),
    "an empty line": (lambda lines: lines.insert(3, b"\n"), 4),
}


@pytest.mark.parametrize(("change", "number"), TAMPERINGS.values(), ids=TAMPERINGS)
def test_a_line_that_was_touched_is_found(
    path: Path, change: Callable[[list[bytes]], object], number: int
) -> None:
    rewrite(path, change)
    verdict = audit_reading.verify(path)
    assert verdict.entries == number - 1
    assert verdict.fault is not None
    assert verdict.fault.startswith(f"line {number}: ")


@settings(max_examples=150)
@given(position=st.integers(min_value=0), bit=st.integers(0, 7))
def test_no_bit_can_be_turned(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    fill(path, 3)
    data = bytearray(path.read_bytes())
    # The last line end aside: without it the line is one that is not finished.
    data[position % (len(data) - 1)] ^= 1 << bit
    path.write_bytes(data)
    verdict = audit_reading.verify(path)
    assert verdict.fault is not None or verdict.torn_bytes


def test_lines_cut_off_at_the_end_are_missed_by_who_kept_the_head(path: Path) -> None:
    head = audit_reading.verify(path).head
    assert audit_reading.verify(path, head).fault is None
    fill(path, 2)
    assert audit_reading.verify(path, head).fault is None
    rewrite(path, lambda lines: lines.__delitem__(slice(5, None)))
    assert audit_reading.verify(path).fault is None
    fault = audit_reading.verify(path, head).fault
    assert fault is not None
    assert "cut off" in fault


def test_a_chain_made_anew_is_another(path: Path) -> None:
    head = audit_reading.verify(path).head
    path.unlink()
    fill(path, LINES, text="forged")
    assert audit_reading.verify(path).fault is None
    assert audit_reading.verify(path, head).fault is not None


def test_a_torn_line_is_told_apart_from_a_broken_chain(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"seq":')
    verdict = audit_reading.verify(path)
    assert (verdict.entries, verdict.fault, verdict.torn_bytes) == (LINES, None, 7)
    assert len(list(audit_reading.entries(path))) == LINES


def test_a_line_without_end_is_no_torn_one(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x" * (LINE_BYTES_MAX + 2))
    assert audit_reading.verify(path).fault is not None


def test_it_is_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with running(WRITE_ON, path) as process:
        for _ in range(30):
            number = int(line_of(process))
            verdict = audit_reading.verify(path)
            assert verdict.fault is None
            assert verdict.entries > number
            assert sum(1 for _ in audit_reading.entries(path)) >= verdict.entries


def test_what_is_asked_for_is_given(path: Path) -> None:
    about = list(audit_reading.entries(path, tenant="t1"))
    assert [entry.seq for entry in about] == [1, 4, 7]
    assert [entry.seq for entry in audit_reading.entries(path, tenant="t1", since=4)] == [4, 7]
    rewrite(path, lambda lines: lines.__setitem__(3, b"x\n"))
    with pytest.raises(AuditError, match="verify"):
        list(audit_reading.entries(path))


@pytest.mark.parametrize("after", range(LINES + 2))
@pytest.mark.parametrize("text", ["", "x" * 20_000])
def test_a_page_begins_after_its_cursor(tmp_path: Path, after: int, text: str) -> None:
    path = tmp_path / "audit.jsonl"
    fill(path, text=text)
    page = audit_reading.page(path, AuditQuery(cursor=str(after)))
    assert [entry.seq for entry in page.entries] == list(range(after + 1, LINES + 1))


def test_a_page_reads_a_bounded_part(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "AUDIT_SCAN_BYTES_MAX", 1)
    found, cursor, pages = [], "0", 0
    while True:
        page = audit_reading.page(path, AuditQuery(cursor=cursor, tenant="t1"))
        found += [entry.seq for entry in page.entries]
        pages += 1
        if not page.next_cursor:
            break
        cursor = page.next_cursor  # also where nothing was found
    assert found == [1, 4, 7]
    assert pages == LINES + 1


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    fill(path, 1)
    (entry,) = audit_reading.entries(path)
    with path.open("wb") as file:
        previous = "0" * 64
        for number in range(1, 3001):
            line = {"text": "x" * 10_000}
            entry = type(entry)(seq=number, ts=1, actor="me", action="a.b", detail=line)
            entry = type(entry)(
                seq=number,
                ts=1,
                actor="me",
                action="a.b",
                detail=line,
                hash=entry_hash(previous, entry),
            )
            previous = entry.hash
            file.write(encode_entry(entry) + b"\n")
    tracemalloc.start()
    try:
        assert audit_reading.verify(path).entries == 3000
        assert sum(1 for _ in audit_reading.entries(path)) == 3000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limits.MIB, f"{peak} bytes for a file of {path.stat().st_size}"
