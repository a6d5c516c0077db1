"""`terminal.*` on a worker's link, whatever the worker does that frames allow."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from protocol import aio, frames, launching, limits
from protocol.errors import LinkClosedError
from protocol.link import ANSWERS, REQUESTS
from supervisor.launcher.engine import Size
from supervisor.launcher.terminal_calls import TerminalCalls
from supervisor.launcher.terminals import Opened, Started
from tests.supervisor.launcher.test_terminals import SECONDS, House, Job


class Service:
    """The launcher's end of one worker's link; a `LinkHandler`."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.started = asyncio.Event()
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.closed = asyncio.Event()
        self.reason: Exception | None = None
        self.calls = TerminalCalls(house.terminals, self.start)

    async def start(self, asked: launching.OpenTerminal, size: Size) -> Opened:
        self.started.set()
        await self.may_start.wait()
        job = Job(list(asked.spec.argv), size)
        self.house.jobs.append(job)
        return Opened(Started(f"t{len(self.house.jobs)}", job), job.close)

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        self.calls.on_call(end, call)

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        self.calls.on_cancel(call_id)

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        self.calls.on_credit(call_id)

    def on_notice(self, end: aio.LinkEnd, frame: frames.Frame) -> None:
        raise AssertionError(frame)

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        self.reason = reason
        self.calls.on_closed()
        self.closed.set()


class Quiet:
    """The worker's end, when the test only asks; a `LinkHandler`."""

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        raise AssertionError(call)

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        raise AssertionError(call_id)

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        raise AssertionError(call_id)

    def on_notice(self, end: aio.LinkEnd, frame: frames.Frame) -> None:
        raise AssertionError(frame)

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        pass


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    yield made
    async with asyncio.timeout(SECONDS):
        await made.terminals.end()
    assert all(job.closed for job in made.jobs)


@asynccontextmanager
async def linked(house: House) -> AsyncIterator[tuple[Service, aio.LinkEnd, aio.LinkEnd]]:
    """The launcher's service, its end of a link, and the worker's."""
    ours, theirs = socket.socketpair()
    service = Service(house)
    here = await aio.attach(ours, REQUESTS, service)
    worker = await aio.attach(theirs, ANSWERS, Quiet())
    try:
        yield service, here, worker
    finally:
        worker.close()
        async with asyncio.timeout(SECONDS):
            await service.closed.wait()


def open_params(*argv: str, columns: int = 80) -> dict[str, Any]:
    spec = {"argv": argv, "mode": "bubblewrap", "wall_seconds": 1}
    return {"spec": spec, "columns": columns, "rows": 24}


async def opened(worker: aio.LinkEnd, *argv: str) -> str:
    answer = await worker.call("terminal.open", open_params(*argv))
    return msgspec.json.decode(answer, type=launching.Terminal).sandbox_id


