"""`sessions.send`: acceptance, streams and idempotency keys."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from tests.worker.harness import (
    GatedProvider,
    ManualClock,
    Rig,
    catalogue_of,
    running_worker,
)
from worker.sessions import requests
from worker.sessions.admissions import Admission, NewTurn

KEY = "agent:main:main"


async def texts(rig: Rig, key: str = KEY) -> list[str]:
    history = await rig.front.call("chat.history", {"sessionKey": key, "limit": 1000})
    return [message["content"][0]["text"] for message in history["messages"]]


def message(text: str, **more: Any) -> dict[str, Any]:
    return {"key": KEY, "message": text, **more}


async def test_answered_once_it_is_written(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        first = await rig.front.call("sessions.send", message("one"))
        second = await rig.front.call("sessions.send", message("two"))
        assert (first["status"], second["status"]) == ("started", "queued")
        assert first["messageSeq"] < second["messageSeq"]
        assert "reply" not in first
        assert await texts(rig) == ["one", "two"]
        health = (await rig.front.call("health"))["sessions"]
        assert (health["turnsRunning"], health["turnsQueued"]) == (1, 1)
        provider.open("one")
        provider.open("two")
        await rig.front.finished(second["runId"], KEY)
        assert await texts(rig) == ["one", "two", "answer to one", "answer to two"]
        second_prompt = [m.parts[0] for m in provider.requests[1].messages]
        assert [part.text for part in second_prompt if hasattr(part, "text")] == [
            "one",
            "answer to one",
            "two",
        ]


async def test_stream_shows_text_as_it_comes_and_ends_with_the_reply(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        call = rig.front.stream("sessions.send", message("you"))
        await call.until("answer to ")
        assert call.last is None
        provider.open("you")
        result = await call.result()
        assert call.text == "answer to you"
        assert [chunk["seq"] for chunk in call.chunks] == list(range(1, len(call.chunks) + 1))
        assert {chunk["state"] for chunk in call.chunks} == {"delta"}
        assert {chunk["runId"] for chunk in call.chunks} == {result["runId"]}
        assert result["status"] == "ok"
        assert result["reply"]["content"] == [{"type": "text", "text": "answer to you"}]
        assert result["usage"] == {"input": 3, "output": 13}


async def test_stream_without_credit_waits_and_is_coalesced(tenant_dir: Path) -> None:
    words = " ".join(f"w{number}" for number in range(300))
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        call = rig.front.stream("sessions.send", message(words), credit=1)
        await call.until("echo:")
        await rig.front.finished((await rig.front.call("sessions.get", {"key": KEY}))["runId"], KEY)
        assert (len(call.chunks), call.last) == (1, None)
        call.grant(1)
        result = await call.result()
        assert len(call.chunks) == 2
        assert call.text == f"echo: {words}" == result["reply"]["content"][0]["text"]


async def test_reader_that_grants_nothing_more_gets_the_result_all_the_same(
    tenant_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.sessions.watching.LAST_DELTAS_SECONDS", 0.01)
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        call = rig.front.stream("sessions.send", message("a b c"), credit=1)
        result = await call.result()
        assert len(call.chunks) == 1
        assert result["reply"]["content"][0]["text"] == "echo: a b c"


async def test_chunks_are_bounded(tenant_dir: Path) -> None:
    text = "\x01" * 100_000
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        call = rig.front.stream("sessions.send", message(text), credit=limits.STREAM_CREDIT_MAX)
        await call.result()
        assert call.text == f"echo: {text}"
        assert len(call.chunks) >= 10


async def test_cancel_stops_watching_and_not_the_turn(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        call = rig.front.stream("sessions.send", message("x"))
        await call.until("answer")
        call.cancel()
        with pytest.raises(GatewayError) as raised:
            await call.result()
        assert raised.value.code is ErrorCode.CANCELLED
        provider.open("x")
        run_id = call.chunks[0]["runId"]
        assert (await rig.front.finished(run_id, KEY))["runStatus"] == "ok"
        assert await texts(rig) == ["x", "answer to x"]


async def test_cancel_while_it_is_being_written_does_not_lose_the_turn(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        admission = Admission(
            KEY, None, NewTurn("run", "message", "hi"), requests.Request((), b"", 1)
        )
        task = asyncio.create_task(rig.worker.services.turns.admit(admission))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert (await rig.front.finished("run", KEY))["runStatus"] == "ok"


async def test_lost_front_does_not_stop_the_turn(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        call = rig.front.stream("sessions.send", message("x"))
        await call.until("answer")
        rig.front.end.close()
        rig.front = await rig.links.front()
        provider.open("x")
        assert (await rig.front.finished(call.chunks[0]["runId"], KEY))["runStatus"] == "ok"


async def test_late_watcher_gets_the_text_from_the_beginning(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        first = rig.front.stream("sessions.send", message("x"), key="k")
        await first.until("answer to ")
        second = rig.front.stream("sessions.send", message("x"), key="k")
        await second.until("answer to ")
        provider.open("x")
        one, two = await first.result(), await second.result()
        assert one == two
        assert first.text == second.text == "answer to x"
        assert provider.order == ["x"]


# Idempotency keys.


async def test_repeat_is_the_same_turn(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        first = await rig.front.call("sessions.send", message("x", idempotencyKey="k"))
        again = await rig.front.call("sessions.send", message("x"), key="k")
        assert again == {**first, "status": "in_flight"}
        queued = await rig.front.call("sessions.send", message("y"), key="k2")
        repeat = await rig.front.call("sessions.send", message("y"), key="k2")
        assert (queued["status"], repeat["status"]) == ("queued", "in_flight")
        provider.open("x")
        provider.open("y")
        await rig.front.finished(queued["runId"], KEY)
        done = await rig.front.call("sessions.send", message("x"), key="k")
        assert (done["runId"], done["status"]) == (first["runId"], "ok")
        assert done["reply"]["content"][0]["text"] == "answer to x"
        streamed = await rig.front.stream("sessions.send", message("x"), key="k").result()
        assert streamed == done
        assert await texts(rig) == ["x", "y", "answer to x", "answer to y"]
        assert provider.order == ["x", "y"]


async def test_concurrent_repeats_make_one_turn(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        calls = [rig.front.stream("sessions.send", message("x"), key="k") for _ in range(10)]
        results = [await call.result() for call in calls]
        assert len({result["runId"] for result in results}) == 1
        assert {result["status"] for result in results} == {"ok"}
        assert await texts(rig) == ["x", "echo: x"]


async def test_key_for_something_else_is_a_conflict(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY}, key="made")
        await rig.front.call("sessions.send", message("x"), key="k")
        for method, params in (
            ("sessions.send", message("other")),
            ("sessions.create", {"key": KEY, "message": "x"}),
        ):
            error = await rig.front.refused(method, params, key="k")
            assert error.code is ErrorCode.CONFLICT
        error = await rig.front.refused("sessions.send", message("x"), key="made")
        assert error.code is ErrorCode.CONFLICT


async def test_create_with_a_key_gives_the_same_session(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        made = await rig.front.call("sessions.create", {"message": "hi"}, key="k")
        again = await rig.front.call("sessions.create", {"message": "hi", "idempotencyKey": "k"})
        for name in ("key", "sessionId", "created", "runId", "messageSeq"):
            assert again[name] == made[name]
        assert (await rig.front.call("sessions.list"))["total"] == 1


async def test_keys_that_are_none(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        for params, key in (
            (message("x", idempotencyKey="a"), "b"),
            (message("x"), ""),
            (message("x"), "a\0b"),
            (message("x", idempotencyKey=""), None),
            (message("x", idempotencyKey="k" * 201), None),
        ):
            error = await rig.front.refused("sessions.send", params, key=key)
            assert error.code is ErrorCode.INVALID_REQUEST
            assert error.details == {"field": "idempotencyKey"}
        assert await texts(rig) == []


async def test_old_keys_are_forgotten(tenant_dir: Path) -> None:
    clock = ManualClock()
    async with running_worker(clock=clock) as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        first = await rig.front.call("sessions.send", message("x"), key="k")
        clock.advance(requests.KEPT_MS / 1000 - 1)
        await rig.front.call("sessions.create", {}, key="other")
        assert (await rig.front.call("sessions.send", message("x"), key="k"))["runId"] == first[
            "runId"
        ]
        clock.advance(2)
        await rig.front.call("sessions.create", {}, key="another")
        assert (await rig.front.call("sessions.send", message("x"), key="k"))["runId"] != first[
            "runId"
        ]


async def test_too_many_waiting_turns_are_refused(
    tenant_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TURNS_QUEUED_PER_SESSION_MAX", 2)
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        await rig.front.call("sessions.create", {"key": "agent:main:other"})
        for text in ("run", "wait1", "wait2"):
            await rig.front.call("sessions.send", message(text))
        error = await rig.front.refused("sessions.send", message("too much"), key="k")
        assert error.code is ErrorCode.RATE_LIMITED
        assert await texts(rig) == ["run", "wait1", "wait2"]
        other = {"key": "agent:main:other", "message": "x"}
        assert (await rig.front.call("sessions.send", other))["status"] == "started"
        for text in ("run", "wait1", "wait2"):
            provider.open(text)
        await rig.front.finished((await rig.front.call("sessions.get", {"key": KEY}))["runId"], KEY)
        assert (await rig.front.call("sessions.send", message("x"), key="k"))["status"] == "started"
