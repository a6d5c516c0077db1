"""What is read from the sessions' database, in the event loop's thread: short queries only."""

from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple

import apsw
import msgspec

from protocol import limits
from protocol.methods.chat import Message, Part, Role, TextPart, Usage
from protocol.methods.registry import Result
from protocol.methods.sessions import Archive, ListParams, RunStatus, SessionRow
from worker.agents.model import PromptMessage
from worker.sessions.writes import SENT

CONTEXT_MESSAGES_MAX: Final = 200
CONTEXT_BYTES_MAX: Final = 1024 * 1024
OFFSET_QUICK: Final = 1000

_parts_decoder: Final = msgspec.json.Decoder(list[Part])
_usage_decoder: Final = msgspec.json.Decoder(Usage)

_SESSION: Final = """
SELECT key, session_id, agent_id, created_at, updated_at, label, display_name, channel, model,
    input_tokens, output_tokens, preview
FROM sessions"""
_MESSAGE: Final = """
SELECT m.seq, m.id, m.role, m.content, m.timestamp, r.id, m.label, m.model, m.input_tokens,
    m.output_tokens, m.stop_reason, m.spent
FROM messages AS m LEFT JOIN runs AS r ON r.seq = m.run"""


class Run(NamedTuple):
    """One turn as it stands. `owner` is the generation that runs or ran it."""

    seq: int
    id: str
    session_key: str
    state: RunStatus
    owner: int | None
    message_seq: int
    reply_seq: int | None
    usage: Usage | None
    error: str | None
    started_at: int | None
    ended_at: int | None
    error_code: str | None

    @property
    def is_open(self) -> bool:
        """Whether it runs or waits to run."""
        return self.state in ("queued", "running")


class StoredMessage(Result, frozen=True, kw_only=True):
    """A `Message` whose content is still the JSON that is stored, so that it is not read twice."""

    seq: int
    id: str
    role: Role
    content: msgspec.Raw
    timestamp: int
    run_id: str | None = None
    label: str | None = None
    model: str | None = None
    usage: Usage | None = None
    stop_reason: str | None = None


class StoredHistory(Result, frozen=True, kw_only=True):
    """A `HistoryResult` of stored messages."""

    session_key: str
    session_id: str
    messages: list[StoredMessage]
    has_more: bool


def session(connection: apsw.Connection, key: str) -> SessionRow | None:
    """Give the session with this key."""
    row = connection.execute(f"{_SESSION} WHERE key = ?", (key,)).fetchone()
    return None if row is None else _session_row(row, preview=True)


RESOLVED_BY: Final[dict[str, Literal["key", "session_id", "label"]]] = {
    "key": "key",
    "sessionId": "session_id",
    "label": "label",
}
"""The columns by which a session can be found."""


def is_slow(params: ListParams) -> bool:
    """Say whether a listing takes a look at every session there is, or nearly so."""
    by_look = params.search is not None or params.agent_id is not None
    return by_look or params.offset > OFFSET_QUICK


def sessions(
    connection: apsw.Connection, params: ListParams, now: int
) -> tuple[list[SessionRow], int]:
    """Give a page of sessions, newest first, and how many match in all."""
    conditions = ["archived_at IS NULL"]
    bindings: list[Any] = []
    if params.agent_id is not None:
        conditions.append("agent_id = ?")
        bindings.append(params.agent_id)
    if params.label is not None:
        conditions.append("label = ?")
        bindings.append(params.label)
    if params.active_minutes is not None:
        conditions.append("updated_at >= ?")
        bindings.append(now - params.active_minutes * 60_000)
    if params.search is not None:
        conditions.append("instr(search, ?) > 0")
        bindings.append(params.search.casefold())
    where = f" WHERE {' AND '.join(conditions)}"
    page = connection.execute(
        f"{_SESSION}{where} ORDER BY updated_at DESC, id DESC LIMIT ? OFFSET ?",
        (*bindings, params.limit, params.offset),
    ).fetchall()
    preview = params.include_last_message
    rows = [_session_row(row, preview=preview) for row in page]
    total = len(rows)
    if len(conditions) == 1:
        total = _count(connection)
    elif params.offset or total == params.limit:
        count = f"SELECT count(*) FROM sessions{where}"  # noqa: S608 - of our own conditions
        total = connection.execute(count, bindings).get
    return rows, total


def _count(connection: apsw.Connection) -> int:
    # Counting a whole table takes no look at its rows; of the archived there are few.
    archived = "SELECT count(*) FROM sessions WHERE archived_at IS NOT NULL"
    everything: int = connection.execute("SELECT count(*) FROM sessions").get
    return everything - int(connection.execute(archived).get)


def _session_row(row: tuple[Any, ...], *, preview: bool) -> SessionRow:
    return SessionRow(
        key=row[0],
        session_id=row[1],
        agent_id=row[2],
        kind="direct",
        created_at=row[3],
        updated_at=row[4],
        label=row[5],
        display_name=row[6],
        channel=row[7],
        model=row[8],
        input_tokens=row[9],
        output_tokens=row[10],
        total_tokens=row[9] + row[10],
        last_message_preview=row[11] if preview else None,
    )


