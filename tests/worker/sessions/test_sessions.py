"""`sessions.create|list|get` and `chat.history`."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from protocol import limits
from protocol.errors import ErrorCode
from tests.worker.harness import Front, ManualClock, running_worker
from worker.sessions import reads

KEY = "agent:main:main"


async def say(front: Front, key: str, *messages: str) -> None:
    for message in messages:
        params = {"key": key, "message": message}
        await front.stream("sessions.send", params, credit=limits.STREAM_CREDIT_MAX).result()


async def test_create_with_nothing(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        made = await rig.front.call("sessions.create", {})
        again = await rig.front.call("sessions.create", {})
    prefix, _, name = made["key"].rpartition(":")
    assert prefix == "agent:main:dashboard"
    assert uuid.UUID(name).version == 4
    assert uuid.UUID(made["sessionId"]).version == 4
    assert made["entry"]["key"] == made["key"]
    assert (made["ok"], made["created"], made["runStarted"]) == (True, True, False)
    assert again["key"] != made["key"]


async def test_create_with_a_key_is_done_once(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        params = {"key": KEY, "label": "first", "displayName": "Ada"}
        made = await rig.front.call("sessions.create", params)
        again = await rig.front.call("sessions.create", {"key": KEY, "label": "second"})
        assert (made["created"], again["created"]) == (True, False)
        assert again["sessionId"] == made["sessionId"]
        assert again["entry"]["label"] == "first"
        assert (await rig.front.call("sessions.list"))["total"] == 1


async def test_create_with_a_message_starts_a_turn(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        made = await rig.front.call("sessions.create", {"message": "hello"})
        assert made["runStarted"]
        got = await rig.front.finished(made["runId"], made["key"])
        assert got["runStatus"] == "ok"
        history = await rig.front.call("chat.history", {"sessionKey": made["key"]})
        assert [m["content"][0]["text"] for m in history["messages"]] == ["hello", "echo: hello"]
        assert history["messages"][0]["seq"] == made["messageSeq"]


@pytest.mark.parametrize(
    ("params", "code", "field"),
    [
        ({"agentId": "other"}, ErrorCode.NOT_FOUND, "agentId"),
        ({"key": "agent:other:x"}, ErrorCode.NOT_FOUND, "key"),
        ({"key": KEY, "agentId": "other"}, ErrorCode.INVALID_REQUEST, "agentId"),
    ],
)
async def test_create_for_an_agent_that_is_not_there(
    tenant_dir: Path, params: object, code: ErrorCode, field: str
) -> None:
    async with running_worker() as rig:
        error = await rig.front.refused("sessions.create", params)
        assert (error.code, error.details) == (code, {"field": field})
        assert (await rig.front.call("sessions.list"))["total"] == 0


async def test_absent_sessions_are_not_found(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        for method, params in (
            ("sessions.get", {"key": KEY}),
            ("sessions.send", {"key": KEY, "message": "x"}),
            ("chat.history", {"sessionKey": KEY}),
        ):
            error = await rig.front.refused(method, params)
            assert (error.code, error.message) == (ErrorCode.NOT_FOUND, "no such session")


async def listed(front: Front, **params: Any) -> tuple[list[str], int]:
    result = await front.call("sessions.list", params)
    assert result["count"] == len(result["sessions"])
    return [row.get("label", "") for row in result["sessions"]], result["total"]


async def test_list(tenant_dir: Path) -> None:
    clock = ManualClock()
    async with running_worker(clock=clock) as rig:
        front = rig.front
        assert await listed(front) == ([], 0)
        for label in ("a", "b", "c", "d"):
            clock.advance(60)
            await front.call("sessions.create", {"key": f"agent:main:{label}", "label": label})
        assert await listed(front) == (["d", "c", "b", "a"], 4)
        assert await listed(front, limit=2) == (["d", "c"], 4)
        assert await listed(front, limit=2, offset=3) == (["a"], 4)
        assert await listed(front, offset=2**53) == ([], 4)
        assert await listed(front, label="b") == (["b"], 1)
        assert await listed(front, agentId="main", limit=1) == (["d"], 4)
        assert await listed(front, agentId="other") == ([], 0)
        assert await listed(front, activeMinutes=1) == (["d", "c"], 2)
        clock.advance(60)
        await say(front, "agent:main:a", "x")
        assert await listed(front) == (["a", "d", "c", "b"], 4)
        result = await front.call("sessions.list", {"limit": 1})
        assert result["ts"] == clock.now_ms()
        assert result["defaults"] == {"modelProvider": "builtin", "model": "builtin/echo"}


async def test_search_ignores_case_and_takes_nothing_for_a_pattern(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        await front.call("sessions.create", {"key": "agent:main:one", "label": "Straße 100%"})
        await front.call(
            "sessions.create", {"key": "agent:main:two", "label": "b", "displayName": "ÉMILE"}
        )
        assert await listed(front, search="STRASSE") == (["Straße 100%"], 1)
        assert await listed(front, search="émile") == (["b"], 1)
        assert await listed(front, search="MAIN:TWO") == (["b"], 1)
        assert await listed(front, search="0%") == (["Straße 100%"], 1)
        assert await listed(front, search="_") == ([], 0)
        assert await listed(front, search="' OR 1=1 --") == ([], 0)


async def test_last_message_is_shown_when_asked_for(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        await say(rig.front, KEY, "x" * 1000)
        (without,) = (await rig.front.call("sessions.list"))["sessions"]
        (with_it,) = (await rig.front.call("sessions.list", {"includeLastMessage": True}))[
            "sessions"
        ]
    assert "lastMessagePreview" not in without
    assert with_it["lastMessagePreview"] == ("echo: " + "x" * 1000)[:240]


async def test_get_counts_tokens(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        before = await rig.front.call("sessions.get", {"key": KEY})
        assert "runId" not in before
        first = await rig.front.stream("sessions.send", {"key": KEY, "message": "four"}).result()
        assert first["usage"] == {"input": 1, "output": 3}
        second = await rig.front.stream("sessions.send", {"key": KEY, "message": "more"}).result()
        after = await rig.front.call("sessions.get", {"key": KEY})
    assert (after["runId"], after["runStatus"]) == (second["runId"], "ok")
    row = after["session"]
    assert row["inputTokens"] == 1 + second["usage"]["input"]
    assert row["totalTokens"] == row["inputTokens"] + row["outputTokens"]
    assert row["model"] == "builtin/echo"


async def test_history_pages_backwards(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        await front.call("sessions.create", {"key": KEY})
        await front.call("sessions.create", {"key": "agent:main:other"})
        for number in range(3):
            await say(front, KEY, f"m{number}")
            await say(front, "agent:main:other", "noise")
        seen: list[str] = []
        params: dict[str, Any] = {"sessionKey": KEY, "limit": 4}
        page = await front.call("chat.history", params)
        assert page["hasMore"]
        seen = [m["content"][0]["text"] for m in page["messages"]]
        params["beforeSeq"] = page["messages"][0]["seq"]
        page = await front.call("chat.history", params)
        assert not page["hasMore"]
        seen = [m["content"][0]["text"] for m in page["messages"]] + seen
    assert seen == ["m0", "echo: m0", "m1", "echo: m1", "m2", "echo: m2"]


async def test_history_is_bounded_in_bytes(
    tenant_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HISTORY_BYTES_MAX", 500)
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        await say(rig.front, KEY, "a" * 150, "b" * 1000)
        page = await rig.front.call("chat.history", {"sessionKey": KEY})
        assert [m["content"][0]["text"][:8] for m in page["messages"]] == ["echo: bb"]
        assert page["hasMore"]
        page = await rig.front.call(
            "chat.history", {"sessionKey": KEY, "beforeSeq": page["messages"][0]["seq"] - 1}
        )
        assert [m["content"][0]["text"][0] for m in page["messages"]] == ["a", "e"]
        assert not page["hasMore"]


async def test_greatest_history_fits_a_frame(tenant_dir: Path) -> None:
    """Text that needs six bytes of JSON for each character, as much of it as is allowed."""
    text = "\x01" * limits.MESSAGE_CHARS_MAX
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        for _ in range(3):
            await say(rig.front, KEY, text)
        page = await rig.front.call("chat.history", {"sessionKey": KEY})
        assert page["hasMore"]
        assert page["messages"][0]["content"][0]["text"].endswith(text[:1000])


async def test_prompt_is_the_transcript_in_the_order_of_the_turns(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        await say(rig.front, KEY, "one", "/time")
        connection = rig.worker.services.sessions.read()
        assert [m.role for m in reads.prompt(connection, 1, 1)] == ["user", "assistant"]
        roles = [m.role for m in reads.prompt(connection, 1, 2)]
    assert roles == ["user", "assistant", "user", "assistant", "tool", "assistant"]


async def test_prompt_over_its_bound_starts_with_a_user(
    tenant_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "CONTEXT_MESSAGES_MAX", 4)
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY})
        await say(rig.front, KEY, "one", "/time", "two")
        connection = rig.worker.services.sessions.read()
        prompt = reads.prompt(connection, 1, 3)
        assert [message.role for message in prompt] == ["user", "assistant"]
        monkeypatch.setattr(reads, "CONTEXT_BYTES_MAX", 0)
        assert len(reads.prompt(connection, 1, 3)) == 2
