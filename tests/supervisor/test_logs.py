import asyncio
import fcntl
import json
import logging
import math
import os
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor import logs
from supervisor.logs import (
    LINE_BYTES_MAX,
    LINE_OVERHEAD_BYTES,
    LOG_FILES_KEPT,
    PIPE_BURST_BYTES,
    PIPE_BYTES_PER_SECOND,
    Log,
    LogPump,
    open_log,
)

WAIT_SECONDS = 20.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.log"


@pytest.fixture
def log(path: Path) -> Iterator[Log]:
    yield open_log(path)
    target = logging.getLogger("openclaw")
    for handler in target.handlers:
        handler.close()
    target.handlers.clear()


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def output(path: Path) -> list[str]:
    return [entry["line"] for entry in entries(path) if entry["event"] == "output"]


def lost(path: Path) -> list[int]:
    return [entry["bytes"] for entry in entries(path) if entry["event"] == "output lost"]


class WatchedPump(LogPump):
    """A pump that tells when it has read and when it has closed."""

    def __init__(self, descriptor: int, log: Log) -> None:
        self.reads = 0
        self.moved = asyncio.Event()
        super().__init__(descriptor, log)

    def _read(self) -> None:
        super()._read()
        self.reads += 1
        self.moved.set()


class Writer:
    """Somebody who writes to a pipe, and the pump at its other end."""

    def __init__(self, log: Log) -> None:
        self.reader, self.descriptor = os.pipe()
        self.pump = WatchedPump(self.reader, log.bind(source="worker", tenant="acme"))

    async def write(self, data: bytes) -> None:
        """Write from a thread, as a writer blocks while the pipe is full; all is read after it."""
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.to_thread(self.write_all, data)
            while readable(self.reader):
                self.pump.moved.clear()
                await self.pump.moved.wait()

    def write_all(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.descriptor, data) :]

    async def end(self) -> None:
        """Close the writer's end and wait until the pump has closed its own."""
        os.close(self.descriptor)
        async with asyncio.timeout(WAIT_SECONDS):
            while self.pump._descriptor >= 0:
                self.pump.moved.clear()
                await self.pump.moved.wait()


def readable(descriptor: int) -> bool:
    """Whether something lies in the pipe still."""
    count = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    return bool(struct.unpack("i", count)[0])


async def pumped(log: Log, data: bytes) -> None:
    writer = Writer(log)
    await writer.write(data)
    await writer.end()


# --- the log


def test_each_entry_is_one_line_of_json(log: Log, path: Path) -> None:
    log.info("first", tenant="acme", text="a\nb\x1b[2J\u2028\x7f")
    log.bind(source="front").error("second", number=1)
    assert all(32 <= byte < 127 for line in lines(path) for byte in line)
    first, second = entries(path)
    assert (first["event"], first["level"], first["tenant"]) == ("first", "info", "acme")
    assert first["text"] == "a\nb\x1b[2J\u2028\x7f"
    assert first["timestamp"].endswith("Z")
    assert (second["level"], second["source"], second["number"]) == ("error", "front", 1)


def test_an_exception_is_part_of_its_line(log: Log, path: Path) -> None:
    try:
        int("no number")
    except ValueError:
        log.exception("broken")
    (entry,) = entries(path)
    assert "ValueError: invalid literal" in entry["exception"]


