"""Ending turns before they end by themselves, by way of their rows.

Whoever asks may talk to another generation than the one that runs the turn.
"""

from typing import Any, Final

import apsw

from protocol.errors import ErrorCode, GatewayError

ABORTED: Final = "the turn was aborted by a client"


def abort(
    connection: apsw.Connection, key: str | None, run_id: str | None, now: int, *, key_field: str
) -> list[str]:
    """End turns that wait, and ask those that run turns to end them; gives which.

    Args:
        connection: The writer.
        key: The session's key; None: whichever has the turn.
        run_id: Only this turn.
        now: Unix ms.
        key_field: What the caller calls the key.

    Raises:
        GatewayError: NOT_FOUND: no such session, or no such turn in it.
    """
    which, bindings = "1", list[Any]()
    if key is not None:
        session = connection.execute("SELECT id FROM sessions WHERE key = ?", (key,)).fetchone()
        if session is None:
            raise GatewayError(ErrorCode.NOT_FOUND, "no such session", field=key_field)
        which, bindings = "session = ?", list(session)
    if run_id is not None:
        which, bindings = f"{which} AND id = ?", [*bindings, run_id]
        if not connection.execute(f"SELECT 1 FROM runs WHERE {which}", bindings).fetchone():  # noqa: S608 - of our own conditions
            raise GatewayError(ErrorCode.NOT_FOUND, "no such turn", field="runId")
    return _end(connection, which, bindings, now)


def end_all(connection: apsw.Connection, session: int, now: int) -> list[str]:
    """End every turn of a session's row, as `abort` does."""
    return _end(connection, "session = ?", [session], now)


def _end(connection: apsw.Connection, which: str, bindings: list[Any], now: int) -> list[str]:
    running = connection.execute(
        f"UPDATE runs SET abort_requested_at = coalesce(abort_requested_at, ?)"  # noqa: S608 - of our own conditions
        f" WHERE state = 'running' AND {which} RETURNING id",
        (now, *bindings),
    ).fetchall()
    waiting = connection.execute(
        f"UPDATE runs SET state = 'interrupted', error = ?, abort_requested_at = ?, ended_at = ?"  # noqa: S608 - as above
        f" WHERE state = 'queued' AND {which} RETURNING id",
        (ABORTED, now, now, *bindings),
    ).fetchall()
    rows: list[Any] = [*running, *waiting]
    return [row[0] for row in rows]


def asked_of(connection: apsw.Connection, owner: int) -> list[str]:
    """Give the ids of a generation's running turns that somebody wants to end."""
    rows = connection.execute(
        "SELECT id FROM runs WHERE state = 'running' AND owner = ?"
        " AND abort_requested_at IS NOT NULL",
        (owner,),
    )
    return [row[0] for row in rows]
