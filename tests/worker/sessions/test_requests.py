"""Idempotency keys: the same for every method that takes one."""

from pathlib import Path
from typing import Any

import pytest

from protocol.errors import ErrorCode
from protocol.methods import METHODS
from tests.worker.harness import Front, ManualClock, running_worker, worker_process
from worker.sessions import requests

KEY = "agent:main:main"
# What each asks for, and something else under the same key.
CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sessions.create": ({"label": "a"}, {"label": "b"}),
    "sessions.send": ({"key": KEY, "message": "a"}, {"key": KEY, "message": "b"}),
    "chat.send": ({"sessionKey": KEY, "message": "a"}, {"sessionKey": KEY, "message": "b"}),
    "agent": ({"message": "a"}, {"message": "a", "label": "b"}),
    "chat.inject": (
        {"sessionKey": KEY, "message": "a"},
        {"sessionKey": KEY, "message": "a", "role": "system"},
    ),
    "sessions.patch": ({"key": KEY, "label": "a"}, {"key": KEY, "label": None}),
    "sessions.reset": ({"key": KEY}, {"key": "agent:main:other"}),
    "sessions.delete": ({"key": KEY}, {"key": KEY, "deleteTranscript": False}),
    "sessions.compact": ({"key": KEY, "maxLines": 1}, {"key": KEY, "maxLines": 2}),
}
with_a_key = pytest.mark.parametrize("method", CALLS)


def test_these_are_all_that_take_a_key() -> None:
    taking = {name for name, method in METHODS.items() if hasattr(method.params, "idempotency_key")}
    assert taking == CALLS.keys()
    assert all(METHODS[name].idempotent for name in taking)


async def prepared(front: Front) -> None:
    await front.call("sessions.create", {"key": KEY})
    for text in ("one", "two"):
        await front.stream("sessions.send", {"key": KEY, "message": text}).result()


def written(rig: Any) -> list[Any]:
    """Everything there is, but for the ends of turns that go on."""
    connection = rig.worker.services.sessions.read()
    tables = ("SELECT id, key, label FROM sessions", "SELECT id FROM runs")
    return [connection.execute(table).fetchall() for table in tables]


@with_a_key
async def test_a_repeat_does_nothing_and_is_answered_alike(tenant_dir: Path, method: str) -> None:
    asked, other = CALLS[method]
    async with running_worker() as rig:
        await prepared(rig.front)
        first = await rig.front.call(method, asked, key="k")
        after = written(rig)
        again = await rig.front.call(method, {**asked, "idempotencyKey": "k"})
        assert written(rig) == after
        ids = ("runId", "messageId", "key", "sessionKey", "archived")
        assert [again.get(name) for name in ids] == [first.get(name) for name in ids]
        error = await rig.front.refused(method, other, key="k")
        assert (error.code, error.details) == (ErrorCode.CONFLICT, {"field": "idempotencyKey"})
        assert written(rig) == after


@with_a_key
async def test_a_repeat_is_known_after_a_kill(tenant_dir: Path, method: str) -> None:
    asked, _ = CALLS[method]
    async with worker_process(tenant_dir) as process:
        front = await process.front()
        await prepared(front)
        first = await front.call(method, asked, key="k")
        process.kill()
    async with worker_process(tenant_dir, generation=2) as process:
        again = await (await process.front()).call(method, asked, key="k")
    ids = ("runId", "messageId", "key", "sessionKey", "archived")
    assert [again.get(name) for name in ids] == [first.get(name) for name in ids]


async def test_one_key_is_one_request_whatever_the_method(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY}, key="k")
        for method, (asked, _) in CALLS.items():
            error = await rig.front.refused(method, asked, key="k")
            assert error.code is ErrorCode.CONFLICT, method


async def test_a_key_is_kept_for_a_day(tenant_dir: Path) -> None:
    clock = ManualClock()
    async with running_worker(clock=clock) as rig:
        await prepared(rig.front)
        note = {"sessionKey": KEY, "message": "x"}
        first = await rig.front.call("chat.inject", note, key="k")
        clock.advance(requests.KEPT_MS / 1000)
        assert await rig.front.call("chat.inject", note, key="k") == first
        clock.advance(0.001)
        assert await rig.front.call("chat.inject", note, key="k") != first
        rows = rig.worker.services.sessions.read().execute("SELECT key FROM answers").fetchall()
    assert rows == [("client:k",)]


async def test_what_was_refused_is_tried_again(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        patch = {"key": KEY, "label": "x"}
        error = await rig.front.refused("sessions.patch", patch, key="k")
        assert error.code is ErrorCode.NOT_FOUND
        await rig.front.call("sessions.create", {"key": KEY})
        patched = await rig.front.call("sessions.patch", patch, key="k")
        assert patched["entry"]["label"] == "x"


async def test_a_repeat_does_not_bring_back_what_was_deleted(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        for params in ({"key": KEY}, {"key": KEY, "message": "hi"}):
            key = str(params)
            await rig.front.call("sessions.create", params, key=key)
            await rig.front.call("sessions.delete", {"key": KEY})
            error = await rig.front.refused("sessions.create", params, key=key)
            assert error.code is ErrorCode.NOT_FOUND
        assert (await rig.front.call("sessions.list"))["total"] == 0
