"""`channels.inbound`: messages from the generic webhook channel.

It also takes envelopes that something else in front of us made for a channel of its own: the
channel that the envelope names is part of the session's key.
"""

import asyncio
import uuid
from typing import Final, Literal

from protocol import names
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import channels
from protocol.methods.chat import TextPart
from protocol.methods.sessions import RunStatus
from worker.dispatch import CallContext, handles
from worker.sessions import keys, reads
from worker.sessions.admissions import Admission, NewSession, NewTurn
from worker.sessions.feed import TurnResult
from worker.sessions.requests import Request
from worker.sessions.watching import follow

DEFAULT_CHANNEL: Final = "webhook"
REPLY_SECONDS: Final = 30.0
_Status = Literal["ok", "in_flight", "error", "interrupted"]
_STATUS: Final[dict[RunStatus, _Status]] = {
    "queued": "in_flight",
    "running": "in_flight",
    "ok": "ok",
    "error": "error",
    "interrupted": "interrupted",
}


@handles(channels.INBOUND)
async def receive(call: CallContext, params: channels.InboundParams) -> channels.InboundResult:
    """Run a turn for a message and wait for its reply, `REPLY_SECONDS` at most."""
    envelope = params.envelope
    if envelope.tenant not in (None, call.services.spec.tenant):
        # The same for a tenant that exists and one that does not.
        message = "the envelope is for another tenant than the token's"
        raise GatewayError(ErrorCode.FORBIDDEN, message, field="envelope.tenant")
    channel = envelope.channel or DEFAULT_CHANNEL
    key = keys.for_peer(
        names.DEFAULT_AGENT_ID, channel, params.account, envelope.user.id, envelope.session_id
    )
    now = call.services.clock.now_ms()
    new = NewSession(
        str(uuid.uuid4()), names.DEFAULT_AGENT_ID, None, envelope.user.display_name, channel
    )
    turn = NewTurn(str(uuid.uuid4()), str(uuid.uuid4()), envelope.content.text)
    # The same message may come again with another time of arrival.
    fingerprint = keys.fingerprint(channels.INBOUND.name, (key, turn.text))
    request_keys = keys.given_by_client(call.idempotency_key, None)
    if envelope.message_id is not None:
        request_keys += (keys.given_by_channel(key, envelope.message_id),)
    admitted = await call.services.turns.admit(
        Admission(key, new, turn, Request(request_keys, fingerprint, now))
    )
    assert admitted.run is not None
    run_id = admitted.run.id
    try:
        async with asyncio.timeout(REPLY_SECONDS):
            result = await follow(call, run_id, key)
    except TimeoutError:
        result = TurnResult("running")
    said = reads.sent(call.services.sessions.read(), run_id)
    return _answer(run_id, key, result, said)


def _answer(run_id: str, key: str, result: TurnResult, said: list[str]) -> channels.InboundResult:
    status = _STATUS[result.state]
    reply = None
    if status == "ok" and result.reply is not None:
        parts = result.reply.content
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        reply = channels.InboundReply(text=text, messages=said)
    return channels.InboundResult(
        ok=status in ("ok", "in_flight"),
        run_id=run_id,
        session_key=key,
        status=status,
        reply=reply,
        usage=result.usage,
        error=result.error,
        error_code=result.error_code,
    )
