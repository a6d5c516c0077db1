"""The handlers of `sessions.patch|reset|delete|compact`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import apsw
import msgspec

from protocol.errors import ErrorCode, GatewayError
from protocol.methods import Method, Params, session_changes
from protocol.methods.events import SessionChange
from protocol.methods.session_changes import (
    CompactParams,
    DeleteParams,
    PatchParams,
    ResetParams,
)
from worker.dispatch import CallContext, handles
from worker.events.turn import session_changed
from worker.sessions import keys, requests, transcripts


async def _change(
    call: CallContext,
    method: Method,
    params: Params,
    act: Callable[[apsw.Connection, int], Any],
    *,
    key: str,
    what: SessionChange,
) -> msgspec.Raw:
    """Do it once, have the turns that it ended cut off, and tell those who listen."""
    services = call.services
    now = services.clock.now_ms()
    request = requests.of_call(method, params, call.idempotency_key, now)
    outcome = await services.sessions.write(
        partial(requests.once, request=request, act=lambda connection: act(connection, now)),
        grows=method is session_changes.PATCH,
    )
    services.turns.end_aborted(getattr(outcome.fresh, "run_ids", ()))
    if outcome.fresh is not None:
        session_changed(services.events, services.clock, key, what)
    return msgspec.Raw(outcome.answer)


@handles(session_changes.PATCH)
async def patch(call: CallContext, params: PatchParams) -> msgspec.Raw:
    """Change a session's names."""
    key = keys.checked(params.key, "key")
    if params.label is msgspec.UNSET and params.display_name is msgspec.UNSET:
        message = "nothing to change: give label or displayName"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="label")
    return await _change(
        call,
        session_changes.PATCH,
        params,
        lambda connection, _now: transcripts.patch(connection, params),
        key=key,
        what="patched",
    )


@handles(session_changes.RESET)
async def reset(call: CallContext, params: ResetParams) -> msgspec.Raw:
    """Begin a new transcript."""
    key = keys.checked(params.key, "key")
    return await _change(
        call,
        session_changes.RESET,
        params,
        lambda connection, now: transcripts.reset(connection, key, now),
        key=key,
        what="reset",
    )


@handles(session_changes.DELETE)
async def delete(call: CallContext, params: DeleteParams) -> msgspec.Raw:
    """Delete a session."""
    key = keys.checked(params.key, "key")
    answer = await _change(
        call,
        session_changes.DELETE,
        params,
        lambda connection, now: transcripts.delete(connection, params, now),
        key=key,
        what="deleted",
    )
    if params.delete_transcript:
        call.services.purging.start()
    return answer


@handles(session_changes.COMPACT)
async def compact(call: CallContext, params: CompactParams) -> msgspec.Raw:
    """Replace older rows by a summary."""
    key = keys.checked(params.key, "key")
    return await _change(
        call,
        session_changes.COMPACT,
        params,
        lambda connection, now: transcripts.compact(connection, key, params.max_lines, now),
        key=key,
        what="compacted",
    )
