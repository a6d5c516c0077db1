"""What is written about turns: operations for the writer's thread.

Each is called with the connection first, inside a savepoint, and may be run again if its commit
failed; so it changes nothing but the database.
"""

from typing import Any, Final, NamedTuple

import apsw
import msgspec

from protocol.errors import GatewayError
from protocol.launching import Mode
from protocol.methods.chat import Part, Role, TextPart, Usage
from protocol.methods.sessions import RunStatus

PREVIEW_CHARS_MAX: Final = 240
INTERRUPTED: Final = "the turn was cut off: its worker ended"
PUT_ASIDE: Final = "the turn was not run: each of the two before it ended with its worker"
CRASHES_MAX: Final = 2
SENT: Final = "message"
"""Stop reason of a row that the tool `message` has sent."""

_encode: Final = msgspec.json.Encoder().encode


class Lease(NamedTuple):
    """Which generation runs a turn, and until when (Unix ms) that holds unless renewed."""

    owner: int
    expires_at: int


class NewMessage(NamedTuple):
    """A row for a transcript."""

    id: str
    role: Role
    parts: tuple[Part, ...]
    model: str | None = None
    usage: Usage | None = None
    stop_reason: str | None = None
    label: str | None = None

    @property
    def is_reply(self) -> bool:
        """Whether it is the answer of a model, and no message that a tool has sent."""
        return self.role == "assistant" and self.stop_reason != SENT


def add_message(
    connection: apsw.Connection,
    session: int,
    run: int | None,
    row: NewMessage,
    now: int,
    *,
    seq: int | None = None,
) -> int:
    """Add a row to a transcript; gives its number, the next one unless `seq` says which."""
    connection.execute(
        "INSERT INTO messages (seq, id, session, run, role, content, timestamp, label, model,"
        " input_tokens, output_tokens, stop_reason, spent)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            seq,
            row.id,
            session,
            run,
            row.role,
            _encode(row.parts),
            now,
            row.label,
            row.model,
            row.usage and row.usage.input,
            row.usage and row.usage.output,
            row.stop_reason,
            row.usage and _encode(row.usage),
        ),
    )
    return connection.last_insert_rowid()


class ClaimedRun(NamedTuple):
    """A turn that is ours to run. `session` is the row of its session."""

    seq: int
    id: str
    session: int
    session_key: str
    message_seq: int
    sandbox: Mode | None = None


class NothingToClaim(NamedTuple):
    """No turn of the session can start. `held`: because another generation runs one."""

    held: bool


def claim(
    connection: apsw.Connection, session: int, lease: Lease, now: int
) -> ClaimedRun | NothingToClaim:
    """Take the turn that has waited longest in a session, unless one runs there."""
    interrupt_expired(connection, lease.owner, now)
    running = connection.execute(
        "SELECT owner FROM runs WHERE session = ? AND state = 'running'", (session,)
    ).fetchone()
    if running is not None:
        return NothingToClaim(held=running[0] != lease.owner)
    row = connection.execute(
        """SELECT r.seq, r.id, r.session, s.key, r.message_seq, r.sandbox
        FROM runs AS r JOIN sessions AS s ON s.id = r.session
        WHERE r.session = ? AND r.state = 'queued' ORDER BY r.seq LIMIT 1""",
        (session,),
    ).fetchone()
    if row is None:
        return NothingToClaim(held=False)
    connection.execute(
        "UPDATE runs SET state = 'running', owner = ?, lease_expires_at = ?, started_at = ?"
        " WHERE seq = ?",
        (lease.owner, lease.expires_at, now, row[0]),
    )
    return ClaimedRun(*row)


def renew(connection: apsw.Connection, lease: Lease) -> set[str]:
    """Prolong every lease of a generation; gives the ids of the turns that are still its own."""
    rows = connection.execute(
        "UPDATE runs SET lease_expires_at = ? WHERE state = 'running' AND owner = ? RETURNING id",
        (lease.expires_at, lease.owner),
    )
    return {row[0] for row in rows}


class Ending(NamedTuple):
    """How a turn ended, and the rows that it adds to the transcript.

    `refusal` is the error that ended it, if one of the table did: it is told, not written.
    """

    state: RunStatus
    rows: tuple[NewMessage, ...] = ()
    usage: Usage | None = None
    error: str | None = None
    model: str | None = None
    refusal: GatewayError | None = None
    error_code: str | None = None


