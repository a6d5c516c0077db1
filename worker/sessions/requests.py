"""Idempotency keys: what each was given for, and what was answered, kept on disk for a day.

The answer is written in the transaction that did what was asked, so a repeat after a crash finds
either both or neither. The keys are one tenant's, for the file is.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import apsw
import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import Method, Params, Result
from worker.sessions import keys

KEPT_MS: Final = limits.IDEMPOTENCY_KEPT_SECONDS * 1000
PRUNED_AT_ONCE: Final = 64

_encode: Final = msgspec.json.Encoder().encode
R = TypeVar("R", bound=Result)


class Request(NamedTuple):
    """What tells a repeated request from another one.

    Attributes:
        keys: Idempotency keys, each known under what it was first given for; mostly one or none.
        fingerprint: See `worker.sessions.keys.fingerprint`.
        now: Unix ms.
    """

    keys: tuple[str, ...]
    fingerprint: bytes
    now: int


class Outcome(NamedTuple):
    """An answer as JSON. `fresh` is what was done now; None: it had been done before."""

    answer: bytes
    fresh: Any


def of_call(method: Method, params: Params, header: str | None, now: int) -> Request:
    """Give the request that a client's call is.

    Args:
        method: What is called.
        params: With a field `idempotency_key`, which is no part of what is asked for.
        header: The header `Idempotency-Key`.
        now: Unix ms.

    Raises:
        GatewayError: INVALID_REQUEST: as `keys.given_by_client`.
    """
    given = keys.given_by_client(header, getattr(params, "idempotency_key", None))
    asked = msgspec.structs.replace(params, idempotency_key=None) if given else params
    return Request(given, keys.fingerprint(method.name, asked) if given else b"", now)


def earlier(connection: apsw.Connection, request: Request) -> bytes | None:
    """Give what was answered to this request before.

    Raises:
        GatewayError: CONFLICT: a key was given for another request.
    """
    for key in request.keys:
        row = connection.execute(
            "SELECT fingerprint, answer FROM answers WHERE key = ? AND created_at >= ?",
            (key, request.now - KEPT_MS),
        ).fetchone()
        if row is None:
            continue
        if row[0] not in (None, request.fingerprint):
            raise GatewayError(
                ErrorCode.CONFLICT,
                "this id was given for another request before; use a new one",
                field=keys.field_of(key),
            )
        return bytes(row[1])
    return None


def keep(connection: apsw.Connection, request: Request, answer: bytes) -> None:
    """Write down what is answered to a request."""
    if not request.keys:
        return
    connection.execute(
        "DELETE FROM answers WHERE key IN (SELECT key FROM answers WHERE created_at < ?"
        " ORDER BY created_at LIMIT ?)",
        (request.now - KEPT_MS, PRUNED_AT_ONCE),
    )
    for key in request.keys:
        connection.execute(
            "INSERT OR REPLACE INTO answers (key, fingerprint, answer, created_at)"
            " VALUES (?, ?, ?, ?)",
            (key, request.fingerprint, answer, request.now),
        )


def once(
    connection: apsw.Connection, request: Request, act: Callable[[apsw.Connection], R]
) -> Outcome:
    """Do what is asked for, unless it has been done. Raises as `earlier` and `act`."""
    answer = earlier(connection, request)
    if answer is not None:
        return Outcome(answer, None)
    result = act(connection)
    answer = _encode(result)
    keep(connection, request, answer)
    return Outcome(answer, result)
