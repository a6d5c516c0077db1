import asyncio

import msgspec
import pytest

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.spawn import ControlResponse
from supervisor.control.replays import Replays

ONE, OTHER = b"1" * 32, b"2" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Act:
    """What is done; how often, and when it is done."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.count = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> ControlResponse:
        self.count += 1
        number = self.count
        await self.go.wait()
        return ControlResponse(status=self.status, body=msgspec.Raw(b"%d" % number))


def refused(code: ErrorCode) -> "pytest.RaisesExc[GatewayError]":
    return pytest.RaisesExc(GatewayError, check=lambda error: error.code is code)


async def test_an_answer_is_kept_for_its_time() -> None:
    clock, act = Clock(), Act()
    replays = Replays(clock)
    first = await replays.answer("k", ONE, act)
    clock.now += limits.CONTROL_REPLAY_SECONDS - 1
    assert await replays.answer("k", ONE, act) is first
    clock.now += 1
    assert await replays.answer("k", ONE, act) is not first
    assert act.count == 2


async def test_a_repeat_waits_for_the_first() -> None:
    act = Act()
    act.go.clear()
    replays = Replays()
    asked = [asyncio.create_task(replays.answer("k", ONE, act)) for _ in range(3)]
    asked[1].cancel()
    await asyncio.wait([asked[1]])
    with refused(ErrorCode.IDEMPOTENCY_KEY_REUSED):
        await replays.answer("k", OTHER, act)
    act.go.set()
    assert await asked[0] is await asked[2]
    assert act.count == 1


@pytest.mark.parametrize("status", [429, 500, 503, 504])
async def test_what_can_succeed_later_is_not_kept(status: int) -> None:
    act = Act(status)
    replays = Replays()
    await replays.answer("k", ONE, act)
    await replays.answer("k", OTHER, act)
    assert act.count == 2


@pytest.mark.parametrize("status", [200, 201, 400, 404, 409])
async def test_what_is_decided_is_kept(status: int) -> None:
    act = Act(status)
    replays = Replays()
    assert await replays.answer("k", ONE, act) is await replays.answer("k", ONE, act)
    assert act.count == 1


async def test_the_table_is_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONTROL_REPLAYS_MAX", 3)
    act = Act()
    replays = Replays()
    for key in "abcd":
        await replays.answer(key, ONE, act)
    for key in "dcb":
        await replays.answer(key, ONE, act)
    assert act.count == 4
    await replays.answer("a", ONE, act)
    assert act.count == 5


async def test_who_is_at_work_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONTROL_REPLAYS_MAX", 1)
    act = Act()
    act.go.clear()
    clock = Clock()
    replays = Replays(clock)
    asked = asyncio.create_task(replays.answer("a", ONE, act))
    await asyncio.sleep(0)
    clock.now += limits.CONTROL_REPLAY_SECONDS * 2
    with refused(ErrorCode.UNAVAILABLE):
        await replays.answer("b", ONE, act)
    repeat = asyncio.create_task(replays.answer("a", ONE, act))
    act.go.set()
    assert await asked is await repeat
    assert act.count == 1
    await replays.answer("b", ONE, act)


async def test_a_failure_of_ours_is_nobodys_answer() -> None:
    replays = Replays()

    async def break_down() -> ControlResponse:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await replays.answer("k", ONE, break_down)
    act = Act()
    await replays.answer("k", ONE, act)
    assert act.count == 1
