"""Listings are kept only as long as nobody has written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from protocol.methods.sessions import ListParams
from worker.sessions import schema
from worker.sessions.pages import PAGES_MAX, Pages

NOW = 1_000_000_000


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[tuple[apsw.Connection, apsw.Connection]]:
    path = str(tmp_path / "sessions.sqlite")
    writer = apsw.Connection(path)
    writer.execute("PRAGMA journal_mode=WAL")
    for migration in schema.MIGRATIONS:
        writer.execute(migration)
    reader = apsw.Connection(path)
    yield reader, writer
    reader.close()
    writer.close()


def add(writer: apsw.Connection, name: str, updated_at: int = NOW) -> None:
    writer.execute(
        "INSERT INTO sessions (key, session_id, agent_id, created_at, updated_at, search)"
        " VALUES (?1, ?1, 'main', 0, ?2, ?1)",
        (name, updated_at),
    )


def keys(pages: Pages, reader: apsw.Connection, now: int = NOW, **params: Any) -> list[str]:
    page = pages.get(reader, ListParams(**params), now)
    rows = json.loads(bytes(page.rows))
    assert page.count == len(rows)
    return [row["key"] for row in rows]


def test_a_write_by_any_other_connection_is_seen_at_once(
    connections: tuple[apsw.Connection, apsw.Connection],
) -> None:
    reader, writer = connections
    pages = Pages()
    for number in range(5):
        add(writer, f"k{number}")
        newest_first = [f"k{n}" for n in reversed(range(number + 1))]
        assert keys(pages, reader) == newest_first
        assert keys(pages, reader) == newest_first
    writer.execute("DELETE FROM sessions WHERE key = 'k4'")
    assert keys(pages, reader) == ["k3", "k2", "k1", "k0"]


def test_what_is_kept_is_not_read_again(
    connections: tuple[apsw.Connection, apsw.Connection],
) -> None:
    reader, writer = connections
    add(writer, "one")
    pages = Pages()
    first = pages.get(reader, ListParams(), NOW)
    assert pages.get(reader, ListParams(), NOW) is first
    assert pages.get(reader, ListParams(limit=1), NOW) is not first


def test_other_params_are_other_pages_and_they_are_bounded(
    connections: tuple[apsw.Connection, apsw.Connection],
) -> None:
    reader, writer = connections
    for number in range(20):
        add(writer, f"k{number:02}")
    pages = Pages()
    for _ in range(2):
        for limit in range(1, PAGES_MAX * 2):
            assert len(keys(pages, reader, limit=limit)) == limit
    assert keys(pages, reader, search="k07") == ["k07"]
    assert keys(pages, reader, offset=18, limit=5) == ["k01", "k00"]


def test_what_depends_on_the_time_is_not_kept(
    connections: tuple[apsw.Connection, apsw.Connection],
) -> None:
    reader, writer = connections
    add(writer, "one")
    pages = Pages()
    assert keys(pages, reader, active_minutes=1) == ["one"]
    assert keys(pages, reader, now=NOW + 61_000, active_minutes=1) == []