def archives(connection: apsw.Connection, key: str) -> list[Archive]:
    """Give what is archived of a session, newest first, `ARCHIVES_SHOWN_MAX` at most."""
    rows: list[Any] = connection.execute(
        "SELECT session_id, archived_why, archived_at FROM sessions WHERE archived_key = ?"
        " AND archived_at IS NOT NULL AND archived_why <> 'purge' ORDER BY id DESC LIMIT ?",
        (key, limits.ARCHIVES_SHOWN_MAX),
    ).fetchall()
    return [Archive(session_id=id_, why=why, archived_at=at) for id_, why, at in rows]


def resolve(
    connection: apsw.Connection, column: Literal["key", "session_id", "label"], value: str
) -> list[SessionRow]:
    """Give the sessions that have this key, id or label; two at most."""
    rows = connection.execute(
        f"{_SESSION} WHERE {column} = ? AND archived_at IS NULL LIMIT 2", (value,)
    )
    return [_session_row(row, preview=False) for row in rows]


def newest_run(connection: apsw.Connection, key: str) -> tuple[str, RunStatus] | None:
    """Give id and state of a session's newest turn."""
    row = connection.execute(
        """SELECT r.id, r.state FROM runs AS r JOIN sessions AS s ON s.id = r.session
        WHERE s.key = ? ORDER BY r.seq DESC LIMIT 1""",
        (key,),
    ).fetchone()
    return None if row is None else (row[0], row[1])


def run(connection: apsw.Connection, run_id: str) -> Run | None:
    """Give a turn by its id."""
    row = connection.execute(
        """SELECT r.seq, r.id, coalesce(s.archived_key, s.key), r.state, r.owner, r.message_seq,
            r.reply_seq, r.input_tokens, r.output_tokens, r.error, r.started_at, r.ended_at,
            r.error_code, r.spent
        FROM runs AS r JOIN sessions AS s ON s.id = r.session WHERE r.id = ?""",
        (run_id,),
    ).fetchone()
    if row is None:
        return None
    facts: tuple[Any, ...] = row
    usage = _usage(facts[7], facts[8], facts[13])
    return Run._make((*facts[:7], usage, *facts[9:13]))


def message(connection: apsw.Connection, seq: int) -> Message | None:
    """Give one row of a transcript."""
    row = connection.execute(f"{_MESSAGE} WHERE m.seq = ?", (seq,)).fetchone()
    if row is None:
        return None
    return Message(
        seq=row[0],
        id=row[1],
        role=row[2],
        content=_parts_decoder.decode(row[3]),
        timestamp=row[4],
        run_id=row[5],
        label=row[6],
        model=row[7],
        usage=_usage(row[8], row[9], row[11]),
        stop_reason=row[10],
    )


def _usage(
    input_tokens: int | None, output_tokens: int | None, spent: bytes | None
) -> Usage | None:
    if spent is not None:
        return _usage_decoder.decode(spent)
    # Of a version that kept no more.
    if input_tokens is None or output_tokens is None:
        return None
    return Usage(input=input_tokens, output=output_tokens)


def sent(connection: apsw.Connection, run_id: str) -> list[str]:
    """Give what the tool `message` has sent in a turn."""
    rows = connection.execute(
        "SELECT m.content FROM messages AS m JOIN runs AS r ON r.seq = m.run"
        " WHERE r.id = ? AND m.session = r.session AND m.stop_reason = ? ORDER BY m.seq",
        (run_id, SENT),
    )
    parts = (part for row in rows for part in _parts_decoder.decode(row[0]))
    return [part.text for part in parts if isinstance(part, TextPart)]


def history(
    connection: apsw.Connection,
    key: str,
    session_id: str | None,
    limit: int,
    before_seq: int | None,
) -> StoredHistory | None:
    """Give the newest rows of a session's transcript, at most `HISTORY_BYTES_MAX` of content.

    Args:
        connection: The reader.
        key: The session's key.
        session_id: One of its archived transcripts instead of the present one.
        limit: How many rows at most.
        before_seq: Only rows older than this one.
    """
    found = connection.execute(
        "SELECT id, session_id FROM sessions WHERE (key = ?1 AND ?2 IN (session_id, ''))"
        " OR (archived_key = ?1 AND archived_at IS NOT NULL AND session_id = ?2"
        " AND archived_why <> 'purge')",
        (key, session_id or ""),
    ).fetchone()
    if found is None:
        return None
    before = limits.JSON_INTEGER_ABS_MAX if before_seq is None else before_seq
    rows = connection.execute(
        f"{_MESSAGE} WHERE m.session = ? AND m.seq < ? ORDER BY m.seq DESC LIMIT ?",
        (found[0], before, limit + 1),
    )
    messages: list[StoredMessage] = []
    size = 0
    has_more = False
    for row in rows:
        size += len(row[3])
        if len(messages) == limit or (messages and size > limits.HISTORY_BYTES_MAX):
            has_more = True
            break
        messages.append(_stored_message(row))
    messages.reverse()
    return StoredHistory(session_key=key, session_id=found[1], messages=messages, has_more=has_more)


