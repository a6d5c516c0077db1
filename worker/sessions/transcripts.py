"""Changes of a session as a whole: operations for the writer's thread, as in `writes`.

A transcript that is put aside becomes a session that no key leads to; nothing of it is copied. What
is to be removed is marked first, and then goes in pieces, so that no other write waits for long.
"""

import time
import uuid
from typing import Any, Final, Literal, NamedTuple

import apsw
import msgspec

from protocol.errors import ErrorCode, GatewayError
from protocol.methods import chat, session_changes
from protocol.methods.chat import TextPart
from protocol.methods.sessions import SessionRow
from worker.sessions import aborts, reads
from worker.sessions.admissions import search_text
from worker.sessions.writes import PREVIEW_CHARS_MAX, NewMessage, add_message

PURGED_AT_ONCE: Final = 1000
COMPACTED: Final = "compacted"
"""Stop reason of a summary."""


def _live(connection: apsw.Connection, key: str, field: str = "key") -> int:
    row = connection.execute("SELECT id FROM sessions WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise GatewayError(ErrorCode.NOT_FOUND, "no such session", field=field)
    return int(row[0])


def _entry(connection: apsw.Connection, key: str) -> SessionRow:
    entry = reads.session(connection, key)
    assert entry is not None
    return entry


def patch(
    connection: apsw.Connection, params: session_changes.PatchParams
) -> session_changes.PatchResult:
    """Change a session's names.

    Raises:
        GatewayError: NOT_FOUND.
    """
    row = _live(connection, params.key)
    before = _entry(connection, params.key)
    label = before.label if params.label is msgspec.UNSET else params.label
    name = before.display_name if params.display_name is msgspec.UNSET else params.display_name
    connection.execute(
        "UPDATE sessions SET label = ?, display_name = ?, search = ? WHERE id = ?",
        (label, name, search_text(params.key, label, name), row),
    )
    entry = _entry(connection, params.key)
    return session_changes.PatchResult(ok=True, key=params.key, entry=entry)


def inject(connection: apsw.Connection, params: chat.InjectParams, now: int) -> chat.InjectResult:
    """Add a note to a transcript.

    Raises:
        GatewayError: NOT_FOUND.
    """
    session = _live(connection, params.session_key, "sessionKey")
    parts = (TextPart(text=params.message),)
    note = NewMessage(str(uuid.uuid4()), params.role, parts, label=params.label)
    seq = add_message(connection, session, None, note, now)
    connection.execute(
        "UPDATE sessions SET updated_at = max(updated_at, ?), preview = ? WHERE id = ?",
        (now, params.message[:PREVIEW_CHARS_MAX], session),
    )
    return chat.InjectResult(ok=True, message_id=note.id, message_seq=seq)


def reset(connection: apsw.Connection, key: str, now: int) -> session_changes.ResetResult:
    """Archive a transcript and begin a new one under the same key; turns of the old one end.

    Raises:
        GatewayError: NOT_FOUND.
    """
    row = _live(connection, key)
    run_ids = aborts.end_all(connection, row, now)
    old = _entry(connection, key).session_id
    _archive(connection, row, "reset", now)
    connection.execute(
        "INSERT INTO sessions (key, session_id, agent_id, label, display_name, channel, model,"
        " created_at, updated_at, search) SELECT ?, ?, agent_id, label, display_name, channel,"
        " model, ?, ?, search FROM sessions WHERE id = ?",
        (key, str(uuid.uuid4()), now, now, row),
    )
    return session_changes.ResetResult(
        ok=True, key=key, entry=_entry(connection, key), archived=old, run_ids=run_ids
    )


def _archive(
    connection: apsw.Connection, row: int, why: Literal["reset", "delete", "purge"], now: int
) -> None:
    connection.execute(
        "UPDATE sessions SET archived_key = key, key = 'archived:' || session_id, archived_at = ?,"
        " archived_why = ? WHERE id = ?",
        (now, why, row),
    )


def delete(
    connection: apsw.Connection, params: session_changes.DeleteParams, now: int
) -> session_changes.DeleteResult:
    """Take a session away, with its transcripts unless they are to be kept; its turns end.

    Raises:
        GatewayError: NOT_FOUND: there is no such session, and nothing archived of it to remove.
    """
    key, run_ids = params.key, list[str]()
    row = connection.execute("SELECT id FROM sessions WHERE key = ?", (key,)).fetchone()
    if row is not None:
        run_ids = aborts.end_all(connection, row[0], now)
        _archive(connection, row[0], "purge" if params.delete_transcript else "delete", now)
    removed = 0
    if params.delete_transcript:
        connection.execute(
            "UPDATE sessions SET archived_why = 'purge' WHERE archived_key = ?"
            " AND archived_at IS NOT NULL AND archived_why <> 'purge'",
            (key,),
        )
        removed = connection.changes()
    if row is None and not removed:
        raise GatewayError(ErrorCode.NOT_FOUND, "no such session", field="key")
    if params.delete_transcript:
        purge(connection)
    archives = reads.archives(connection, key)
    return session_changes.DeleteResult(
        ok=True,
        key=key,
        deleted=True,
        archived=[archive.session_id for archive in archives],
        run_ids=run_ids,
    )


class Purged(NamedTuple):
    """What is left to remove: `more` can go now, `blocked` when turns have ended."""

    more: bool
    blocked: bool


def purge(connection: apsw.Connection) -> Purged:
    """Remove some of what is marked for it: so many rows at once that nothing waits for long."""
    left = PURGED_AT_ONCE
    marked = connection.execute(
        """SELECT id FROM sessions AS s WHERE archived_why = 'purge' AND NOT EXISTS
            (SELECT 1 FROM runs WHERE session = s.id AND state = 'running') LIMIT ?""",
        (PURGED_AT_ONCE,),
    ).fetchall()
    for (session,) in marked:
        for table in ("messages", "runs"):
            connection.execute(
                f"DELETE FROM {table} WHERE seq IN"  # noqa: S608 - names of our own
                f" (SELECT seq FROM {table} WHERE session = ? LIMIT ?)",
                (session, left),
            )
            left -= connection.changes()
            if left <= 0:
                return Purged(more=True, blocked=False)
        connection.execute("DELETE FROM sessions WHERE id = ?", (session,))
    rest = connection.execute("SELECT 1 FROM sessions WHERE archived_why = 'purge' LIMIT 1")
    return Purged(more=len(marked) == PURGED_AT_ONCE, blocked=rest.fetchone() is not None)


def compact(
    connection: apsw.Connection, key: str, kept_max: int, now: int
) -> session_changes.CompactResult:
    """Archive the older rows of a transcript and put a summary in their place.

    Rows of turns that run or wait stay, and what stays begins with a message of the user if it can.

    Raises:
        GatewayError: NOT_FOUND.
    """
    session = _live(connection, key)
    last = _last_to_cut(connection, session, kept_max)
    facts = None if last is None else _count(connection, session, last)
    if last is None or facts is None:
        kept = connection.execute("SELECT count(*) FROM messages WHERE session = ?", (session,)).get
        return session_changes.CompactResult(ok=True, key=key, compacted=False, kept=kept, cut=0)
    archive_id = str(uuid.uuid4())
    connection.execute(
        "INSERT INTO sessions (key, session_id, agent_id, created_at, updated_at, search,"
        " archived_at, archived_key, archived_why)"
        " SELECT 'archived:' || ?1, ?1, agent_id, created_at, ?2, '', ?2, key, 'compact'"
        " FROM sessions WHERE id = ?3",
        (archive_id, now, session),
    )
    archive = connection.last_insert_rowid()
    connection.execute(
        "UPDATE messages SET session = ? WHERE session = ? AND seq <= ?", (archive, session, last)
    )
    summary = facts.summary(archive_id)
    _move_to_end(connection, last)
    row = NewMessage(str(uuid.uuid4()), "system", (TextPart(text=summary),), stop_reason=COMPACTED)
    add_message(connection, session, None, row, now, seq=last)
    kept = connection.execute(
        "SELECT count(*) FROM messages WHERE session = ? AND seq > ?", (session, last)
    ).get
    return session_changes.CompactResult(
        ok=True,
        key=key,
        compacted=True,
        kept=kept,
        cut=facts.rows,
        archived=archive_id,
        summary=summary,
    )


def _last_to_cut(connection: apsw.Connection, session: int, kept_max: int) -> int | None:
    """Give the number of the newest row that may go."""
    open_from = connection.execute(
        "SELECT min(message_seq) FROM runs WHERE session = ? AND state IN ('queued', 'running')",
        (session,),
    ).get
    row = connection.execute(
        "SELECT seq FROM messages WHERE session = ? ORDER BY seq DESC LIMIT 1 OFFSET ?",
        (session, kept_max),
    ).fetchone()
    if row is None:
        return None
    last = row[0] if open_from is None else min(row[0], open_from - 1)
    begins = connection.execute(
        "SELECT seq FROM messages WHERE session = ? AND seq > ? AND role = 'user' ORDER BY seq"
        " LIMIT 1",
        (session, last),
    ).fetchone()
    before = last if begins is None else begins[0] - 1
    found: int | None = connection.execute(
        "SELECT max(seq) FROM messages WHERE session = ? AND seq <= ?", (session, before)
    ).get
    return found


class _Cut(NamedTuple):
    """What is cut, in numbers; times are Unix ms."""

    rows: int
    of_users: int
    of_assistants: int
    of_tools: int
    summaries: int
    first: int
    last: int

    def summary(self, archive_id: str) -> str:
        """Say it, for the model and for people. Quotes nothing: it is told as the system's word."""
        earlier = ", an earlier summary among them" if self.summaries else ""
        return (
            f"An earlier part of this conversation was cut off: {self.rows} messages "
            f"({self.of_users} of the user, {self.of_assistants} of the assistant, "
            f"{self.of_tools} of tools{earlier}) from {_moment(self.first)} to "
            f"{_moment(self.last)}. It is archived as {archive_id}."
        )


def _moment(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ms // 1000))


def _count(connection: apsw.Connection, session: int, last: int) -> _Cut | None:
    """Count what would be cut; None when that is nothing but a summary."""
    facts: tuple[Any, ...] = connection.execute(
        """SELECT count(*), count(*) FILTER (WHERE role = 'user'),
            count(*) FILTER (WHERE role = 'assistant'), count(*) FILTER (WHERE role = 'tool'),
            count(*) FILTER (WHERE stop_reason = ?1), min(timestamp), max(timestamp)
        FROM messages WHERE session = ?2 AND seq <= ?3""",
        (COMPACTED, session, last),
    ).get
    cut = _Cut._make(facts)
    return None if cut.rows == cut.summaries else cut


def _move_to_end(connection: apsw.Connection, seq: int) -> None:
    """Give a row the next number, so that another can have its place."""
    columns = (
        "id, session, run, role, content, timestamp, label, model, input_tokens, output_tokens,"
        " stop_reason, spent"
    )
    row: tuple[Any, ...] = connection.execute(
        f"SELECT {columns} FROM messages WHERE seq = ?",  # noqa: S608 - columns of our own
        (seq,),
    ).get
    connection.execute("DELETE FROM messages WHERE seq = ?", (seq,))
    connection.execute(
        f"INSERT INTO messages ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - as above
        row,
    )
    new = connection.last_insert_rowid()
    for column in ("message_seq", "reply_seq"):
        connection.execute(
            f"UPDATE runs SET {column} = ? WHERE seq = ? AND {column} = ?",  # noqa: S608 - as above
            (new, row[2], seq),
        )