async def test_a_worker_that_does_not_read_costs_little_and_stops_nobody(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TERMINAL_STALL_SECONDS", 0.05)
    monkeypatch.setattr(limits, "TERMINAL_BYTES_PER_SECOND", 64 * limits.MIB)
    async with linked(house) as (_, here, worker):
        found = await opened(worker, sys.executable, "-c", "while True: print('x' * 1000)")
        terminal = house.terminals.find(found)
        assert worker._transport is not None
        assert here._transport is not None
        heard: list[aio.Reply] = []
        for _ in range(limits.TERMINAL_WATCHERS_MAX):
            params = msgspec.json.encode({"sandbox_id": found})
            credit = limits.STREAM_CREDIT_MAX
            worker.start_call("terminal.attach", params, heard.append, credit=credit)
        async with asyncio.timeout(SECONDS):
            await until(lambda: terminal.view().attached == limits.TERMINAL_WATCHERS_MAX)
            worker._transport.pause_reading()
            await until(lambda: terminal.view().next_byte >= 16 * limits.MIB)
            most = limits.LINK_WRITE_BUFFER_HIGH + 2 * limits.LINK_WRITE_BYTES
            assert here._transport.get_write_buffer_size() <= most
            # It reads again, and all goes on.
            count = len(heard)
            worker._transport.resume_reading()
            await until(lambda: len(heard) >= count + 100)


async def test_one_that_nobody_waits_for_any_more_ends_when_it_has_started(house: House) -> None:
    async with linked(house) as (service, _, worker):
        service.may_start.clear()
        asking = asyncio.ensure_future(opened(worker, "cat"))
        await service.started.wait()
        asking.cancel()
        for _ in range(10):  # until the launcher has heard of it
            await asyncio.sleep(0)
        assert await listed(worker) == ()
        service.may_start.set()
        await until_ended(house)


async def test_one_whose_worker_dies_meanwhile_ends_too(house: House) -> None:
    async with linked(house) as (service, _, worker):
        service.may_start.clear()
        asking = asyncio.ensure_future(opened(worker, "cat"))
        await service.started.wait()
        worker.close()
        with pytest.raises(LinkClosedError):
            await asking
        await service.closed.wait()
        service.may_start.set()
        await until_ended(house)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what nobody tells of."""
    async with asyncio.timeout(SECONDS):
        while not holds():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)


async def until_ended(house: House) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            views = house.terminals.view().terminals
            if views and views[0].ended is not None:
                assert views[0].ended.reason == "closed"
                return
            await asyncio.sleep(0.01)


async def listed(worker: aio.LinkEnd) -> tuple[launching.Terminal, ...]:
    answer = await worker.call("terminal.list", {})
    return msgspec.json.decode(answer, type=launching.Terminals).terminals


@pytest.mark.parametrize(
    ("method", "params", "credit", "reason"),
    [
        ("attach", {"sandbox_id": "t1"}, 0, "takes no stream"),
        ("attach", {"sandbox_id": "t1", "from_byte": -1}, 1, "from_byte"),
        ("open", open_params("true", columns=2001), 0, "columns"),
        ("open", {**open_params("true"), "uid": 0}, 0, "uid"),
        ("resize", {"sandbox_id": "t1", "columns": 0, "rows": 1}, 0, "columns"),
        (
            "write",
            {"sandbox_id": "t1", "data": bytes(limits.TERMINAL_WRITE_BYTES_MAX + 1)},
            0,
            "data",
        ),
        ("write", {"sandbox_id": "t1", "data": b"", "writer": "w" * 65}, 0, "writer"),
        ("close", {}, 0, "sandbox_id"),
    ],
)
async def test_what_no_honest_worker_says_ends_its_link_and_starts_nothing(
    house: House, method: str, params: dict[str, Any], credit: int, reason: str
) -> None:
    async with linked(house) as (service, _, worker):
        replies: list[aio.Reply] = []
        body = msgspec.json.encode(params)
        worker.start_call(f"terminal.{method}", body, replies.append, credit=credit)
        async with asyncio.timeout(SECONDS):
            await service.closed.wait()
        assert reason in str(service.reason)
        assert house.jobs == []


async def test_a_write_that_waits_ends_with_its_worker(house: House) -> None:
    async with linked(house) as (service, _, worker):
        found = await opened(worker, "sh", "-c", "stty raw -echo; echo ready; exec sleep 1000")
        terminal = house.terminals.find(found)
        async with asyncio.timeout(SECONDS):
            await until(lambda: terminal.view().next_byte >= len("ready\n"))
        block = {"sandbox_id": found, "data": bytes(limits.TERMINAL_WRITE_BYTES_MAX)}
        writes = [
            asyncio.ensure_future(worker.call("terminal.write", block))
            for _ in range(limits.TERMINAL_WRITES_WAITING_MAX)
        ]
        async with asyncio.timeout(SECONDS):
            await until(lambda: terminal._writes >= limits.TERMINAL_WRITES_WAITING_MAX // 2)
            worker.close()
            done = await asyncio.gather(*writes, return_exceptions=True)
            assert any(isinstance(each, LinkClosedError) for each in done)
            await service.closed.wait()
            await until(lambda: not terminal._writes)
