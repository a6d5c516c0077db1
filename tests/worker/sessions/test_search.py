"""`sessions.search` and `sessions.preview`, and the search of `sessions.list`."""

import asyncio
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from tests.worker.harness import Front, running_worker
from worker.sessions import reads, schema, search
from worker.store import database

KEY = "agent:main:main"
OTHER = "agent:main:other"


async def note(front: Front, key: str, *texts: str) -> None:
    await front.call("sessions.create", {"key": key})
    for text in texts:
        await front.call("chat.inject", {"sessionKey": key, "message": text})


async def found(front: Front, query: str, **params: Any) -> list[str]:
    """The snippets that a query finds, each place that was found in brackets."""
    result = await front.call("sessions.search", {"query": query, **params})
    snippets = []
    for hit in result["results"]:
        text = hit["snippet"]
        for first, last in reversed(hit["highlights"]):
            text = f"{text[:first]}[{text[first:last]}]{text[last:]}"
        snippets.append(text)
    return snippets


async def test_words_phrases_and_beginnings(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        await note(front, KEY, "the quick brown fox", "a brown, quick Fuchs", "Café Noël")
        both = ["a [brown], [quick] Fuchs", "the [quick] [brown] fox"]
        assert await found(front, "quick brown") == both
        assert await found(front, '"quick brown"') == ["the [quick brown] fox"]
        assert await found(front, "FO*") == ["the quick brown [fox]"]
        assert await found(front, "fo") == []
        assert await found(front, "cafe noel") == ["[Café] [Noël]"]
        assert await found(front, "quick wolf") == []


async def test_what_was_said_in_turns_is_found_with_its_place(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        sent = await front.stream("chat.send", {"sessionKey": KEY, "message": "zebra"}).result()
        answer, question = (await front.call("sessions.search", {"query": "zebra"}))["results"]
        row = (await front.call("sessions.get", {"key": KEY}))["session"]
    assert answer["role"] == "assistant"
    assert answer["messageId"] == sent["reply"]["id"]
    assert question == {
        "kind": "message",
        "sessionKey": KEY,
        "sessionId": row["sessionId"],
        "timestamp": question["timestamp"],
        "snippet": "zebra",
        "highlights": [[0, 5]],
        "messageId": question["messageId"],
        "seq": sent["messageSeq"],
        "role": "user",
    }


async def test_names_of_sessions_are_found_as_they_are_now(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        await front.call("sessions.create", {"key": KEY, "label": "Invoices", "displayName": "Ann"})
        await note(front, OTHER, "no invoices here")
        assert await found(front, "invoices") == ["[Invoices]\nAnn", "no [invoices] here"]
        assert await found(front, "ann") == ["Invoices\n[Ann]"]
        await front.call("sessions.patch", {"key": KEY, "label": "Bills", "displayName": None})
        assert await found(front, "invoices") == ["no [invoices] here"]
        assert await found(front, "bills") == ["[Bills]"]
        await front.call("sessions.delete", {"key": KEY})
        assert await found(front, "bills") == []


async def test_pages_go_on_without_gaps(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        await front.call("sessions.create", {"key": OTHER, "label": "word"})
        await note(front, KEY, *(f"word {number}" for number in range(7)))
        seen: list[str] = []
        cursor: dict[str, str] = {}
        for _ in range(4):
            params = {"query": "word", "limit": 2, **cursor}
            page = await front.call("sessions.search", params)
            seen += [hit["snippet"] for hit in page["results"]]
            if "nextCursor" not in page:
                break
            cursor = {"cursor": page["nextCursor"]}
    assert seen == ["word", *(f"word {number}" for number in range(6, -1, -1))]


async def test_it_can_be_kept_to_one_session_or_agent(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        await note(rig.front, KEY, "same here")
        await note(rig.front, OTHER, "same there")
        assert await found(rig.front, "same", key=KEY) == ["[same] here"]
        assert len(await found(rig.front, "same", agentId="main")) == 2
        assert await found(rig.front, "same", agentId="nobody") == []
        assert await found(rig.front, "same", key="agent:main:absent") == []


async def test_deleted_and_archived_messages_are_not_found(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        await note(rig.front, KEY, "old word")
        await rig.front.call("sessions.reset", {"key": KEY})
        assert await found(rig.front, "word") == []
        await note(rig.front, KEY, "new word")
        assert await found(rig.front, "word") == ["new [word]"]
        await rig.front.call("sessions.delete", {"key": KEY})
        assert await found(rig.front, "word") == []
        store = rig.worker.services.sessions
        assert store.read().execute("SELECT count(*) FROM messages").get == 0
        await store.write(
            lambda c: c.execute(
                "INSERT INTO message_words(message_words) VALUES('integrity-check')"
            )
        )


async def test_snippets_are_bounded_and_their_places_are_inside(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        await note(rig.front, KEY, f"needle {'x' * 5000} needle", "needle " * 100)
        for hit in (await rig.front.call("sessions.search", {"query": "needle"}))["results"]:
            assert len(hit["snippet"]) <= limits.SNIPPET_CHARS_MAX + 1
            assert hit["highlights"]
            for first, last in hit["highlights"]:
                assert hit["snippet"][first:last] == "needle"


@pytest.mark.parametrize("query", ["*", '""', "- ( ) ^ :", "   ", "a " * 33])
async def test_a_query_without_words_or_with_too_many_is_refused(
    tenant_dir: Path, query: str
) -> None:
    async with running_worker() as rig:
        error = await rig.front.refused("sessions.search", {"query": query})
    assert (error.code, error.details["field"]) == (ErrorCode.INVALID_REQUEST, "query")


@pytest.mark.parametrize(
    "query", ['a"b', "NEAR(a b)", "text:a", "a OR", "NOT a", "^a", "a + b", "{a}: b", "a*b*", "a'"]
)
async def test_nothing_in_a_query_is_an_operator(tenant_dir: Path, query: str) -> None:
    async with running_worker() as rig:
        await note(rig.front, KEY, "a b")
        await found(rig.front, query)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_every_query_is_one_that_sqlite_takes(query: str) -> None:
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE VIRTUAL TABLE t USING fts5 (x)")
    try:
        match = search.expression(query)
    except GatewayError:
        return
    connection.execute("SELECT * FROM t WHERE t MATCH ?", (match,)).fetchall()
    connection.close()


async def test_a_read_that_takes_too_long_is_ended(
    tenant_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SLOW_READ_SECONDS", 0.0)
    monkeypatch.setattr(database, "STEPS_BETWEEN_LOOKS", 1)
    async with running_worker() as rig:
        await note(rig.front, KEY, "word")
        error = await rig.front.refused("sessions.search", {"query": "word"})
        assert error.code is ErrorCode.TIMEOUT
        assert (await rig.front.call("health", {"probe": True}))["ok"]


ENDLESS = """WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
SELECT count(*) FROM n"""


async def test_the_loop_goes_on_while_something_slow_is_read(
    tenant_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked meanwhile is answered first: the slow read would never end by itself."""
    monkeypatch.setattr(database, "SLOW_READ_SECONDS", 0.5)
    async with running_worker() as rig:
        await note(rig.front, KEY, "word")
        store = rig.worker.services.sessions
        slow = asyncio.create_task(store.read_slowly(lambda c: c.execute(ENDLESS).get))
        await asyncio.sleep(0)
        assert (await rig.front.call("sessions.list"))["total"] == 1
        assert not slow.done()
        with pytest.raises(GatewayError, match="took longer"):
            await slow


async def test_a_slow_read_does_not_hold_up_the_end(
    tenant_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SLOW_READ_SECONDS", 1e6)
    async with running_worker() as rig:
        await note(rig.front, KEY, "word")
        store = rig.worker.services.sessions
        slow = asyncio.create_task(store.read_slowly(lambda c: c.execute(ENDLESS).get))
        await asyncio.sleep(0)
        assert await rig.drain() == 0
        with pytest.raises(GatewayError):
            await slow


async def test_searching_listings_are_not_the_loops(
    tenant_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_worker() as rig:
        await rig.front.call("sessions.create", {"key": KEY, "label": "x"})

        def forbidden(*_: object) -> None:
            raise AssertionError("read in the event loop's thread")

        monkeypatch.setattr(rig.worker.services.pages, "get", forbidden)
        offset = {"offset": reads.OFFSET_QUICK + 1}
        for params in ({"search": "x"}, {"agentId": "main"}, offset):
            assert (await rig.front.call("sessions.list", params))["total"] == 1


async def test_previews(tenant_dir: Path) -> None:
    async with running_worker() as rig:
        front = rig.front
        await note(front, KEY, "first", "x" * 100, "last")
        await front.call("sessions.create", {"key": OTHER})
        params = {"keys": [OTHER, KEY, "agent:main:absent"], "limit": 2, "maxChars": 20}
        result = await front.call("sessions.preview", params)
        error = await front.refused("sessions.preview", {"keys": [KEY, "nonsense"]})
    assert result["previews"] == [
        {"key": OTHER, "status": "empty", "items": []},
        {
            "key": KEY,
            "status": "ok",
            "items": [
                {"role": "assistant", "text": "x" * 20},
                {"role": "assistant", "text": "last"},
            ],
        },
        {"key": "agent:main:absent", "status": "missing", "items": []},
    ]
    assert error.details == {"field": "keys[1]"}


async def test_the_greatest_preview_fits_a_frame(tenant_dir: Path) -> None:
    text = "\x01" * limits.PREVIEW_CHARS_MAX
    async with running_worker() as rig:
        keys = [f"agent:main:{number}" for number in range(limits.PREVIEW_KEYS_MAX)]
        for key in keys:
            await rig.front.call("sessions.create", {"key": key})

        def fill(connection: apsw.Connection) -> None:
            connection.execute(
                """WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
                INSERT INTO messages (id, session, role, content, timestamp)
                SELECT s.id || '-' || n.i, s.id, 'user',
                    CAST(json_array(json_object('type', 'text', 'text', ?)) AS BLOB), 1
                FROM sessions AS s, n""",
                (limits.PREVIEW_ITEMS_MAX, text),
            )

        await rig.worker.services.sessions.write(fill)
        result = await rig.front.call(
            "sessions.preview",
            {
                "keys": keys,
                "limit": limits.PREVIEW_ITEMS_MAX,
                "maxChars": limits.PREVIEW_CHARS_MAX,
            },
        )
    assert {len(preview["items"]) for preview in result["previews"]} == {limits.PREVIEW_ITEMS_MAX}


async def test_an_older_store_is_copied_and_can_be_searched(tenant_dir: Path) -> None:
    """A file of the schema before this one, with sessions, turns, tools and request keys in it."""
    (tenant_dir / "sessions").mkdir()
    connection = apsw.Connection(schema.PATH)
    for script in schema.MIGRATIONS[:2]:
        connection.execute(script)
    connection.pragma("user_version", 2)
    connection.execute(
        """INSERT INTO sessions (id, key, session_id, agent_id, label, created_at, updated_at,
            search) VALUES (1, 'agent:main:main', 'sid', 'main', 'Old label', 1, 1, 'old label');
        INSERT INTO runs (seq, id, session, state, message_seq, reply_seq, created_at)
            VALUES (7, 'run', 1, 'ok', 11, 12, 1);
        INSERT INTO messages (seq, id, session, run, role, content, timestamp) VALUES
            (11, 'm1', 1, 7, 'user', CAST('[{"type":"text","text":"where is it"}]' AS BLOB), 1),
            (12, 'm2', 1, 7, 'assistant', CAST('[{"type":"text","text":"over there"}]' AS BLOB), 1);
        INSERT INTO requests VALUES ('client:k', x'00', 1, 7, 0, 1800000000000);"""
    )
    connection.close()
    async with running_worker() as rig:
        assert await found(rig.front, "there") == ["over [there]"]
        assert await found(rig.front, "label") == ["Old [label]"]
        history = await rig.front.call("chat.history", {"sessionKey": KEY})
        assert [(row["seq"], row["runId"]) for row in history["messages"]] == [
            (11, "run"),
            (12, "run"),
        ]
        again = await rig.front.call("sessions.send", {"key": KEY, "message": "x"}, key="k")
        assert (again["runId"], again["status"]) == ("run", "ok")
    copy = apsw.Connection(f"{schema.PATH}.before-v3")
    assert copy.pragma("user_version") == 2
    assert copy.execute("SELECT count(*) FROM messages").get == 2
    copy.close()
