import json
import os
from typing import Any

import pytest

from supervisor.front.log import EVENTS_PER_WINDOW_MAX, LINE_BYTES_MAX, WINDOW_SECONDS, Log


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def lines(self) -> list[Any]:
        try:
            data = os.read(self.reader, 1 << 20)
        except BlockingIOError:
            return []
        assert data.isascii()
        assert all(len(line) < LINE_BYTES_MAX for line in data.splitlines())
        return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
def pipe() -> Any:
    pipe = Pipe()
    yield pipe
    os.close(pipe.reader)
    os.close(pipe.writer)


def test_what_a_client_says_stays_on_one_printable_line(pipe: Pipe) -> None:
    said = 'a\r\n{"level":"error"}\x00\x1b[31m\x7f\x85\u2028\ud800'
    Log(pipe.writer).warning("authentication failed", tenant=said)
    (line,) = pipe.lines()
    assert line["tenant"] == said
    assert line["level"] == "warning"


def test_lines_are_cut(pipe: Pipe) -> None:
    Log(pipe.writer).info("start", one="\x00" * 10_000)
    (line,) = pipe.lines()
    assert len(line["one"]) == 512


def test_each_event_has_its_own_rate(pipe: Pipe) -> None:
    clock = Clock()
    log = Log(pipe.writer, clock)
    for _ in range(EVENTS_PER_WINDOW_MAX + 30):
        log.warning("authentication failed")
    log.info("drain")
    events = [line["event"] for line in pipe.lines()]
    assert events == ["authentication failed"] * EVENTS_PER_WINDOW_MAX + ["drain"]
    clock.now += WINDOW_SECONDS
    log.warning("authentication failed")
    (line,) = pipe.lines()
    assert line["suppressed"] == 30


def test_a_full_pipe_does_not_stop_the_process(pipe: Pipe) -> None:
    clock = Clock()
    log = Log(pipe.writer, clock)
    for _ in range(3000):
        clock.now += WINDOW_SECONDS
        log.info("start", text="x" * 500)
    assert 10 < len(pipe.lines()) < 3000


def test_a_mistake_is_told_by_type_and_place_alone(pipe: Pipe) -> None:
    log = Log(pipe.writer)
    try:
        int("tk_acme_00112233445566778899aabbccddeeff")
    except ValueError as error:
        log.broken("connection", error)
    (line,) = pipe.lines()
    assert line["error"] == "ValueError"
    assert line["at"].startswith("test_log.py:")
    assert "tk_acme" not in json.dumps(line)
