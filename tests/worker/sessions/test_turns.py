"""Who runs which turn when, also with a second generation of the worker on the same files.

Generations are told apart by their number alone, so two of them can live in one process here;
`test_process.py` has them as processes.
"""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import apsw
import pytest

from protocol import frames, limits
from protocol.errors import ErrorCode, GatewayError
from tests.worker.harness import (
    SECONDS,
    GatedProvider,
    ManualClock,
    Rig,
    StreamedCall,
    catalogue_of,
    running_worker,
)
from worker.agents.model import ModelEvent, ModelRequest, TextDelta
from worker.sessions import admissions, schema, turns, writes
from worker.sessions.requests import Request

KEY = "agent:main:main"


async def make(rig: Rig, *keys: str) -> None:
    for key in keys:
        await rig.front.call("sessions.create", {"key": key})


async def everything_written(rig: Rig) -> None:
    """Wait for what was sent before: the store takes one after the other."""
    await rig.front.call("sessions.create", {})


def send(rig: Rig, key: str, text: str) -> StreamedCall:
    return rig.front.stream("sessions.send", {"key": key, "message": text})


async def has_started(provider: GatedProvider, text: str) -> None:
    async with asyncio.timeout(SECONDS):
        await provider.started(text).wait()


async def test_one_session_is_serial_and_sessions_are_parallel(tenant_dir: Path) -> None:
    provider = GatedProvider()
    other = "agent:main:other"
    async with running_worker(catalogue_of(provider)) as rig:
        await make(rig, KEY, other)
        first = send(rig, KEY, "first")
        await has_started(provider, "first")
        second = send(rig, KEY, "second")
        apart = send(rig, other, "apart")
        await has_started(provider, "apart")
        provider.open("apart")
        assert (await apart.result())["status"] == "ok"
        assert provider.order == ["first", "apart"]
        provider.open("second")
        provider.open("first")
        await first.result()
        await second.result()
        assert provider.order == ["first", "apart", "second"]


async def test_turns_of_a_session_run_in_the_order_of_their_messages(tenant_dir: Path) -> None:
    provider = GatedProvider()
    wanted = [f"m{number}" for number in range(12)]
    async with running_worker(catalogue_of(provider)) as rig:
        await make(rig, KEY)
        calls = [send(rig, KEY, text) for text in wanted]
        for text in wanted:
            provider.open(text)
        for call in calls:
            await call.result()
    assert provider.order == wanted