class Ended(NamedTuple):
    """What was written at the end of a turn. `more`: others wait in the session."""

    reply_seq: int | None
    more: bool


def end(
    connection: apsw.Connection, run: ClaimedRun, owner: int, ending: Ending, now: int
) -> Ended | None:
    """Write the end of a turn and its rows; None: the turn is not ours any more."""
    mine = connection.execute(
        "SELECT s.archived_why FROM runs AS r JOIN sessions AS s ON s.id = r.session"
        " WHERE r.seq = ? AND r.state = 'running' AND r.owner = ?",
        (run.seq, owner),
    ).fetchone()
    if mine is None:
        return None
    reply_seq = None
    # To a transcript that is being removed nothing is added.
    for row in () if mine[0] == "purge" else ending.rows:
        seq = add_message(connection, run.session, run.seq, row, now)
        if row.is_reply:
            reply_seq = seq
    usage = ending.usage or Usage(input=0, output=0)
    connection.execute(
        "UPDATE runs SET state = ?, reply_seq = ?, input_tokens = ?, output_tokens = ?, error = ?,"
        " error_code = ?, spent = ?, ended_at = ?, lease_expires_at = NULL WHERE seq = ?",
        (
            ending.state,
            reply_seq,
            usage.input,
            usage.output,
            ending.error,
            ending.error_code,
            ending.usage and _encode(ending.usage),
            now,
            run.seq,
        ),
    )
    connection.execute(
        "UPDATE sessions SET updated_at = max(updated_at, ?), model = coalesce(?, model),"
        " preview = coalesce(?, preview), input_tokens = input_tokens + ?,"
        " output_tokens = output_tokens + ? WHERE id = ?",
        (now, ending.model, _preview(ending.rows), usage.input, usage.output, run.session),
    )
    waiting = connection.execute(
        "SELECT 1 FROM runs WHERE session = ? AND state = 'queued' LIMIT 1", (run.session,)
    ).fetchone()
    return Ended(reply_seq, waiting is not None)


def _preview(rows: tuple[NewMessage, ...]) -> str | None:
    for row in reversed(rows):
        if row.is_reply:
            text = "".join(part.text for part in row.parts if isinstance(part, TextPart))
            if text:
                return text[:PREVIEW_CHARS_MAX]
    return None


def interrupt_orphans(connection: apsw.Connection, living: tuple[int, ...], now: int) -> int:
    """At the start: end the turns of generations that are gone; gives how many."""
    places = ", ".join("?" * len(living))
    return _interrupt(connection, f"owner NOT IN ({places})", living, now)


def interrupt_expired(connection: apsw.Connection, mine: int, now: int) -> int:
    """End the turns of other generations whose lease has run out; gives how many."""
    return _interrupt(connection, "owner <> ? AND lease_expires_at < ?", (mine, now), now)


def _interrupt(connection: apsw.Connection, which: str, bindings: tuple[Any, ...], now: int) -> int:
    rows: list[Any] = connection.execute(
        "UPDATE runs SET state = 'interrupted', error = ?, ended_at = ?, lease_expires_at = NULL"  # noqa: S608 - of our own conditions
        f" WHERE state = 'running' AND {which} RETURNING session",
        (INTERRUPTED, now, *bindings),
    ).fetchall()
    for (session,) in rows:
        _put_aside(connection, session, now)
    return len(rows)


def _put_aside(connection: apsw.Connection, session: int, now: int) -> None:
    """End what waits in a session whose newest `CRASHES_MAX` turns each ended with their worker.

    It would most likely end as they did; five such ends in a minute, and the tenant is out of
    service. A message that is sent from now on runs.
    """
    crashes: int = connection.execute(
        "SELECT count(*) FROM (SELECT error FROM runs WHERE session = ? AND state <> 'queued'"
        " ORDER BY seq DESC LIMIT ?) WHERE error = ?",
        (session, CRASHES_MAX, INTERRUPTED),
    ).get
    if crashes == CRASHES_MAX:
        connection.execute(
            "UPDATE runs SET state = 'interrupted', error = ?, ended_at = ?"
            " WHERE session = ? AND state = 'queued'",
            (PUT_ASIDE, now, session),
        )