def _stored_message(row: tuple[Any, ...]) -> StoredMessage:
    return StoredMessage(
        seq=row[0],
        id=row[1],
        role=row[2],
        content=msgspec.Raw(row[3]),
        timestamp=row[4],
        run_id=row[5],
        label=row[6],
        model=row[7],
        usage=_usage(row[8], row[9], row[11]),
        stop_reason=row[10],
    )


class _PromptRow(NamedTuple):
    """A row of a prompt; they are told in this order. `turn` is the turn that it comes with."""

    turn: int
    seq: int
    role: Role
    content: bytes


def prompt(connection: apsw.Connection, session_row: int, run_seq: int) -> list[PromptMessage]:
    """Give what the model of a turn is told: the transcript up to that turn's own message.

    What the tool `message` has sent is told by its call.
    Messages of later turns may have been written before the answers of earlier ones, so the order
    is that of the turns; notes come with the turn before them. Over `CONTEXT_MESSAGES_MAX` or
    `CONTEXT_BYTES_MAX` the oldest are left out, to the next message of the user or note.
    """
    kept = sorted(_newest(connection, session_row, run_seq))
    while len(kept) > 1 and kept[0].role not in ("user", "system"):
        del kept[0]
    return [PromptMessage(row.role, tuple(_parts_decoder.decode(row.content))) for row in kept]


def instructions(connection: apsw.Connection, run_seq: int) -> str | None:
    """Give what a turn alone is told."""
    row = connection.execute("SELECT instructions FROM runs WHERE seq = ?", (run_seq,)).fetchone()
    return None if row is None else row[0]


def _newest(connection: apsw.Connection, session_row: int, run_seq: int) -> Iterator[_PromptRow]:
    rows = connection.execute(
        """SELECT run, seq, role, content FROM messages WHERE session = ?1
            AND stop_reason IS NOT ?4 AND
            (run <= ?2 OR run IS NULL AND seq < (SELECT message_seq FROM runs WHERE seq = ?2))
        ORDER BY seq DESC LIMIT ?3""",
        (session_row, run_seq, CONTEXT_MESSAGES_MAX, SENT),
    )
    size = 0
    notes: list[tuple[int, Role, bytes]] = []
    for run_of_row, seq, role, content in rows:
        size += len(content)
        if size > CONTEXT_BYTES_MAX and run_of_row != run_seq:
            break
        if run_of_row is None:
            notes.append((seq, role, content))
            continue
        yield from (_PromptRow(run_of_row, *note) for note in notes)
        notes.clear()
        yield _PromptRow(run_of_row, seq, role, content)
    yield from (_PromptRow(0, *note) for note in notes)


class Counts(NamedTuple):
    """How many there are."""

    sessions: int
    running: int
    queued: int


def counts(connection: apsw.Connection) -> Counts:
    """Count sessions and the turns that run or wait."""
    return Counts(
        _count(connection),
        connection.execute("SELECT count(*) FROM runs WHERE state = 'running'").get,
        connection.execute("SELECT count(*) FROM runs WHERE state = 'queued'").get,
    )


def has_open(connection: apsw.Connection) -> bool:
    """Say whether turns run or wait."""
    row = connection.execute(
        "SELECT 1 FROM runs WHERE state = 'running' UNION ALL"
        " SELECT 1 FROM runs WHERE state = 'queued' LIMIT 1"
    ).fetchone()
    return row is not None


def has_deleted(connection: apsw.Connection) -> bool:
    """Say whether something that was deleted has not been removed yet."""
    row = connection.execute("SELECT 1 FROM sessions WHERE archived_why = 'purge' LIMIT 1")
    return row.fetchone() is not None


def queued_sessions(connection: apsw.Connection, at_most: int) -> list[int]:
    """Give sessions with turns that wait, the longest first."""
    rows = connection.execute(
        "SELECT session FROM runs WHERE state = 'queued' GROUP BY session"
        " ORDER BY min(seq) LIMIT ?",
        (at_most,),
    )
    return [row[0] for row in rows]


def has_orphans(connection: apsw.Connection, living: tuple[int, ...]) -> bool:
    """Say whether turns are marked running whose generation is not alive."""
    owners = connection.execute("SELECT owner FROM runs WHERE state = 'running'").fetchall()
    return any(owner not in living for (owner,) in owners)


def has_expired(connection: apsw.Connection, mine: int, now: int) -> bool:
    """Say whether turns of other generations are marked running whose lease has run out."""
    row = connection.execute(
        "SELECT 1 FROM runs WHERE state = 'running' AND owner <> ? AND lease_expires_at < ?"
        " LIMIT 1",
        (mine, now),
    ).fetchone()
    return row is not None
