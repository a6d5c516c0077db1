"""Links under strain, and what becomes of calls when somebody leaves."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from protocol import descriptors, frames, limits
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import Scope
from protocol.methods.registry import Method, Params
from tests.worker.harness import SECONDS, running_worker
from worker import dispatch, links


class _Nothing(Params, frozen=True, kw_only=True):
    pass


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> "asyncio.Event":
    """A method `test.wait`, which waits for this event, and two that answer a lot: one late."""
    event = asyncio.Event()

    async def wait(_call: object, _params: object) -> dict[str, bool]:
        await event.wait()
        return {"done": True}

    def much(_call: object, _params: object) -> dict[str, str]:
        return {"x": "y" * 2**20}

    async def late(_call: object, _params: object) -> dict[str, str]:
        await event.wait()
        return {"x": "y" * 2**20}

    monkeypatch.setattr(dispatch, "_bindings", dict(dispatch._bindings))
    for name, handler in (("test.wait", wait), ("test.much", much), ("test.late", late)):
        method = Method(
            name, _Nothing, dict[str, Any], Scope.READ, "A test.", False, False, "", 30.0
        )
        dispatch.handles(method)(handler)
    return event


async def test_quick_calls_are_answered_past_slow_ones(
    tenant_dir: Path, gate: asyncio.Event
) -> None:
    async with running_worker() as rig:
        slow = asyncio.create_task(rig.front.call("test.wait"))
        assert (await rig.front.call("health"))["ok"]
        assert not slow.done()
        gate.set()
        assert await slow == {"done": True}


@pytest.mark.parametrize("method", ["test.much", "test.late"])
async def test_answers_do_not_pile_up(tenant_dir: Path, gate: asyncio.Event, method: str) -> None:
    """More is asked for at once than a link may hold unsent: all of it is answered."""
    count = limits.LINK_WRITE_BUFFER_MAX // 2**20 + 40
    async with running_worker() as rig:
        calls = [asyncio.create_task(rig.front.call(method)) for _ in range(count)]
        await rig.front.call("health")
        gate.set()
        for result in await asyncio.gather(*calls):
            assert len(result["x"]) == 2**20
        assert not rig.front.peer.closed.is_set()


async def test_calls_that_wait_for_room_are_answered_in_order(
    tenant_dir: Path, gate: asyncio.Event
) -> None:
    answered: list[str] = []

    async def ask(front: Any, method: str, name: str) -> None:
        await front.call(method)
        answered.append(name)

    async with running_worker() as rig:
        tasks = [asyncio.create_task(ask(rig.front, "test.much", f"m{n}")) for n in range(10)]
        tasks.append(asyncio.create_task(ask(rig.front, "health", "last")))
        await asyncio.gather(*tasks)
    assert answered == [*(f"m{n}" for n in range(10)), "last"]


@pytest.mark.parametrize("at_once", [True, False])
async def test_cancelled_call_is_answered(
    tenant_dir: Path, gate: asyncio.Event, at_once: bool
) -> None:
    async with running_worker() as rig:
        call = rig.front.stream("test.wait", {})
        if not at_once:
            await rig.front.call("health")
        call.cancel()
        with pytest.raises(GatewayError) as raised:
            await call.result()
        assert raised.value.code is ErrorCode.CANCELLED


async def test_method_that_does_not_stream_answers_plainly(
    tenant_dir: Path, gate: asyncio.Event
) -> None:
    async with running_worker() as rig:
        gate.set()
        for method in ("test.wait", "health", "sessions.create"):
            call = rig.front.stream(method, {})
            await call.result()
            assert isinstance(call.last, frames.Result)


async def test_new_front_replaces_the_old(tenant_dir: Path, gate: asyncio.Event) -> None:
    async with running_worker() as rig:
        waiting = rig.front.stream("test.wait", {})
        await rig.front.call("health")
        new = await rig.links.front()
        assert (await new.call("health"))["ok"]
        async with asyncio.timeout(SECONDS):
            await rig.front.peer.closed.wait()
        assert type(waiting.last).__name__ == "LinkClosedError"
        rig.front = new


async def test_front_that_breaks_the_contract_loses_its_link_alone(
    tenant_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running_worker() as rig:
        rig.front.end._transport.write(b"\xff\xff\xff\xff")  # type: ignore[union-attr]
        async with asyncio.timeout(SECONDS):
            await rig.front.peer.closed.wait()
        rig.front = await rig.links.front()
        assert (await rig.front.call("health"))["ok"]
    assert "link broken" in capfd.readouterr().err


async def test_messages_on_the_channel_that_mean_nothing(
    tenant_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running_worker() as rig:
        reading, writing = os.pipe()
        descriptors.send(rig.links.channel, b"nonsense", [writing, writing])
        descriptors.send(rig.links.channel, b"front")
        descriptors.send(rig.links.channel, b"x" * 60_000)
        os.close(writing)
        front = await rig.links.front()
        assert (await front.call("health"))["ok"]
        assert os.read(reading, 1) == b""  # nobody holds the other end
        os.close(reading)
        rig.front = front
    assert capfd.readouterr().err.count("descriptor message not understood") == 3


async def test_supervisor_asks_for_nothing(tenant_dir: Path) -> None:
    """Who speaks is known from the link: calls come from fronts, which authenticate."""
    async with running_worker() as rig:
        assert rig.links.end is not None
        rig.links.end.start_call("health", b"{}", lambda _reply: None, scopes=7)
        async with asyncio.timeout(SECONDS):
            assert await rig.task == 1
        await rig.abandon()


async def test_pings_are_answered(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        end = rig.links.end
        assert end is not None
        assert end.link.ping() == 0
        end.flush()
        async with asyncio.timeout(SECONDS):
            await rig.links.peer.noticed.wait()
        assert end.link.ping() == 0


# The end.


async def test_end_of_the_supervisor_is_the_end(tenant_dir: Path, gate: asyncio.Event) -> None:
    async with running_worker() as rig:
        assert rig.links.end is not None
        rig.links.end.close()
        async with asyncio.timeout(SECONDS):
            assert await rig.task == 1
        await rig.abandon()


async def test_drain_waits_for_calls(tenant_dir: Path, gate: asyncio.Event) -> None:
    async with running_worker() as rig:
        slow = rig.front.stream("test.wait", {})
        await rig.front.call("health")
        rig.links.drain(SECONDS)
        assert (await rig.front.call("health"))["ok"]
        gate.set()
        assert await slow.result() == {"done": True}
        assert await rig.task == 0
        assert [type(notice).__name__ for notice in rig.links.peer.notices] == ["Drained"]


async def test_drain_refuses_calls_that_take_too_long(
    tenant_dir: Path, gate: asyncio.Event
) -> None:
    async with running_worker() as rig:
        slow = rig.front.stream("test.wait", {})
        await rig.front.call("health")
        assert await rig.drain(0.01) == 0
        with pytest.raises(GatewayError) as raised:
            await slow.result()
        assert raised.value.code is ErrorCode.UNAVAILABLE


async def test_drain_of_an_idle_worker_is_quick(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        started = asyncio.get_running_loop().time()
        assert await rig.drain() == 0
        assert asyncio.get_running_loop().time() - started < links.LAST_WORDS_SECONDS


async def test_drain_without_a_front(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        rig.front.end.close()
        assert await rig.drain() == 0