def test_warnings_are_shown_and_the_rest_is_not(
    log: Log, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The console was opened at set-up, before this test's capture: open it again.
    again = open_log(path)
    again.info("quiet")
    again.warning("loud")
    said = capsys.readouterr().err
    assert "loud" in said
    assert "quiet" not in said


def test_a_standard_error_that_nobody_reads_stops_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb"), os.fdopen(writer, "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        log = open_log(path)
        for number in range(50):  # several times what a pipe takes
            log.warning("filler", number=number, text="x" * 10_000)
    assert [entry["number"] for entry in entries(path)] == list(range(50))
    monkeypatch.undo()
    open_log(path)  # nobody else writes to that pipe


def test_the_log_is_its_owners_alone_and_continued(log: Log, path: Path) -> None:
    log.info("first")
    open_log(path).info("second")
    assert [entry["event"] for entry in entries(path)] == ["first", "second"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_log_is_bounded(log: Log, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES_MAX", 10_000)
    small = open_log(path)
    for number in range(1000):
        small.info("filler", number=number)
    files = sorted(path.parent.iterdir())
    assert len(files) == 1 + LOG_FILES_KEPT
    assert all(file.stat().st_size <= 10_000 for file in files)
    assert entries(path)[-1]["number"] == 999


# --- the pump


async def test_lines_are_logged_as_their_writers(log: Log, path: Path) -> None:
    await pumped(log, b"first\n\n  second\nwithout end")
    assert output(path) == ["first", "  second", "without end"]
    assert {(entry["source"], entry["tenant"]) for entry in entries(path)} == {("worker", "acme")}
    assert lost(path) == []


async def test_a_line_may_come_in_pieces(log: Log, path: Path) -> None:
    writer = Writer(log)
    for piece in (b"one", b" line\nand", b" another\n"):
        await writer.write(piece)
    await writer.end()
    assert output(path) == ["one line", "and another"]


async def test_no_writer_writes_anything_but_text_into_a_line(log: Log, path: Path) -> None:
    hostile = b'\x1b]0;title\x07\r{"event":"forged"}\0\x7f\xff\xfe \xe2\x80\xa8 \xc2\x9b end'
    await pumped(log, hostile + b"\n")
    (line,) = lines(path)
    assert all(32 <= byte < 127 for byte in line)
    assert output(path) == [hostile.decode("utf-8", "replace")]
    assert [entry["event"] for entry in entries(path)] == ["output"]


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("length", [LINE_BYTES_MAX, LINE_BYTES_MAX + 1, 3 * LINE_BYTES_MAX + 5])
async def test_a_long_line_is_cut_into_short_ones(
    log: Log, path: Path, length: int, end: bytes
) -> None:
    text = "".join(str(number % 10) for number in range(length))
    await pumped(log, text.encode() + end)
    assert max(map(len, output(path))) <= LINE_BYTES_MAX
    assert "".join(output(path)) == text


async def test_what_is_over_the_rate_is_lost_and_counted(log: Log, path: Path) -> None:
    started = time.monotonic()
    line = b"x" * 99 + b"\n"
    await pumped(log, line * 20_000)
    seconds = time.monotonic() - started
    kept = len(output(path))
    assert kept <= (PIPE_BURST_BYTES + seconds * PIPE_BYTES_PER_SECOND) / (99 + LINE_OVERHEAD_BYTES)
    assert kept >= PIPE_BURST_BYTES // (99 + LINE_OVERHEAD_BYTES)
    assert kept * 100 + sum(lost(path)) == 2_000_000


async def test_short_lines_cost_more_than_their_bytes(log: Log, path: Path) -> None:
    started = time.monotonic()
    await pumped(log, b"x\n" * 100_000)
    seconds = time.monotonic() - started
    most = PIPE_BURST_BYTES + seconds * PIPE_BYTES_PER_SECOND
    assert len(output(path)) <= most / LINE_OVERHEAD_BYTES
    assert sum(lost(path)) + 2 * len(output(path)) == 200_000


async def test_losses_are_not_a_flood_of_their_own(log: Log, path: Path) -> None:
    writer = Writer(log)
    started = time.monotonic()
    for _ in range(20):
        writer.pump._allowance = 1000.0
        await writer.write(b"x" * 500 + b"\n" + b"y" * 500 + b"\n")
    await writer.end()
    assert len(output(path)) >= 20
    most = 2 + (time.monotonic() - started) / logs.LOST_REPORT_SECONDS
    assert 1 <= len(lost(path)) <= most


async def test_what_comes_after_a_flood_is_logged_again(log: Log, path: Path) -> None:
    writer = Writer(log)
    await writer.write(b"x" * 1000 + b"\n")
    writer.pump._allowance = 0.0
    await writer.write((b"flood" * 200 + b"\n") * 100)
    writer.pump._filled_at -= 60.0  # a minute goes by
    await writer.write(b"after\n")
    await writer.end()
    assert output(path)[-1] == "after"
    assert entries(path)[-2]["event"] == "output lost"
    assert len(lost(path)) >= 1


async def test_a_flood_does_not_keep_the_loop_busy(log: Log, path: Path) -> None:
    writer = Writer(log)
    writer.pump._allowance = 0.0
    started = time.monotonic()
    await writer.write(b"x" * 99_999 + b"\n" + b"y" * 900_000)
    await writer.end()
    assert writer.pump.reads <= 2 + (time.monotonic() - started) / logs.PIPE_PAUSE_SECONDS


async def test_a_pump_can_be_closed_at_any_time(log: Log, path: Path) -> None:
    for flooded in (False, True):
        writer = Writer(log)
        if flooded:
            writer.pump._allowance = -math.inf  # whatever it earns until it reads
        await writer.write(b"unfinished\nbusiness")
        writer.pump.close()
        writer.pump.close()
        with pytest.raises(BrokenPipeError):
            os.write(writer.descriptor, b"x")
        os.close(writer.descriptor)
    assert output(path) == ["unfinished", "business"]
    assert sum(lost(path)) == len(b"unfinished\nbusiness\n")
