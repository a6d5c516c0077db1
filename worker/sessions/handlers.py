"""The handlers of `sessions.*`, `chat.*` and `agent.*`."""

import asyncio
import uuid
from contextlib import suppress
from typing import Final, Literal

from protocol import names
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import agent, chat, sessions
from protocol.methods.sessions import RunStatus
from worker.dispatch import CallContext, handles
from worker.sessions import keys, reads
from worker.sessions.feed import Feed, TurnResult
from worker.sessions.pages import StoredListing
from worker.sessions.watching import follow
from worker.sessions.writes import Admission, AdmittedRun, NewSession, NewTurn

SendStatus = Literal["started", "queued", "in_flight", "ok", "error", "interrupted"]
_OUTCOMES: Final[dict[str, Literal["ok", "error", "interrupted"]]] = {
    "ok": "ok",
    "error": "error",
    "interrupted": "interrupted",
}


def _no_session(field: str) -> GatewayError:
    return GatewayError(ErrorCode.NOT_FOUND, "no such session", field=field)


@handles(sessions.CREATE)
async def create(call: CallContext, params: sessions.CreateParams) -> sessions.CreateResult:
    """Make a session, or give the one that has this key; start its first turn."""
    services = call.services
    agent_id = _agent(params)
    key = params.key
    request_keys = keys.given_by_client(call.idempotency_key, params.idempotency_key)
    fingerprint = keys.fingerprint(
        sessions.CREATE.name, key, agent_id, params.label, params.display_name, params.message
    )
    turn = None
    if params.message is not None:
        turn = _turn(params.message)
    new = NewSession(str(uuid.uuid4()), agent_id, params.label, params.display_name, None)
    admitted = await services.turns.admit(
        Admission(
            key or keys.for_dashboard(agent_id),
            new,
            turn,
            request_keys,
            fingerprint,
            services.clock.now_ms(),
        )
    )
    entry = reads.session(services.sessions.read(), admitted.key)
    if entry is None:
        raise _no_session("key")
    run = admitted.run
    return sessions.CreateResult(
        ok=True,
        key=entry.key,
        session_id=entry.session_id,
        entry=entry,
        run_started=run is not None and run.state != "queued",
        created=admitted.created,
        run_id=run.id if run else None,
        message_seq=run.message_seq if run else None,
    )


def _agent(params: sessions.CreateParams) -> str:
    named = params.agent_id
    if params.key is not None:
        of_key = keys.agent_of(keys.checked(params.key, "key"))
        if named not in (None, of_key):
            message = "key and agentId name different agents"
            raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="agentId")
        named = of_key
    if named not in (None, names.DEFAULT_AGENT_ID):
        field = "agentId" if params.key is None else "key"
        raise GatewayError(ErrorCode.NOT_FOUND, "no such agent", field=field)
    return names.DEFAULT_AGENT_ID


def _turn(message: str) -> NewTurn:
    return NewTurn(str(uuid.uuid4()), str(uuid.uuid4()), message)


@handles(sessions.LIST)
def list_sessions(call: CallContext, params: sessions.ListParams) -> StoredListing:
    """List the sessions, newest first."""
    services = call.services
    now = services.clock.now_ms()
    page = services.pages.get(services.sessions.read(), params, now)
    model = services.catalogue.model
    return StoredListing(
        ts=now,
        count=page.count,
        total=page.total,
        defaults=sessions.ListDefaults(model_provider=model.split("/", 1)[0], model=model),
        sessions=page.rows,
    )


@handles(sessions.GET)
def get(call: CallContext, params: sessions.GetParams) -> sessions.GetResult:
    """Give one session and how its newest turn stands."""
    key = keys.checked(params.key, "key")
    reader = call.services.sessions.read()
    row = reads.session(reader, key)
    if row is None:
        raise _no_session("key")
    run_id, status = reads.newest_run(reader, key) or (None, None)
    return sessions.GetResult(session=row, run_id=run_id, run_status=status)


@handles(sessions.SEND)
async def send(call: CallContext, params: sessions.SendParams) -> sessions.SendResult:
    """Accept a message; follow its turn if a stream was asked for."""
    services = call.services
    key = keys.checked(params.key, "key")
    admitted = await services.turns.admit(
        Admission(
            key,
            None,
            _turn(params.message),
            keys.given_by_client(call.idempotency_key, params.idempotency_key),
            keys.fingerprint(sessions.SEND.name, key, params.message),
            services.clock.now_ms(),
        )
    )
    run = admitted.run
    assert run is not None
    if call.stream is not None:
        return _result(key, run, await follow(call, run.id, key))
    if admitted.repeated:
        result = services.turns.feeds.stored(services.turns.feeds.row(run.id))
        return _result(key, run, result, queued="in_flight")
    return _result(key, run, TurnResult(run.state), running="started")


def _result(
    key: str,
    run: AdmittedRun,
    result: TurnResult,
    *,
    queued: Literal["queued", "in_flight"] = "queued",
    running: Literal["started", "in_flight"] = "in_flight",
) -> sessions.SendResult:
    words: dict[RunStatus, SendStatus] = {
        "queued": queued,
        "running": running,
        "ok": "ok",
        "error": "error",
        "interrupted": "interrupted",
    }
    return sessions.SendResult(
        run_id=run.id,
        session_key=key,
        status=words[result.state],
        message_seq=run.message_seq,
        reply=result.reply,
        usage=result.usage,
        error=result.error,
    )


@handles(chat.HISTORY)
def history(call: CallContext, params: chat.HistoryParams) -> reads.StoredHistory:
    """Give the newest rows of a transcript."""
    key = keys.checked(params.session_key, "sessionKey")
    found = reads.history(call.services.sessions.read(), key, params.limit, params.before_seq)
    if found is None:
        raise _no_session("sessionKey")
    return found


@handles(chat.ABORT)
async def abort(call: CallContext, params: chat.AbortParams) -> chat.AbortResult:
    """End turns of a session, whichever generation runs them."""
    key = keys.checked(params.session_key, "sessionKey")
    run_ids = await call.services.turns.abort(key, params.run_id)
    return chat.AbortResult(ok=True, aborted=bool(run_ids), run_ids=run_ids)


@handles(agent.WAIT)
async def wait(call: CallContext, params: agent.WaitParams) -> agent.WaitResult:
    """Wait for the end of a turn, whichever generation runs it."""
    feeds = call.services.turns.feeds
    feed = feeds.observe(params.run_id)
    if isinstance(feed, Feed):
        with suppress(TimeoutError):
            async with asyncio.timeout(params.timeout_ms / 1000):
                await feed.wait()
    run = feeds.row(params.run_id)
    return agent.WaitResult(
        run_id=run.id,
        status=_OUTCOMES.get(run.state, "timeout"),
        started_at=run.started_at,
        ended_at=run.ended_at,
        error=run.error,
    )
