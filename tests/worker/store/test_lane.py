"""The thread for what takes its time."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from protocol.errors import ErrorCode, GatewayError
from worker.store import lane
from worker.store.lane import Lane

SECONDS = 20.0


@pytest.fixture
def busy() -> Iterator[tuple[Lane, threading.Event]]:
    """A lane, and what ends the work that a test gives it first."""
    made, gate = Lane("test"), threading.Event()
    yield made, gate
    gate.set()
    made.close()


async def begun(made: Lane, gate: threading.Event) -> "asyncio.Task[str]":
    """Give the lane work that waits for the gate, and wait until it is being done."""
    started = threading.Event()

    def work() -> str:
        started.set()
        gate.wait(SECONDS)
        return "done"

    task = asyncio.create_task(made.run(work))
    await asyncio.to_thread(started.wait, SECONDS)
    return task


def fail() -> None:
    raise ValueError("as it is")


async def test_what_comes_of_work_is_told_and_the_lane_goes_on() -> None:
    made = Lane("test")
    with pytest.raises(ValueError, match="as it is"):
        await made.run(fail)
    assert await made.run(lambda: threading.current_thread().name) == "test"
    made.close()


async def test_what_nobody_waits_for_is_not_begun(busy: tuple[Lane, threading.Event]) -> None:
    made, gate = busy
    first = await begun(made, gate)
    done: list[str] = []
    second = asyncio.create_task(made.run(lambda: done.append("second")))
    third = asyncio.create_task(made.run(lambda: done.append("third")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    gate.set()
    assert await first == "done"
    await third
    assert done == ["third"]


async def test_too_much_is_refused(
    busy: tuple[Lane, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "WAITING_MAX", 1)
    made, gate = busy
    first = await begun(made, gate)
    with pytest.raises(GatewayError, match="too much waits"):
        await made.run(lambda: None)
    gate.set()
    await first
    await made.run(lambda: None)


async def test_the_end_refuses_what_waits(busy: tuple[Lane, threading.Event]) -> None:
    made, gate = busy
    first = await begun(made, gate)
    waits = asyncio.create_task(made.run(lambda: None))
    await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(made.close))
    for _ in iter(lambda: made._closed, True):
        await asyncio.sleep(0)
    with pytest.raises(GatewayError, match="being stopped"):
        await made.run(lambda: None)
    gate.set()
    assert await first == "done"
    with pytest.raises(GatewayError) as refused:
        await waits
    assert refused.value.code is ErrorCode.UNAVAILABLE
    await closing
