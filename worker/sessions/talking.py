"""The handlers of `sessions.send|abort`, `chat.*` and `agent.*`: turns, and what was said."""

import asyncio
import uuid
from contextlib import suppress
from functools import partial
from typing import Final, Literal

import msgspec

from protocol.errors import ErrorCode, GatewayError
from protocol.methods import agent, chat, sessions
from protocol.methods.chat import SendStatus
from protocol.methods.sessions import RunStatus
from worker.dispatch import CallContext, handles
from worker.events.turn import session_changed
from worker.sessions import aborts, keys, reads, requests, transcripts
from worker.sessions.admissions import Admission, AdmittedRun, NewSession
from worker.sessions.feed import Feed, TurnResult
from worker.sessions.handlers import agent_of, new_turn, no_session
from worker.sessions.watching import follow

MAIN: Final = "main"
"""Last part of the key of an agent's main session."""
_OUTCOMES: Final[dict[str, Literal["ok", "error", "interrupted"]]] = {
    "ok": "ok",
    "error": "error",
    "interrupted": "interrupted",
}


@handles(sessions.SEND)
async def send(call: CallContext, params: sessions.SendParams) -> chat.SendResult:
    """Accept a message; follow its turn if a stream was asked for."""
    key = keys.checked(params.key, "key")
    now = call.services.clock.now_ms()
    request = requests.of_call(sessions.SEND, params, call.idempotency_key, now)
    admission = Admission(key, None, new_turn(params.message), request)
    return (await _speak(call, admission))[1]


@handles(chat.SEND)
async def send_to_chat(call: CallContext, params: chat.SendParams) -> chat.SendResult:
    """As `send`, in a session that is made if there is none."""
    agent_id = agent_of(params.session_key, None, "sessionKey")
    now = call.services.clock.now_ms()
    admission = Admission(
        params.session_key,
        NewSession(str(uuid.uuid4()), agent_id, None, None, None),
        new_turn(params.message)._replace(sandbox=params.sandbox),
        requests.of_call(chat.SEND, params, call.idempotency_key, now),
    )
    return (await _speak(call, admission))[1]


@handles(agent.RUN)
async def run(call: CallContext, params: agent.RunParams) -> agent.RunResult:
    """Run a turn of an agent in the session that is named, or in its main one."""
    if params.deliver:
        message = "deliver: no channel can be delivered to yet; leave it out"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="deliver")
    agent_id = agent_of(params.session_key, params.agent_id, "sessionKey")
    now = call.services.clock.now_ms()
    admission = Admission(
        params.session_key or f"agent:{agent_id}:{MAIN}",
        NewSession(str(uuid.uuid4()), agent_id, params.label, None, None),
        new_turn(params.message),
        requests.of_call(agent.RUN, params, call.idempotency_key, now),
    )
    admitted, sent = await _speak(call, admission)
    return agent.RunResult(
        accepted_at=admitted.created_at,
        **{field: getattr(sent, field) for field in sent.__struct_fields__},
    )


async def _speak(call: CallContext, admission: Admission) -> tuple[AdmittedRun, chat.SendResult]:
    turns = call.services.turns
    admitted = await turns.admit(admission)
    run, key = admitted.run, admitted.key
    assert run is not None
    if call.stream is not None:
        return run, _result(key, run, await follow(call, run.id, key))
    if admitted.repeated:
        result = turns.feeds.stored(turns.feeds.row(run.id))
        return run, _result(key, run, result, queued="in_flight")
    return run, _result(key, run, TurnResult(run.state), running="started")


def _result(
    key: str,
    run: AdmittedRun,
    result: TurnResult,
    *,
    queued: Literal["queued", "in_flight"] = "queued",
    running: Literal["started", "in_flight"] = "in_flight",
) -> chat.SendResult:
    words: dict[RunStatus, SendStatus] = {
        "queued": queued,
        "running": running,
        "ok": "ok",
        "error": "error",
        "interrupted": "interrupted",
    }
    return chat.SendResult(
        run_id=run.id,
        session_key=key,
        status=words[result.state],
        message_seq=run.message_seq,
        reply=result.reply,
        usage=result.usage,
        error=result.error,
        error_code=result.error_code,
    )


@handles(chat.HISTORY)
def history(call: CallContext, params: chat.HistoryParams) -> reads.StoredHistory:
    """Give the newest rows of a transcript."""
    key = keys.checked(params.session_key, "sessionKey")
    found = reads.history(
        call.services.sessions.read(), key, params.session_id, params.limit, params.before_seq
    )
    if found is None:
        raise no_session("sessionKey" if params.session_id is None else "sessionId")
    return found


@handles(chat.INJECT)
async def inject(call: CallContext, params: chat.InjectParams) -> msgspec.Raw:
    """Add a note to a transcript."""
    key = keys.checked(params.session_key, "sessionKey")
    services = call.services
    now = services.clock.now_ms()
    request = requests.of_call(chat.INJECT, params, call.idempotency_key, now)
    act = partial(transcripts.inject, params=params, now=now)
    outcome = await services.sessions.write(partial(requests.once, request=request, act=act))
    if outcome.fresh is not None:
        session_changed(services.events, services.clock, key, "injected")
    return msgspec.Raw(outcome.answer)


@handles(chat.ABORT)
async def abort(call: CallContext, params: chat.AbortParams) -> chat.AbortResult:
    """End turns of a session, whichever generation runs them."""
    key = keys.checked(params.session_key, "sessionKey")
    return await _abort(call, key, params.run_id, "sessionKey")


@handles(sessions.ABORT)
async def abort_in_session(call: CallContext, params: sessions.AbortParams) -> chat.AbortResult:
    """As `abort`, also by the turn alone."""
    if params.key is None and params.run_id is None:
        message = "give key, runId or both"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="key")
    key = None if params.key is None else keys.checked(params.key, "key")
    return await _abort(call, key, params.run_id, "key")


async def _abort(
    call: CallContext, key: str | None, run_id: str | None, key_field: str
) -> chat.AbortResult:
    services = call.services
    now = services.clock.now_ms()
    run_ids = await services.sessions.write(
        partial(aborts.abort, key=key, run_id=run_id, now=now, key_field=key_field), grows=False
    )
    services.turns.end_aborted(run_ids)
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
        error_code=run.error_code,
    )
