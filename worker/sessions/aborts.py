"""Ending turns before they end by themselves, by way of their rows.

Whoever asks may talk to another generation than the one that runs the turn.
"""

from typing import Any, Final, NamedTuple

import apsw

from protocol.errors import ErrorCode, GatewayError

ABORTED: Final = "the turn was aborted by a client"


class AbortedRun(NamedTuple):
    """A turn that is to end. `owner` is the generation that runs it; None: it never started."""

    id: str
    owner: int | None


def abort(connection: apsw.Connection, key: str, run_id: str | None, now: int) -> list[AbortedRun]:
    """End the turns of a session that wait, and ask those that run them to end the others.

    Args:
        connection: The writer.
        key: The session's key.
        run_id: Only this turn.
        now: Unix ms.

    Raises:
        GatewayError: NOT_FOUND: no such session, or no such turn in it.
    """
    session = connection.execute("SELECT id FROM sessions WHERE key = ?", (key,)).fetchone()
    if session is None:
        raise GatewayError(ErrorCode.NOT_FOUND, "no such session", field="sessionKey")
    which, bindings = "session = ?", list[Any](session)
    if run_id is not None:
        which, bindings = "session = ? AND id = ?", [*session, run_id]
        if not connection.execute(f"SELECT 1 FROM runs WHERE {which}", bindings).fetchone():  # noqa: S608 - of our own conditions
            raise GatewayError(ErrorCode.NOT_FOUND, "no such turn in the session", field="runId")
    running = connection.execute(
        f"UPDATE runs SET abort_requested_at = coalesce(abort_requested_at, ?)"  # noqa: S608 - as above
        f" WHERE state = 'running' AND {which} RETURNING id, owner",
        (now, *bindings),
    ).fetchall()
    waiting = connection.execute(
        f"UPDATE runs SET state = 'interrupted', error = ?, abort_requested_at = ?, ended_at = ?"  # noqa: S608 - as above
        f" WHERE state = 'queued' AND {which} RETURNING id, owner",
        (ABORTED, now, now, *bindings),
    ).fetchall()
    rows: list[Any] = [*running, *waiting]
    return [AbortedRun(*row) for row in rows]


def asked_of(connection: apsw.Connection, owner: int) -> list[str]:
    """Give the ids of a generation's running turns that somebody wants to end."""
    rows = connection.execute(
        "SELECT id FROM runs WHERE state = 'running' AND owner = ?"
        " AND abort_requested_at IS NOT NULL",
        (owner,),
    )
    return [row[0] for row in rows]
