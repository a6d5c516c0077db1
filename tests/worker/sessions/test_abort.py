"""`chat.abort` and `agent.wait`, in the generation that runs the turn and in another."""

from pathlib import Path
from typing import Any

import apsw
import pytest

from protocol.errors import ErrorCode
from tests.worker.harness import (
    SECONDS,
    Front,
    GatedProvider,
    ManualClock,
    catalogue_of,
    names,
    running_worker,
)
from worker.sessions import schema
from worker.store.database import Database
from worker.store.files import Directory

KEY = "agent:main:test:s"
OTHER = "agent:main:test:other"


async def send(front: Front, text: str) -> str:
    sent: dict[str, Any] = await front.call("sessions.send", {"key": KEY, "message": text})
    run_id: str = sent["runId"]
    return run_id


async def test_abort_ends_what_runs_and_what_waits(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        first = rig.front.stream("sessions.send", {"key": KEY, "message": "a"})
        await first.until("answer")
        second = rig.front.stream("sessions.send", {"key": KEY, "message": "b"})
        queued = await send(rig.front, "c")
        aborted = await rig.front.call("chat.abort", {"sessionKey": KEY})
        results = [await first.result(), await second.result()]
        assert [result["status"] for result in results] == ["interrupted"] * 2
        assert aborted["aborted"] is True
        assert aborted["runIds"] == [*(result["runId"] for result in results), queued]
        for run_id in aborted["runIds"]:
            ended = await rig.front.call("agent.wait", {"runId": run_id})
            assert ended["status"] == "interrupted"
            assert "aborted" in ended["error"]
        history = await rig.front.call("chat.history", {"sessionKey": KEY})
        last = history["messages"][-1]
        assert (last["stopReason"], last["content"][0]["text"]) == ("aborted", "answer to ")
        # The session goes on.
        provider.open("d")
        after = rig.front.stream("sessions.send", {"key": KEY, "message": "d"})
        assert (await after.result())["status"] == "ok"
    assert provider.order == ["a", "d"]


async def test_abort_of_one_turn_leaves_the_others(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        for key in (KEY, OTHER):
            await rig.front.call("sessions.create", {"key": key})
        first = rig.front.stream("sessions.send", {"key": KEY, "message": "a"})
        await first.until("answer")
        second = await send(rig.front, "b")
        third = await send(rig.front, "c")
        params = {"sessionKey": KEY, "runId": second}
        assert (await rig.front.call("chat.abort", params))["runIds"] == [second]
        # What is over is not aborted; what is another session's, or nobody's, is not found.
        again = await rig.front.call("chat.abort", params)
        assert (again["aborted"], again["runIds"]) == (False, [])
        for refused in ({**params, "sessionKey": OTHER}, {**params, "runId": "x"}):
            error = await rig.front.refused("chat.abort", refused)
            assert (error.code, error.details["field"]) == (ErrorCode.NOT_FOUND, "runId")
        error = await rig.front.refused("chat.abort", {"sessionKey": "agent:main:test:none"})
        assert (error.code, error.details["field"]) == (ErrorCode.NOT_FOUND, "sessionKey")
        provider.open("a")
        provider.open("c")
        assert (await first.result())["status"] == "ok"
        assert (await rig.front.call("agent.wait", {"runId": third}))["status"] == "ok"
    assert provider.order == ["a", "c"]


async def test_abort_reaches_the_draining_generation(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider), generation=1) as old:
        await old.front.call("sessions.create", {"key": KEY})
        turn = old.front.stream("sessions.send", {"key": KEY, "message": "a"})
        await turn.until("answer")
        run_id = turn.chunks[0]["runId"]
        async with running_worker(catalogue_of(provider), generation=2, living=(1,)) as new:
            # Asked before it drains or after: it looks at once, and while it runs turns.
            aborted = await new.front.call("chat.abort", {"sessionKey": KEY, "runId": run_id})
            assert aborted["runIds"] == [run_id]
            old.links.drain(SECONDS)
            ended = await new.front.call("agent.wait", {"runId": run_id})
            assert ended["status"] == "interrupted"
            assert (await turn.result())["status"] == "interrupted"
            assert await old.task == 0


async def test_wait(tenant_dir: Path) -> None:
    provider = GatedProvider()
    clock = ManualClock()
    async with running_worker(catalogue_of(provider), clock) as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        first, second = await send(rig.front, "a"), await send(rig.front, "b")
        await provider.started("a").wait()
        looked = await rig.front.call("agent.wait", {"runId": first, "timeoutMs": 0})
        assert looked == {"runId": first, "status": "timeout", "startedAt": clock.now_ms()}
        waited = await rig.front.call("agent.wait", {"runId": second, "timeoutMs": 20})
        assert waited == {"runId": second, "status": "timeout"}
        clock.advance(2)
        waiting = rig.front.stream("agent.wait", {"runId": first})  # it does not stream
        provider.open("a")
        assert await waiting.result() == {
            "runId": first,
            "status": "ok",
            "startedAt": clock.now_ms() - 2000,
            "endedAt": clock.now_ms(),
        }
        provider.open("b")
        assert (await rig.front.call("agent.wait", {"runId": second}))["status"] == "ok"
        error = await rig.front.refused("agent.wait", {"runId": "x"})
        assert (error.code, error.details["field"]) == (ErrorCode.NOT_FOUND, "runId")


@pytest.mark.parametrize("state", ["queued", "running"])
async def test_wait_for_another_generation_ends_with_the_drain(
    tenant_dir: Path, state: str
) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider), generation=1) as old:
        await old.front.call("sessions.create", {"key": KEY})
        run_id = await send(old.front, "a")
        await provider.started("a").wait()
        if state == "queued":
            run_id = await send(old.front, "b")
        async with running_worker(catalogue_of(provider), generation=2, living=(1,)) as new:
            waiting = new.front.stream("agent.wait", {"runId": run_id})
            await new.front.call("health")  # it waits by now
            assert await new.drain(0.05) == 0
            assert (await waiting.result())["status"] == "timeout"


async def test_a_store_of_the_first_schema_is_migrated(tenant_dir: Path) -> None:
    directory = Directory()
    first = Database(schema.PATH, schema.MIGRATIONS[:1], directory)
    first.open()
    await first.close()
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        run_id = await send(rig.front, "a")
        assert (await rig.front.call("agent.wait", {"runId": run_id}))["status"] == "ok"
    connection = apsw.Connection(schema.PATH)
    assert connection.pragma("user_version") == len(schema.MIGRATIONS)
    connection.close()
    assert "sessions.sqlite.before-v2" in names(tenant_dir / "sessions")
    directory.close()
