"""How sessions and turns come in: operations for the writer's thread, as in `writes`."""

from typing import Final, NamedTuple

import apsw
import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.launching import Mode
from protocol.methods.chat import TextPart
from protocol.methods.sessions import RunStatus
from worker.sessions import requests, writes
from worker.sessions.requests import Request
from worker.sessions.writes import ClaimedRun, Lease, NewMessage

_encode: Final = msgspec.json.Encoder().encode


class NewSession(NamedTuple):
    """A session that is made unless its key is there already."""

    session_id: str
    agent_id: str
    label: str | None
    display_name: str | None
    channel: str | None


class NewTurn(NamedTuple):
    """A message of the user, and the turn that is to answer it.

    `instructions` are for this turn alone, after what its agent is told in any case.
    """

    run_id: str
    message_id: str
    text: str
    instructions: str | None = None
    sandbox: Mode | None = None
    """Where its tools run programs, unless the model or the tenant's configuration says."""


class Admission(NamedTuple):
    """A request to make a session, a turn in it, or both.

    Attributes:
        key: The session's key.
        session: What to make if there is no such session; None: refuse.
        turn: What to say in it.
        request: What tells a repeat.
    """

    key: str
    session: NewSession | None
    turn: NewTurn | None
    request: Request


class AdmittedRun(NamedTuple):
    """The turn of an admission. `session` is the row of its session; `created_at` is Unix ms."""

    seq: int
    id: str
    session: int
    state: RunStatus
    message_seq: int
    created_at: int
    sandbox: Mode | None = None

    def claimed(self, key: str) -> ClaimedRun:
        """Give it as one that is ours to run, in the session of this key."""
        return ClaimedRun(self.seq, self.id, self.session, key, self.message_seq, self.sandbox)


class Admitted(NamedTuple):
    """What came of an admission. `repeated`: it was there already, and nothing was written."""

    key: str
    created: bool
    run: AdmittedRun | None
    repeated: bool


class _Answer(msgspec.Struct, frozen=True):
    """What is kept of an admission: the rest is looked up again, for it goes on."""

    key: str
    created: bool
    run: str | None = None


_answer_decoder: Final = msgspec.json.Decoder(_Answer)


def admit(connection: apsw.Connection, admission: Admission, lease: Lease | None) -> Admitted:
    """Make a session, a turn, or both; or find what an idempotency key was given for before.

    Args:
        connection: The writer.
        admission: What is asked for.
        lease: Whose turn it is if it can start now; None: it has to wait in any case.

    Raises:
        GatewayError: NOT_FOUND: no such session, or it was deleted since the first request.
            CONFLICT: an idempotency key was given for something else. RATE_LIMITED: too many turns
            wait in the session.
    """
    answer = requests.earlier(connection, admission.request)
    if answer is not None:
        return _again(connection, _answer_decoder.decode(answer))
    now = admission.request.now
    row, created = find_or_make(connection, admission.key, admission.session, now)
    run = None
    if admission.turn is not None:
        run = _add_turn(connection, row, admission.turn, lease, now)
    kept = _Answer(admission.key, created, run and run.id)
    requests.keep(connection, admission.request, _encode(kept))
    return Admitted(admission.key, created, run, repeated=False)


def _again(connection: apsw.Connection, answer: _Answer) -> Admitted:
    if answer.run is None:
        return Admitted(answer.key, answer.created, None, repeated=True)
    row = connection.execute(
        "SELECT seq, id, session, state, message_seq, created_at FROM runs WHERE id = ?",
        (answer.run,),
    ).fetchone()
    if row is None:
        raise GatewayError(
            ErrorCode.NOT_FOUND, "the session has been deleted since this request was first made"
        )
    return Admitted(answer.key, answer.created, AdmittedRun(*row), repeated=True)


def find_or_make(
    connection: apsw.Connection, key: str, new: NewSession | None, now: int
) -> tuple[int, bool]:
    """Give a session's row, made if `new` says how, and whether it was made now.

    Raises:
        GatewayError: NOT_FOUND.
    """
    found = connection.execute("SELECT id FROM sessions WHERE key = ?", (key,)).fetchone()
    if found is not None:
        return found[0], False
    if new is None:
        raise GatewayError(ErrorCode.NOT_FOUND, "no such session", field="key")
    connection.execute(
        "INSERT INTO sessions (key, session_id, agent_id, label, display_name, channel,"
        " created_at, updated_at, search) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            key,
            new.session_id,
            new.agent_id,
            new.label,
            new.display_name,
            new.channel,
            now,
            now,
            search_text(key, new.label, new.display_name),
        ),
    )
    return connection.last_insert_rowid(), True


def search_text(key: str, label: str | None, display_name: str | None) -> str:
    """Give what `sessions.list` searches in."""
    return "\n".join(filter(None, (key, label, display_name))).casefold()


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
        " started_at, instructions, sandbox) VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?, ?)",
        (
            turn.run_id,
            session,
            "running" if starts else "queued",
            held and held.owner,
            held and held.expires_at,
            now,
            now if starts else None,
            turn.instructions,
            turn.sandbox,
        ),
    )
    seq = connection.last_insert_rowid()
    row = NewMessage(turn.message_id, "user", (TextPart(text=turn.text),))
    message_seq = writes.add_message(connection, session, seq, row, now)
    connection.execute("UPDATE runs SET message_seq = ? WHERE seq = ?", (message_seq, seq))
    connection.execute(
        "UPDATE sessions SET updated_at = ?, preview = ? WHERE id = ?",
        (now, turn.text[: writes.PREVIEW_CHARS_MAX], session),
    )
    state: RunStatus = "running" if starts else "queued"
    return AdmittedRun(seq, turn.run_id, session, state, message_seq, now, turn.sandbox)
