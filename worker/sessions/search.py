"""`sessions.search` and `sessions.preview`: reads that may take long, for the slow reader.

A query has words, phrases in quotes, and beginnings (`word*`); whatever else it holds is text.
"""

import re
import secrets
from typing import Any, Final, NamedTuple

import apsw

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.methods.sessions import (
    Preview,
    PreviewItem,
    PreviewParams,
    SearchHit,
    SearchParams,
    SearchResult,
)

SNIPPET_TOKENS: Final = 24
NAMES_MAX: Final = 10
"""How many sessions are found by their names; `sessions.list` finds all."""

_TERM: Final = re.compile(r'"([^"]*)"?|([^\s"]+)')

_MESSAGES: Final = """
SELECT s.key, s.session_id, m.timestamp, snippet(message_words, 0, ?, ?, '…', ?), m.id, m.seq,
    m.role
FROM message_words CROSS JOIN messages AS m ON m.seq = message_words.rowid
    CROSS JOIN sessions AS s ON s.id = m.session
WHERE message_words MATCH ? AND message_words.rowid < ? AND s.archived_at IS NULL"""
_NAMES: Final = """
SELECT s.key, s.session_id, s.updated_at, snippet(session_words, 0, ?, ?, '…', ?)
FROM session_words CROSS JOIN sessions AS s ON s.id = session_words.rowid
WHERE session_words MATCH ? AND s.archived_at IS NULL"""


def expression(query: str) -> str:
    """Give the query in the language of FTS5; every term is a string in it, nothing an operator.

    The language: https://www.sqlite.org/fts5.html#full_text_query_syntax

    Raises:
        GatewayError: INVALID_REQUEST: it has no term, or too many.
    """
    terms: list[str] = []
    for phrase, word in _TERM.findall(query):
        text = phrase or word.rstrip("*")
        if any(character.isalnum() for character in text):
            terms.append(f'"{text}"{"*" if word.endswith("*") else ""}')
    if not terms:
        message = "query: give at least one word"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="query")
    if len(terms) > limits.SEARCH_TERMS_MAX:
        message = f"query: at most {limits.SEARCH_TERMS_MAX} words and phrases"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="query")
    return " AND ".join(terms)


class _Marks(NamedTuple):
    """What SQLite puts around what was found: nobody can have written it."""

    begin: str
    end: str

    def read(self, marked: str) -> tuple[str, list[tuple[int, int]]]:
        """Give the text without the marks, and where they stood; at most `SNIPPET_CHARS_MAX`."""
        text = ""
        places: list[tuple[int, int]] = []
        for part in marked.split(self.begin):
            found, ended, rest = part.partition(self.end)
            if ended:
                places.append((len(text), len(text) + len(found)))
            text += found + rest
        at_most = limits.SNIPPET_CHARS_MAX
        if len(text) > at_most:
            text = text[:at_most] + "…"
        return text, [(first, min(last, at_most)) for first, last in places if first < at_most]


def search(connection: apsw.Connection, params: SearchParams, match: str) -> SearchResult:
    """Find sessions by their names, on the first page, and messages, newest first.

    Args:
        connection: The slow reader.
        params: What is asked for.
        match: `expression` of the query.
    """
    secret = secrets.token_hex(8)
    marks = _Marks(f"\x02{secret}", f"\x03{secret}")
    conditions, filters = "", list[Any]()
    for column, value in (("agent_id", params.agent_id), ("key", params.key)):
        if value is not None:
            conditions += f" AND s.{column} = ?"
            filters.append(value)
    hits: list[SearchHit] = []
    if params.cursor is None:
        rows = connection.execute(
            f"{_NAMES}{conditions} ORDER BY session_words.rowid DESC LIMIT ?",
            (*marks, SNIPPET_TOKENS, match, *filters, min(params.limit, NAMES_MAX)),
        )
        hits += [_hit(row, marks) for row in rows]
    before = int(params.cursor[1:]) if params.cursor else limits.JSON_INTEGER_ABS_MAX
    room = params.limit - len(hits)
    rows = connection.execute(
        f"{_MESSAGES}{conditions} ORDER BY message_words.rowid DESC LIMIT ?",
        (*marks, SNIPPET_TOKENS, match, before, *filters, room + 1),
    )
    found = [_hit(row, marks) for row in rows]
    cursor = None
    if len(found) > room:
        cursor = f"m{found[room - 1].seq if room else before}"
    return SearchResult(results=hits + found[:room], next_cursor=cursor)


def _hit(row: tuple[Any, ...], marks: _Marks) -> SearchHit:
    key, session_id, timestamp, marked, *message = row
    snippet, highlights = marks.read(marked)
    message_id, seq, role = message or (None, None, None)
    return SearchHit(
        kind="message" if message else "session",
        session_key=key,
        session_id=session_id,
        timestamp=timestamp,
        snippet=snippet,
        highlights=highlights,
        message_id=message_id,
        seq=seq,
        role=role,
    )


def previews(connection: apsw.Connection, params: PreviewParams) -> list[Preview]:
    """Give the beginnings of the newest rows of sessions, in the order of their keys."""
    return [_preview(connection, key, params.limit, params.max_chars) for key in params.keys]


def _preview(connection: apsw.Connection, key: str, limit: int, max_chars: int) -> Preview:
    session = connection.execute("SELECT id FROM sessions WHERE key = ?", (key,)).fetchone()
    if session is None:
        return Preview(key=key, status="missing", items=[])
    rows = connection.execute(
        """SELECT m.role, substr(coalesce(t.text, ''), 1, ?) FROM messages AS m
            JOIN message_texts AS t ON t.seq = m.seq
        WHERE m.session = ? ORDER BY m.seq DESC LIMIT ?""",
        (max_chars, session[0], limit),
    ).fetchall()
    items = [PreviewItem(role=role, text=text) for role, text in reversed(rows)]
    return Preview(key=key, status="ok" if items else "empty", items=items)