async def test_only_so_many_run_at_once(tenant_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TURNS_RUNNING_PER_TENANT_MAX", 2)
    provider = GatedProvider()
    keys = [f"agent:main:s{number}" for number in range(5)]
    async with running_worker(catalogue_of(provider)) as rig:
        await make(rig, *keys)
        calls = [send(rig, key, key) for key in keys]
        await has_started(provider, keys[0])
        await has_started(provider, keys[1])
        await everything_written(rig)
        health = (await rig.front.call("health"))["sessions"]
        assert (health["turnsRunning"], health["turnsQueued"]) == (2, 3)
        assert provider.order == keys[:2]
        for key in keys:
            provider.open(key)
        assert [(await call.result())["status"] for call in calls] == ["ok"] * 5


async def test_the_quota_says_how_many_run_at_once(tenant_dir: Path) -> None:
    provider = GatedProvider()
    keys = [f"agent:main:s{number}" for number in range(4)]
    async with running_worker(catalogue_of(provider)) as rig:
        await make(rig, *keys)
        rig.worker.services.turns.limit(1)
        calls = [send(rig, key, key) for key in keys]
        await has_started(provider, keys[0])
        await everything_written(rig)
        assert provider.order == keys[:1]
        for most, started in ((b"2", keys[:2]), (b"null", keys)):
            assert rig.links.end is not None
            rig.links.end.link.send(frames.Event("runs", most))
            rig.links.end.flush()
            await has_started(provider, started[-1])
            assert provider.order == started
        for key in keys:
            provider.open(key)
        assert [(await call.result())["status"] for call in calls] == ["ok"] * 4


async def test_sessions_that_wait_take_turns(
    tenant_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TURNS_RUNNING_PER_TENANT_MAX", 1)
    provider = GatedProvider()
    other = "agent:main:other"
    async with running_worker(catalogue_of(provider)) as rig:
        await make(rig, KEY, other)
        calls = [send(rig, KEY, text) for text in ("a1", "a2", "a3")] + [send(rig, other, "b1")]
        await has_started(provider, "a1")
        await everything_written(rig)
        for text in ("a1", "a2", "a3", "b1"):
            provider.open(text)
        for call in calls:
            await call.result()
    assert provider.order.index("b1") < provider.order.index("a3")


class Broken:
    name = "broken"

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        yield TextDelta("half an ")
        raise RuntimeError("secret")


async def test_failing_model_ends_its_turn_alone(
    tenant_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running_worker(catalogue_of(Broken())) as rig:
        await make(rig, KEY)
        result = await send(rig, KEY, "x").result()
        assert result["status"] == "error"
        assert result["error"].startswith("internal error (reference ")
        assert "secret" not in str(result)
        assert (await send(rig, KEY, "y").result())["status"] == "error"
    assert "secret" not in capfd.readouterr().err


async def test_end_that_cannot_be_written_is_refused_and_made_up_for(
    tenant_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(turns, "RETRY_SECONDS", 0.01)
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        await make(rig, KEY)
        call = send(rig, KEY, "x" * 100_000)
        await has_started(provider, "x" * 100_000)
        store = rig.worker.services.sessions
        pages = store.read().pragma("page_count")
        await store.write(lambda connection: connection.pragma("max_page_count", pages))
        provider.open("x" * 100_000)
        with pytest.raises(GatewayError) as raised:
            await call.result()
        assert raised.value.code is ErrorCode.UNAVAILABLE
        assert raised.value.message.startswith("storage is full")
        await store.write(lambda connection: connection.pragma("max_page_count", 2**20))
        provider.open("y")
        assert (await send(rig, KEY, "y").result())["status"] == "ok"
        rows = store.read().execute("SELECT state, error FROM runs ORDER BY seq").fetchall()
    assert [state for state, _ in rows] == ["error", "ok"]
    assert str(rows[0][1]).startswith("storage is full")


# Draining.


async def test_drain_lets_turns_finish(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        await make(rig, KEY)
        call = send(rig, KEY, "x")
        await has_started(provider, "x")
        waiting = send(rig, KEY, "y")
        rig.links.drain(SECONDS)
        late = await rig.front.call("sessions.send", {"key": KEY, "message": "late"})
        assert late["status"] == "queued"
        provider.open("x")
        assert (await call.result())["status"] == "ok"
        assert (await waiting.result())["status"] == "queued"
        assert await rig.task == 0
        assert provider.order == ["x"]
    assert not (tenant_dir / "sessions/sessions.sqlite-wal").exists()
    provider.open("y")
    provider.open("late")
    async with running_worker(catalogue_of(provider), generation=2) as rig:
        await rig.front.finished(late["runId"], KEY)
    assert provider.order == ["x", "y", "late"]


async def test_drain_cuts_off_what_takes_too_long(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        await make(rig, KEY)
        call = send(rig, KEY, "x")
        await has_started(provider, "x")
        assert await rig.drain(0.01) == 0
        result = await call.result()
        assert (result["status"], result["error"]) == ("interrupted", turns.STOPPING)
        assert result["reply"]["content"] == [{"type": "text", "text": "answer to "}]
        assert result["reply"]["stopReason"] == "aborted"
        (drained,) = rig.links.peer.notices
        assert type(drained).__name__ == "Drained"


async def test_drain_cuts_off_a_turn_that_has_not_begun(tenant_dir: Path) -> None:
    async with running_worker(catalogue_of(GatedProvider())) as rig:
        await make(rig, KEY)
        calls = [send(rig, KEY, "x")]
        rig.links.drain(0)
        assert (await calls[0].result())["status"] in ("interrupted", "queued")
        assert await rig.task == 0


# Two generations.


async def test_turns_of_the_dead_are_interrupted_and_what_waited_runs(tenant_dir: Path) -> None:
    provider = GatedProvider()
    provider.open("second")
    async with running_worker(catalogue_of(provider), generation=3) as dead:
        await make(dead, KEY)
        first = await dead.front.call("sessions.send", {"key": KEY, "message": "first"})
        second = await dead.front.call("sessions.send", {"key": KEY, "message": "second"})
        async with running_worker(catalogue_of(provider), generation=4) as rig:
            await rig.front.finished(second["runId"], KEY)
            assert rig.worker.services.turns.feeds.row(first["runId"]).state == "interrupted"
            assert rig.worker.services.turns.feeds.row(second["runId"]).state == "ok"
            provider.open("first")
            # The one that was taken for dead finds its turn gone, and writes nothing.
            call = dead.front.stream("sessions.send", {"key": KEY, "message": "third"})
            provider.open("third")
            assert (await call.result())["status"] == "ok"
            history = await rig.front.call("chat.history", {"sessionKey": KEY})
    said = [message["content"][0]["text"] for message in history["messages"]]
    assert "answer to first" not in said
    assert said.count("answer to second") == said.count("answer to third") == 1


async def test_living_generation_keeps_its_turn(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider), generation=1) as old:
        await make(old, KEY)
        first = old.front.stream("sessions.send", {"key": KEY, "message": "first"})
        await has_started(provider, "first")
        async with running_worker(catalogue_of(provider), generation=2, living=(1,)) as new:
            second = await new.front.call("sessions.send", {"key": KEY, "message": "second"})
            assert second["status"] == "queued"
            old.links.drain(SECONDS)
            provider.open("second")
            provider.open("first")
            assert (await first.result())["status"] == "ok"
            await old.task
            await new.front.finished(second["runId"], KEY)
            history = await new.front.call("chat.history", {"sessionKey": KEY})
    assert provider.order == ["first", "second"]
    assert [message["content"][0]["text"] for message in history["messages"]] == [
        "first",
        "second",
        "answer to first",
        "answer to second",
    ]


async def test_turn_left_by_the_draining_generation_is_taken(tenant_dir: Path) -> None:
    provider = GatedProvider()
    provider.open("left")
    async with running_worker(catalogue_of(provider), generation=1) as old:
        await make(old, KEY)
        async with running_worker(catalogue_of(provider), generation=2, living=(1,)) as new:
            blocker = old.front.stream("sessions.send", {"key": KEY, "message": "blocker"})
            await has_started(provider, "blocker")
            old.links.drain(SECONDS)
            left = await old.front.call("sessions.send", {"key": KEY, "message": "left"})
            assert left["status"] == "queued"
            provider.open("blocker")
            await blocker.result()
            await new.front.finished(left["runId"], KEY)


async def test_lease_that_ran_out_is_taken_over(tenant_dir: Path) -> None:
    provider = GatedProvider()
    clock = ManualClock()
    async with running_worker(catalogue_of(provider), clock, generation=1) as old:
        await make(old, KEY)
        first = old.front.stream("sessions.send", {"key": KEY, "message": "first"})
        await first.until("answer")
        run_id = first.chunks[0]["runId"]
        async with running_worker(catalogue_of(provider), clock, generation=2, living=(1,)) as new:
            second = new.front.stream("sessions.send", {"key": KEY, "message": "second"})
            provider.open("second")
            # Renewed, it holds…
            clock.advance(turns.LEASE_SECONDS - 1)
            old.worker.services.turns._renew()
            await old.front.call("sessions.create", {})  # the renewal was before it
            clock.advance(turns.LEASE_SECONDS - 1)
            new.worker.services.turns.look_around()
            await new.front.call("sessions.create", {})
            assert new.worker.services.turns.feeds.row(run_id).state == "running"
            # … and forgotten, it does not.
            clock.advance(2)
            new.worker.services.turns.look_around()
            assert (await second.result())["status"] == "ok"
            old.worker.services.turns._renew()
            result = await first.result()
            assert (result["status"], result["error"]) == ("interrupted", turns.TAKEN_AWAY)


async def test_two_generations_never_run_one_turn_twice(tenant_dir: Path) -> None:
    provider = GatedProvider()
    keys = [f"agent:main:s{number}" for number in range(8)]
    for text in (f"{key} {number}" for key in keys for number in range(4)):
        provider.open(text)
    async with (
        running_worker(catalogue_of(provider), generation=1, living=(2,)) as one,
        running_worker(catalogue_of(provider), generation=2, living=(1,)) as two,
    ):
        await make(one, *keys)
        last: dict[str, str] = {}
        for number in range(4):
            for key in keys:
                rig = (one, two)[number % 2]
                sent = await rig.front.call(
                    "sessions.send", {"key": key, "message": f"{key} {number}"}
                )
                last[key] = sent["runId"]
        for key in keys:
            await two.front.finished(last[key], key)
    assert sorted(provider.order) == sorted(
        f"{key} {number}" for key in keys for number in range(4)
    )


def test_the_index_itself_forbids_two_running_turns(tenant_dir: Path) -> None:
    connection = apsw.Connection(":memory:")
    for script in schema.MIGRATIONS:
        connection.execute(script)
    new = admissions.NewSession("id", "main", None, None, None)
    for name in ("one", "two"):
        turn = admissions.NewTurn(f"run {name}", f"message {name}", "x")
        admission = admissions.Admission(KEY, new, turn, Request((), b"", 1))
        admissions.admit(connection, admission, writes.Lease(1, 100))
    with pytest.raises(apsw.ConstraintError):
        connection.execute(
            "UPDATE runs SET state = 'running', owner = 1, lease_expires_at = 1"
            " WHERE id = 'run two'"
        )
    connection.close()
