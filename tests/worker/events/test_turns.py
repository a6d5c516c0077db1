"""The events of turns, from a worker as the front sees it."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from protocol import frames
from protocol.errors import ErrorCode
from protocol.methods.events import AgentEvent, ChatEvent, SessionChanged
from tests.worker.harness import SECONDS, Front, GatedProvider, catalogue_of, running_worker

KEY = "agent:main:main"
KINDS: dict[str, Any] = {
    "chat": ChatEvent,
    "agent": AgentEvent,
    "session.changed": SessionChanged,
}


def listen(front: Front, *, on: bool) -> None:
    front.end.link.send(frames.Event("listen", b"true" if on else b"false"))
    front.end.flush()


def heard(front: Front) -> list[tuple[str, dict[str, Any]]]:
    events = []
    for notice in front.peer.notices:
        assert isinstance(notice, frames.Event)
        payload = msgspec.json.decode(notice.body)["payload"]
        msgspec.convert(payload, KINDS[notice.topic])
        events.append((notice.topic, payload))
    return events


async def until(front: Front, kind: str, **members: Any) -> None:
    async with asyncio.timeout(SECONDS):
        while not any(
            name == kind and members.items() <= payload.items() for name, payload in heard(front)
        ):
            front.peer.noticed.clear()
            await front.peer.noticed.wait()


async def test_a_turn_is_told_of_from_its_beginning_to_its_end(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        listen(rig.front, on=True)
        await rig.front.call("sessions.create", {"key": KEY})
        sent = await rig.front.call("sessions.send", {"key": KEY, "message": "hello there"})
        await until(rig.front, "session.changed", reason="turn")
        events = heard(rig.front)
        run = {"runId": sent["runId"], "sessionKey": KEY}
        assert [payload["reason"] for name, payload in events if name == "session.changed"] == [
            "created",
            "message",
            "turn",
        ]
        phases = [payload for name, payload in events if name == "agent"]
        assert [payload["data"]["phase"] for payload in phases] == ["start", "end"]
        chat = [payload for name, payload in events if name == "chat"]
        assert [payload["seq"] for payload in chat] == list(range(1, len(chat) + 1))
        assert all(run.items() <= payload.items() for payload in (*phases, *chat))
        *deltas, final = chat
        text = "".join(payload["deltaText"] for payload in deltas)
        assert text == final["message"]["content"][0]["text"]
        assert final["state"] == "final"
        assert final["usage"]["output"] > 0


async def test_an_aborted_turn_is_told_of(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        listen(rig.front, on=True)
        await rig.front.call("sessions.create", {"key": KEY, "message": "wait"})
        async with asyncio.timeout(SECONDS):
            await provider.started("wait").wait()
        await rig.front.call("chat.abort", {"sessionKey": KEY})
        await until(rig.front, "chat", state="aborted")
        await until(rig.front, "session.changed", reason="turn")


async def test_nothing_is_sent_while_nobody_listens(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        created = await rig.front.call("sessions.create", {"key": KEY, "message": "one"})
        await rig.front.finished(created["runId"], KEY)
        assert rig.front.peer.notices == []
        listen(rig.front, on=True)
        sent = await rig.front.call("sessions.send", {"key": KEY, "message": "two"})
        await until(rig.front, "session.changed", reason="turn")
        listen(rig.front, on=False)
        await rig.front.finished(sent["runId"], KEY)
        count = len(rig.front.peer.notices)
        sent = await rig.front.call("sessions.send", {"key": KEY, "message": "three"})
        await rig.front.finished(sent["runId"], KEY)
        assert len(rig.front.peer.notices) == count


async def test_polling_gives_the_same(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        cursor = (await rig.front.call("events.poll"))["cursor"]
        sent = await rig.front.call("sessions.create", {"key": KEY, "message": "hello"})
        names = []
        while "turn" not in names:
            got = await rig.front.call("events.poll", {"cursor": cursor, "waitMs": 20_000})
            cursor = got["cursor"]
            names += [event["payload"].get("reason", event["event"]) for event in got["events"]]
        assert names[0] == "created"
        assert {"agent", "chat", "created", "turn"} == set(names)
        assert "reset" not in got
        await rig.front.finished(sent["runId"], KEY)
        assert rig.front.peer.notices == []


async def test_a_poll_that_waits_does_not_hold_up_the_end(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        waiting = asyncio.create_task(rig.front.call("events.poll", {"waitMs": 20_000}))
        await rig.front.call("health")
        assert await rig.drain() == 0
        assert (await waiting)["events"] == []


async def test_what_is_wrong_with_a_poll_is_named(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        for params, field in (
            ({"cursor": "x"}, "cursor"),
            ({"limit": 0}, "limit"),
            ({"waitMs": 25_001}, "waitMs"),
            ({"more": 1}, "more"),
        ):
            error = await rig.front.refused("events.poll", params)
            assert (error.code, error.details["field"]) == (ErrorCode.INVALID_REQUEST, field)


async def test_changes_of_a_session_are_told_once(tenant_dir: Path) -> None:
    changes: list[tuple[str, dict[str, Any], str]] = [
        ("chat.inject", {"sessionKey": KEY, "message": "a note"}, "injected"),
        ("sessions.patch", {"key": KEY, "label": "x"}, "patched"),
        ("sessions.compact", {"key": KEY, "maxLines": 1}, "compacted"),
        ("sessions.reset", {"key": KEY}, "reset"),
        ("sessions.delete", {"key": KEY}, "deleted"),
    ]
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        listen(rig.front, on=True)
        for method, params, reason in changes:
            for _ in range(2):  # the second is found done
                await rig.front.call(method, {**params, "idempotencyKey": reason})
            await until(rig.front, "session.changed", reason=reason)
        told = [payload for name, payload in heard(rig.front) if name == "session.changed"]
        assert [payload["reason"] for payload in told] == [reason for _, _, reason in changes]
        assert {payload["sessionKey"] for payload in told} == {KEY}
