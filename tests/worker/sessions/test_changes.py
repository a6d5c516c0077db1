"""`sessions.patch|reset|delete|compact|resolve|abort`, `chat.inject|send` and `agent`."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import ErrorCode
from tests.worker.harness import (
    SECONDS,
    Front,
    GatedProvider,
    Rig,
    catalogue_of,
    running_worker,
)
from worker.sessions import purging, reads, transcripts

KEY = "agent:main:test"


async def say(front: Front, *texts: str, key: str = KEY) -> None:
    for text in texts:
        await front.stream("chat.send", {"sessionKey": key, "message": text}).result()


async def texts(front: Front, **params: Any) -> list[str]:
    history = await front.call("chat.history", {"sessionKey": KEY, **params})
    return [row["content"][0]["text"] for row in history["messages"]]


async def count(rig: Rig, table: str) -> int:
    number: int = rig.worker.services.sessions.read().execute(f"SELECT count(*) FROM {table}").get
    return number


async def something_written(rig: Rig) -> None:
    """Wait for what was written before."""
    await rig.worker.services.sessions.write(lambda _: None)


# --- names


async def test_patch_changes_what_is_given(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        await front.call("sessions.create", {"key": KEY, "label": "a", "displayName": "b"})
        patched = await front.call("sessions.patch", {"key": KEY, "label": "c"})
        assert (patched["entry"]["label"], patched["entry"]["displayName"]) == ("c", "b")
        patched = await front.call("sessions.patch", {"key": KEY, "displayName": None})
        assert "displayName" not in patched["entry"]
        assert (await front.call("sessions.list", {"search": "c"}))["total"] == 1
        error = await front.refused("sessions.patch", {"key": KEY})
        assert error.code is ErrorCode.INVALID_REQUEST


async def test_resolve_by_each_name(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        made = await front.call("sessions.create", {"key": KEY, "label": "mine"})
        for name in ({"key": KEY}, {"sessionId": made["sessionId"]}, {"label": "mine"}):
            assert await front.call("sessions.resolve", name) == {"ok": True, "key": KEY}
            other = {**name, "agentId": "other"}
            assert (await front.refused("sessions.resolve", other)).code is ErrorCode.NOT_FOUND
        missing = {"label": "nobody's"}
        error = await front.refused("sessions.resolve", missing)
        assert (error.code, error.details) == (ErrorCode.NOT_FOUND, {"field": "label"})
        assert await front.call("sessions.resolve", {**missing, "allowMissing": True}) == {
            "ok": False
        }
        await front.call("sessions.create", {"label": "mine"})
        error = await front.refused("sessions.resolve", {"label": "mine"})
        assert error.code is ErrorCode.CONFLICT
        for wrong in ({}, {"key": KEY, "label": "mine"}):
            error = await front.refused("sessions.resolve", wrong)
            assert error.code is ErrorCode.INVALID_REQUEST


# --- reset


async def test_reset_begins_anew_and_keeps_the_old_transcript(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        made = await front.call("sessions.create", {"key": KEY, "label": "kept"})
        await say(front, "one")
        result = await front.call("sessions.reset", {"key": KEY})
        assert result["archived"] == made["sessionId"]
        assert result["entry"]["sessionId"] != made["sessionId"]
        assert (result["entry"]["label"], result["entry"]["totalTokens"]) == ("kept", 0)
        assert await texts(front) == []
        assert await texts(front, sessionId=made["sessionId"]) == ["one", "echo: one"]
        got = await front.call("sessions.get", {"key": KEY})
        assert [(a["sessionId"], a["why"]) for a in got["archives"]] == [
            (made["sessionId"], "reset")
        ]
        assert (await front.call("sessions.list"))["total"] == 1
        assert (await front.call("health"))["sessions"]["count"] == 1
        await say(front, "two")
        connection = rig.worker.services.sessions.read()
        row, run = connection.execute("SELECT session, max(seq) FROM runs").get
        told = reads.prompt(connection, row, run)
        assert [message.role for message in told] == ["user", "assistant"]


async def test_an_archive_is_only_reached_by_its_own_key(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        await say(front, "one")
        archived = (await front.call("sessions.reset", {"key": KEY}))["archived"]
        await say(front, "x", key="agent:main:other")
        params = {"sessionKey": "agent:main:other", "sessionId": archived}
        error = await front.refused("chat.history", params)
        assert (error.code, error.details) == (ErrorCode.NOT_FOUND, {"field": "sessionId"})


@pytest.mark.parametrize("method", ["sessions.reset", "sessions.delete"])
async def test_turns_end_when_their_session_does(tenant_dir: Path, method: str) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        front = rig.front
        runs = [
            (await front.call("chat.send", {"sessionKey": KEY, "message": text}))["runId"]
            for text in ("runs", "waits")
        ]
        async with asyncio.timeout(SECONDS):
            await provider.started("runs").wait()
        result = await front.call(method, {"key": KEY})
        assert sorted(result["runIds"]) == sorted(runs)
        if method == "sessions.reset":
            for run in runs:
                assert (await front.call("agent.wait", {"runId": run}))["status"] == "interrupted"
            said = await texts(front, sessionId=result["archived"])
            assert said == ["runs", "waits", "answer to "]
        provider.open("next")
        await say(front, "next")
        assert await texts(front) == ["next", "answer to next"]
    assert provider.order == ["runs", "next"]


async def test_a_turn_of_another_generation_ends_with_its_session(tenant_dir: Path) -> None:
    provider = GatedProvider()
    catalogue = catalogue_of(provider)
    async with (
        running_worker(catalogue, generation=1) as old,
        running_worker(catalogue, generation=2, living=(1,)) as new,
    ):
        sent = await old.front.call("chat.send", {"sessionKey": KEY, "message": "runs"})
        async with asyncio.timeout(SECONDS):
            await provider.started("runs").wait()
        result = await new.front.call("sessions.reset", {"key": KEY})
        assert result["runIds"] == [sent["runId"]]
        # A generation whose calls go elsewhere drains, and looks at its rows meanwhile.
        await old.drain()
        ended = await new.front.call("agent.wait", {"runId": sent["runId"]})
        assert ended["status"] == "interrupted"


# --- delete


async def test_delete_removes_everything_of_the_session(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        await say(front, "one", "two")
        await front.call("sessions.reset", {"key": KEY})
        await say(front, "three")
        await front.call("sessions.compact", {"key": KEY, "maxLines": 1})
        deleted = await front.call("sessions.delete", {"key": KEY})
        assert deleted == {"ok": True, "key": KEY, "deleted": True, "archived": [], "runIds": []}
        for table in ("sessions", "runs", "messages"):
            assert await count(rig, table) == 0, table
        error = await front.refused("sessions.delete", {"key": KEY})
        assert (error.code, error.message) == (ErrorCode.NOT_FOUND, "no such session")


async def test_delete_can_leave_the_transcript_in_the_archive(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        await say(front, "one")
        params = {"key": KEY, "deleteTranscript": False}
        (archived,) = (await front.call("sessions.delete", params))["archived"]
        assert (await front.refused("sessions.get", {"key": KEY})).code is ErrorCode.NOT_FOUND
        assert await texts(front, sessionId=archived) == ["one", "echo: one"]
        await front.call("sessions.delete", {"key": KEY})
        assert await count(rig, "messages") == 0


async def test_much_is_removed_in_pieces_and_by_the_next_generation(
    tenant_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcripts, "PURGED_AT_ONCE", 3)
    async with running_worker() as rig:
        await say(rig.front, *(str(number) for number in range(5)))
        with monkeypatch.context() as patch:
            patch.setattr(purging.Purging, "start", lambda _: None)
            await rig.front.call("sessions.delete", {"key": KEY})
        assert 0 < await count(rig, "messages") < 10
        assert await rig.drain() == 0
    async with running_worker(generation=2) as rig, asyncio.timeout(SECONDS):
        while await count(rig, "sessions"):
            await something_written(rig)
        assert await count(rig, "messages") == await count(rig, "runs") == 0


async def test_what_a_running_turn_holds_is_removed_when_it_has_ended(
    tenant_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "LATER_SECONDS", 0.01)
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        await rig.front.call("chat.send", {"sessionKey": KEY, "message": "runs"})
        async with asyncio.timeout(SECONDS):
            await provider.started("runs").wait()
        await rig.front.call("sessions.delete", {"key": KEY})
        async with asyncio.timeout(SECONDS):
            while await count(rig, "sessions"):
                await something_written(rig)
        assert await count(rig, "messages") == await count(rig, "runs") == 0


# --- compact


async def test_compact_puts_a_summary_in_the_place_of_older_rows(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        await say(front, "one", "two", "three")
        before = (await front.call("chat.history", {"sessionKey": KEY}))["messages"]
        result = await front.call("sessions.compact", {"key": KEY, "maxLines": 2})
        assert (result["compacted"], result["kept"], result["cut"]) == (True, 2, 4)
        after = (await front.call("chat.history", {"sessionKey": KEY}))["messages"]
        assert after[1:] == before[4:]
        assert after[0]["seq"] == before[3]["seq"]
        assert (after[0]["role"], "runId" in after[0]) == ("system", False)
        assert after[0]["content"] == [{"type": "text", "text": result["summary"]}]
        assert "4 messages (2 of the user, 2 of the assistant, 0 of tools)" in result["summary"]
        assert result["archived"] in result["summary"]
        old = await texts(front, sessionId=result["archived"])
        assert old == ["one", "echo: one", "two", "echo: two"]
        # What a turn answered is still known.
        reader = rig.worker.services.sessions.read()
        runs: list[Any] = reader.execute("SELECT reply_seq FROM runs").fetchall()
        for (seq,) in runs:
            reply = reads.message(reader, seq)
            assert reply is not None
            assert reply.role == "assistant"


async def test_compacting_again_does_nothing_until_there_is_more(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        await say(front, "one", "two")
        compact = {"key": KEY, "maxLines": 2}
        assert (await front.call("sessions.compact", compact))["compacted"]
        again = await front.call("sessions.compact", compact)
        assert again == {"ok": True, "key": KEY, "compacted": False, "kept": 3, "cut": 0}
        await say(front, "three")
        more = await front.call("sessions.compact", compact)
        assert (more["compacted"], more["cut"]) == (True, 3)
        assert "an earlier summary among them" in more["summary"]
        assert len((await front.call("sessions.get", {"key": KEY}))["archives"]) == 2


async def test_the_model_is_told_the_summary_first_and_notes_in_their_place(
    tenant_dir: Path,
) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        front = rig.front
        for text in ("one", "two", "three"):
            provider.open(text)
        await say(front, "one", "two")
        result = await front.call("sessions.compact", {"key": KEY, "maxLines": 2})
        note = {"sessionKey": KEY, "message": "a note", "role": "system", "label": "cron"}
        await front.call("chat.inject", note)
        await say(front, "three")
        told = [
            (message.role, message.parts[0].text)  # type: ignore[union-attr]
            for message in provider.requests[-1].messages
        ]
    assert told == [
        ("system", result["summary"]),
        ("user", "two"),
        ("assistant", "answer to two"),
        ("system", "a note"),
        ("user", "three"),
    ]


async def test_rows_of_open_turns_are_not_cut(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        front = rig.front
        provider.open("done")
        await say(front, "done")
        sent = [
            (await front.call("chat.send", {"sessionKey": KEY, "message": text}))["runId"]
            for text in ("runs", "waits 1", "waits 2")
        ]
        result = await front.call("sessions.compact", {"key": KEY, "maxLines": 1})
        assert (result["cut"], result["kept"]) == (2, 3)
        for text in ("runs", "waits 1", "waits 2"):
            provider.open(text)
        for run in sent:
            assert (await front.call("agent.wait", {"runId": run}))["status"] == "ok"
        assert len(await texts(front)) == 7


# --- notes and turns


async def test_a_note_is_a_row_without_a_turn(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        await front.call("sessions.create", {"key": KEY})
        note = {"sessionKey": KEY, "message": "by hand", "label": "operator"}
        made = await front.call("chat.inject", note)
        (row,) = (await front.call("chat.history", {"sessionKey": KEY}))["messages"]
        assert (row["id"], row["seq"]) == (made["messageId"], made["messageSeq"])
        assert (row["role"], row["label"], row.get("runId")) == ("assistant", "operator", None)
        assert "runId" not in await front.call("sessions.get", {"key": KEY})
        absent = {"sessionKey": "agent:main:absent", "message": "x"}
        assert (await front.refused("chat.inject", absent)).code is ErrorCode.NOT_FOUND


async def test_agent_runs_in_its_main_session(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        started = await front.call("agent", {"message": "hello"})
        assert (started["sessionKey"], started["status"]) == ("agent:main:main", "started")
        assert started["acceptedAt"] > 1_600_000_000_000
        assert (await front.call("agent.wait", {"runId": started["runId"]}))["status"] == "ok"
        streamed = front.stream("agent", {"message": "again", "sessionKey": KEY})
        assert (await streamed.result())["reply"]["content"][0]["text"] == "echo: again"
        assert streamed.text == "echo: again"
        error = await front.refused("agent", {"message": "x", "deliver": True})
        assert (error.code, error.details) == (ErrorCode.INVALID_REQUEST, {"field": "deliver"})
        error = await front.refused("agent", {"message": "x", "agentId": "other"})
        assert (error.code, error.details) == (ErrorCode.NOT_FOUND, {"field": "agentId"})


async def test_a_turn_can_be_aborted_by_its_id_alone(tenant_dir: Path) -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        front = rig.front
        sent = await front.call("agent", {"message": "long"})
        async with asyncio.timeout(SECONDS):
            await provider.started("long").wait()
        result = await front.call("sessions.abort", {"runId": sent["runId"]})
        assert result == {"ok": True, "aborted": True, "runIds": [sent["runId"]]}
        ended = await front.call("agent.wait", {"runId": sent["runId"]})
        assert ended["status"] == "interrupted"
        error = await front.refused("sessions.abort", {})
        assert error.code is ErrorCode.INVALID_REQUEST
        other = {"runId": sent["runId"], "key": "agent:main:absent"}
        error = await front.refused("sessions.abort", other)
        assert (error.code, error.details) == (ErrorCode.NOT_FOUND, {"field": "key"})
