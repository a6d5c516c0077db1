"""What is written to the sessions' database: operations for the writer's thread.

Each is called with the connection first, inside a savepoint, and may be run again if its commit
failed; so it changes nothing but the database.
"""

from typing import Any, Final, NamedTuple

import apsw
import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.methods.chat import Part, Role, TextPart, Usage
from protocol.methods.sessions import RunStatus
from worker.sessions import keys

PREVIEW_CHARS_MAX: Final = 240
REQUESTS_KEPT_MS: Final = 7 * 24 * 3600 * 1000
REQUESTS_PRUNED_AT_ONCE: Final = 64
INTERRUPTED: Final = "the turn was cut off: its worker ended"
PUT_ASIDE: Final = "the turn was not run: each of the two before it ended with its worker"
CRASHES_MAX: Final = 2

_encode: Final = msgspec.json.Encoder().encode


class NewSession(NamedTuple):
    """A session that is made unless its key is there already."""

    session_id: str
    agent_id: str
    label: str | None
    display_name: str | None
    channel: str | None


class NewTurn(NamedTuple):
    """A message of the user, and the turn that is to answer it."""

    run_id: str
    message_id: str
    text: str


class Lease(NamedTuple):
    """Which generation runs a turn, and until when (Unix ms) that holds unless renewed."""

    owner: int
    expires_at: int


class Admission(NamedTuple):
    """A request to make a session, a turn in it, or both.

    Attributes:
        key: The session's key.
        session: What to make if there is no such session; None: refuse.
        turn: What to say in it.
        request_keys: Idempotency keys, each known under what it was first given for.
        fingerprint: What tells whether two requests ask for the same.
        now: Unix ms.
    """

    key: str
    session: NewSession | None
    turn: NewTurn | None
    request_keys: tuple[str, ...]
    fingerprint: bytes
    now: int


class AdmittedRun(NamedTuple):
    """The turn of an admission. `session` is the row of its session."""

    seq: int
    id: str
    session: int
    state: RunStatus
    message_seq: int


class Admitted(NamedTuple):
    """What came of an admission. `repeated`: it was there already, and nothing was written."""

    key: str
    created: bool
    run: AdmittedRun | None
    repeated: bool


def admit(connection: apsw.Connection, admission: Admission, lease: Lease | None) -> Admitted:
    """Make a session, a turn, or both; or find what an idempotency key was given for before.

    Args:
        connection: The writer.
        admission: What is asked for.
        lease: Whose turn it is if it can start now; None: it has to wait in any case.

    Raises:
        GatewayError: NOT_FOUND: no such session. CONFLICT: an idempotency key was given for
            something else. RATE_LIMITED: too many turns wait in the session.
    """
    for request_key in admission.request_keys:
        earlier = _earlier(connection, request_key, admission.fingerprint)
        if earlier is not None:
            return earlier
    row, created = _find_or_make(connection, admission)
    run = None
    if admission.turn is not None:
        run = _add_turn(connection, row, admission.turn, lease, admission.now)
    for request_key in admission.request_keys:
        connection.execute(
            "INSERT INTO requests (key, fingerprint, session, run, created, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (request_key, admission.fingerprint, row, run and run.seq, created, admission.now),
        )
    if admission.request_keys:
        _prune_requests(connection, admission.now)
    return Admitted(admission.key, created, run, repeated=False)


def _earlier(connection: apsw.Connection, request_key: str, fingerprint: bytes) -> Admitted | None:
    row = connection.execute(
        """SELECT q.fingerprint, s.key, q.created, r.seq, r.id, r.session, r.state, r.message_seq
        FROM requests AS q JOIN sessions AS s ON s.id = q.session
            LEFT JOIN runs AS r ON r.seq = q.run
        WHERE q.key = ?""",
        (request_key,),
    ).fetchone()
    if row is None:
        return None
    if row[0] != fingerprint:
        raise GatewayError(
            ErrorCode.CONFLICT,
            "this id was given for another request before; use a new one",
            field=keys.field_of(request_key),
        )
    run = None if row[3] is None else AdmittedRun(*row[3:])
    return Admitted(row[1], bool(row[2]), run, repeated=True)


def _prune_requests(connection: apsw.Connection, now: int) -> None:
    connection.execute(
        "DELETE FROM requests WHERE key IN (SELECT key FROM requests WHERE created_at < ?"
        " ORDER BY created_at LIMIT ?)",
        (now - REQUESTS_KEPT_MS, REQUESTS_PRUNED_AT_ONCE),
    )


