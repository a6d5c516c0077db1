import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.control.shapes import AuditEntry
from supervisor.audit import LINE_BYTES_MAX, Audit, AuditError, entry_hash
from tests.supervisor.scripts import line_of, running

APPEND_FOR_EVER = """
import itertools, sys
from pathlib import Path
from protocol.control.shapes import AuditEntry
from supervisor.audit import Audit
audit = Audit(Path(sys.argv[1]))
for number in itertools.count(1):
    audit.append("test.done", actor="me", now_ms=number, tenant="acme", text="x" * number)
    print(number, flush=True)
"""

FILL_UP = """
import resource, sys
from pathlib import Path
from protocol.control.shapes import AuditEntry
from supervisor.audit import Audit, AuditError
path = Path(sys.argv[1])
audit = Audit(path)
audit.append("before", actor="me", now_ms=1)
size = path.stat().st_size
for room in (0, 1, 40):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, resource.RLIM_INFINITY))
    try:
        audit.append("never", actor="me", now_ms=2)
    except (AuditError, OSError) as error:
        print(type(error).__name__, path.stat().st_size - size, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
audit.append("after", actor="me", now_ms=3)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def fill(path: Path, lines: int = 5) -> None:
    audit = Audit(path)
    for number in range(1, lines + 1):
        audit.append("thing.done", actor="me", now_ms=number, tenant=f"t{number}", count=number)
    audit.close()


def unbroken(path: Path) -> int:
    """How many lines from the start on are as they were written, by the rule in the module."""
    previous, count = "0" * 64, 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        fields = json.loads(line)
        claimed = fields.pop("hash")
        entry = msgspec.convert(fields, AuditEntry)
        as_written = {**msgspec.to_builtins(entry), "hash": claimed}
        canonical = json.dumps(
            as_written, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        if (
            entry.seq != number
            or entry_hash(previous, entry) != claimed
            or line != canonical.encode() + b"\n"
        ):
            break
        previous, count = claimed, number
    return count


def actions(path: Path) -> list[str]:
    return [json.loads(line)["action"] for line in path.read_text().splitlines()]


# --- the chain


def test_lines_are_chained_over_reopenings(path: Path) -> None:
    fill(path, 3)
    fill(path, 4)
    assert unbroken(path) == 7
    assert [json.loads(line)["seq"] for line in path.read_text().splitlines()] == [*range(1, 8)]


def test_the_file_is_its_owners_alone(path: Path) -> None:
    fill(path)
    assert path.stat().st_mode & 0o777 == 0o600


def replace(old: str, new: str) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        assert old in lines[2]
        lines[2] = lines[2].replace(old, new)

    return change


def drop(lines: list[str]) -> None:
    del lines[2]


def move(lines: list[str]) -> None:
    lines[2], lines[3] = lines[3], lines[2]


def repeat(lines: list[str]) -> None:
    lines.insert(2, lines[1])


@pytest.mark.parametrize(
    "change",
    [
        replace('"t3"', '"t4"'),
        replace('"me"', '"you"'),
        replace('"count":3', '"count":4'),
        replace('"ts":3', '"ts":4'),
        replace('"seq":3', '"seq":4'),
        replace('"thing.done"', '"thing.undone"'),
        replace('{"action"', '{"a":1,"action"'),
        replace('{"action"', '{ "action"'),
        replace('"tenant":"t3",', ""),
        drop,
        move,
        repeat,
    ],
)
def test_a_line_that_was_tampered_with_breaks_the_chain_there(
    path: Path, change: Callable[[list[str]], None]
) -> None:
    fill(path)
    lines = path.read_text().splitlines(keepends=True)
    change(lines)
    path.write_text("".join(lines))
    assert unbroken(path) == 2


@settings(max_examples=30)
@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=5).map(lambda text: f"k{text}"),
            st.recursive(
                st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
                lambda values: st.lists(values, max_size=3),
                max_leaves=5,
            ),
            max_size=3,
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_json_can_be_a_detail(details: list[dict[str, Any]]) -> None:
    descriptor = os.memfd_create("audit")
    path = Path("/proc/self/fd") / str(descriptor)
    try:
        for detail in details:
            audit = Audit(path)
            audit.append("thing.done", actor="me", now_ms=1, **detail)
            audit.close()
        assert unbroken(path) == len(details)
    finally:
        os.close(descriptor)


# --- crashes


@pytest.mark.parametrize("kept", [1, 30, -1])
def test_a_torn_last_line_is_cut_off_and_said(path: Path, kept: int) -> None:
    fill(path, 3)
    whole = path.read_bytes()
    fill(path, 1)
    torn = path.read_bytes()[len(whole) :][:kept]
    path.write_bytes(whole + torn)
    audit = Audit(path)
    assert audit.repaired_bytes == len(torn)
    assert path.read_bytes() == whole
    audit.append("thing.done", actor="me", now_ms=9)
    audit.close()
    assert unbroken(path) == 4
    audit = Audit(path)
    assert audit.repaired_bytes == 0
    audit.close()


def test_a_torn_first_line_is_cut_off(path: Path) -> None:
    path.write_bytes(b'{"seq":1,')
    audit = Audit(path)
    assert audit.repaired_bytes == len(b'{"seq":1,')
    audit.append("thing.done", actor="me", now_ms=9)
    audit.close()
    assert unbroken(path) == 1


def test_the_longest_lines_can_be_continued(path: Path) -> None:
    audit = Audit(path)
    audit.append("thing.done", actor="me", now_ms=1)
    frame = path.stat().st_size + len('"detail":{"text":""},')
    room = LINE_BYTES_MAX - frame
    for _ in range(2):
        audit.append("thing.done", actor="me", now_ms=1, text="x" * room)
    with pytest.raises(AuditError, match="over"):
        audit.append("thing.done", actor="me", now_ms=1, text="x" * (room + 1))
    audit.close()
    assert unbroken(path) == 3
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines(keepends=True)[-1][:-1])
    audit = Audit(path)
    assert audit.repaired_bytes == LINE_BYTES_MAX - 1
    audit.append("thing.done", actor="me", now_ms=1)
    audit.close()
    assert unbroken(path) == 4


@pytest.mark.parametrize(
    "line", [b"{}", b"[]", b"no json", b"\xff", b'{"seq":"1"}', b"[" * 30_000, b"x" * 70_000]
)
def test_an_end_that_cannot_be_read_is_no_start_for_more(path: Path, line: bytes) -> None:
    fill(path)
    before = path.read_bytes() + line + b"\n"
    path.write_bytes(before)
    with pytest.raises(AuditError, match=r"audit\.jsonl cannot be read"):
        Audit(path)
    assert path.read_bytes() == before


def test_an_endless_torn_line_is_no_start_for_more(path: Path) -> None:
    path.write_bytes(b"x" * 70_000)
    with pytest.raises(AuditError, match="over its bound"):
        Audit(path)
    assert path.stat().st_size == 70_000


def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    with running(APPEND_FOR_EVER, path) as process:
        for _ in range(100):
            last = line_of(process)
        process.kill()
        process.wait()
    Audit(path).close()
    assert unbroken(path) >= int(last)
    assert unbroken(path) == len(actions(path))


def test_a_full_disk_takes_a_line_whole_or_not_at_all(path: Path) -> None:
    with running(FILL_UP, path) as process:
        said = [line_of(process) for _ in range(3)]
        assert process.wait() == 0
    assert said == ["OSError 0", "AuditError 0", "AuditError 0"]
    assert actions(path) == ["before", "after"]
    assert unbroken(path) == 2