def _find_or_make(connection: apsw.Connection, admission: Admission) -> tuple[int, bool]:
    found = connection.execute("SELECT id FROM sessions WHERE key = ?", (admission.key,)).fetchone()
    if found is not None:
        return found[0], False
    new = admission.session
    if new is None:
        raise GatewayError(ErrorCode.NOT_FOUND, "no such session", field="key")
    search = "\n".join(filter(None, (admission.key, new.label, new.display_name)))
    connection.execute(
        "INSERT INTO sessions (key, session_id, agent_id, label, display_name, channel,"
        " created_at, updated_at, search) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            admission.key,
            new.session_id,
            new.agent_id,
            new.label,
            new.display_name,
            new.channel,
            admission.now,
            admission.now,
            search.casefold(),
        ),
    )
    return connection.last_insert_rowid(), True


def _add_turn(
    connection: apsw.Connection, session: int, turn: NewTurn, lease: Lease | None, now: int
) -> AdmittedRun:
    waiting, running = connection.execute(
        """SELECT (SELECT count(*) FROM runs WHERE session = ?1 AND state = 'queued'),
            (SELECT count(*) FROM runs WHERE session = ?1 AND state = 'running')""",
        (session,),
    ).get
    if waiting >= limits.TURNS_QUEUED_PER_SESSION_MAX:
        raise GatewayError(
            ErrorCode.RATE_LIMITED,
            f"{waiting} turns wait in this session already; wait for an answer",
            limit=limits.TURNS_QUEUED_PER_SESSION_MAX,
        )
    starts = lease is not None and not waiting and not running
    held = lease if starts else None
    # The message's number is known only after it, and it names the turn.
    connection.execute(
        "INSERT INTO runs (id, session, state, owner, lease_expires_at, message_seq, created_at,"
        " started_at) VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
        (
            turn.run_id,
            session,
            "running" if starts else "queued",
            held and held.owner,
            held and held.expires_at,
            now,
            now if starts else None,
        ),
    )
    seq = connection.last_insert_rowid()
    row = NewMessage(turn.message_id, "user", (TextPart(text=turn.text),))
    message_seq = _add_message(connection, session, seq, row, now)
    connection.execute("UPDATE runs SET message_seq = ? WHERE seq = ?", (message_seq, seq))
    connection.execute(
        "UPDATE sessions SET updated_at = ?, preview = ? WHERE id = ?",
        (now, turn.text[:PREVIEW_CHARS_MAX], session),
    )
    state: RunStatus = "running" if starts else "queued"
    return AdmittedRun(seq, turn.run_id, session, state, message_seq)


class NewMessage(NamedTuple):
    """A row for a transcript."""

    id: str
    role: Role
    parts: tuple[Part, ...]
    model: str | None = None
    usage: Usage | None = None
    stop_reason: str | None = None


def _add_message(
    connection: apsw.Connection, session: int, run: int, row: NewMessage, now: int
) -> int:
    connection.execute(
        "INSERT INTO messages (id, session, run, role, content, timestamp, model, input_tokens,"
        " output_tokens, stop_reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.id,
            session,
            run,
            row.role,
            _encode(row.parts),
            now,
            row.model,
            row.usage and row.usage.input,
            row.usage and row.usage.output,
            row.stop_reason,
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
        """SELECT r.seq, r.id, r.session, s.key, r.message_seq
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
    """How a turn ended, and the rows that it adds to the transcript."""

    state: RunStatus
    rows: tuple[NewMessage, ...] = ()
    usage: Usage | None = None
    error: str | None = None
    model: str | None = None


class Ended(NamedTuple):
    """What was written at the end of a turn. `more`: others wait in the session."""

    reply_seq: int | None
    more: bool


def end(
    connection: apsw.Connection, run: ClaimedRun, owner: int, ending: Ending, now: int
) -> Ended | None:
    """Write the end of a turn and its rows; None: the turn is not ours any more."""
    mine = connection.execute(
        "SELECT 1 FROM runs WHERE seq = ? AND state = 'running' AND owner = ?", (run.seq, owner)
    ).fetchone()
    if mine is None:
        return None
    reply_seq = None
    for row in ending.rows:
        seq = _add_message(connection, run.session, run.seq, row, now)
        if row.role == "assistant":
            reply_seq = seq
    usage = ending.usage or Usage(input=0, output=0)
    connection.execute(
        "UPDATE runs SET state = ?, reply_seq = ?, input_tokens = ?, output_tokens = ?, error = ?,"
        " ended_at = ?, lease_expires_at = NULL WHERE seq = ?",
        (ending.state, reply_seq, usage.input, usage.output, ending.error, now, run.seq),
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
        if row.role == "assistant":
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
