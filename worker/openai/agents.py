"""Agents as models: a request is a turn in a session of the tenant's.

What a session remembers is its own. The last message of the user is the turn; what is said by
`system` and `developer` is for this turn alone. A request that names no session gets a new one,
which is told what the request says was spoken before; in one that is named, earlier messages of the
request are left out, for the session has had them.
"""

import asyncio
import uuid
from functools import partial
from typing import Any, Final, NamedTuple, get_args

from protocol import limits, names
from protocol.errors import ErrorCode, GatewayError
from protocol.methods.chat import TextPart, Usage
from protocol.models import (
    ChatMessage,
    ModelAnswer,
    ModelPiece,
    Spent,
    StopReason,
    TextBlock,
)
from worker import log
from worker.dispatch import CallContext
from worker.openai import reading, shapes
from worker.openai.outlet import Outlet, Writer
from worker.sessions import aborts, keys
from worker.sessions.admissions import Admission, NewSession, NewTurn
from worker.sessions.feed import Feed, TurnResult
from worker.sessions.requests import Request

_STOP_REASONS: Final = frozenset(get_args(StopReason))
_EARLIER: Final = "Earlier in this conversation:"


class Asked(NamedTuple):
    """What an agent is asked.

    Attributes:
        model: The agent as the client names it.
        messages: The conversation.
        field: What the client calls the conversation.
        user: Who speaks, as the client tells its users apart.
    """

    model: str
    messages: tuple[ChatMessage, ...]
    field: str
    user: str | None


def check_tools(tools: object) -> None:
    """Refuse tools: an agent uses its own."""
    if tools:
        reading.refuse("tools", "an agent uses its own tools; leave it out, or name a model")


async def run(
    call: CallContext, asked: Asked, session_key: str | None, writer: Writer | None
) -> ModelAnswer:
    """Run the turn and give its answer; what is streamed has gone before.

    Who cancels ends the turn; what was said so far stays in the transcript.

    Args:
        call: On whose behalf.
        asked: What it is asked.
        session_key: Of the header, if there is one.
        writer: How a stream is written; None: nothing is streamed.

    Raises:
        GatewayError: the turn was refused, failed, or was cut off.
    """
    admission = _admission(call, asked, session_key)
    assert admission.turn is not None
    run_id = admission.turn.run_id
    try:
        admitted = await call.services.turns.admit(admission)
        assert admitted.run is not None
        run_id = admitted.run.id
        outlet = None
        if writer is not None and call.stream is not None:
            outlet = Outlet(call.stream, writer)
        result = await _follow(call, run_id, outlet)
        try:
            answer = _answer(asked.model, admitted.key, result)
        except GatewayError as error:
            if outlet is not None:
                await outlet.fail(error)
            raise
        if outlet is not None:
            await outlet.finish(answer)
    except asyncio.CancelledError:
        _abort(call, run_id)
        raise
    return answer


def _admission(call: CallContext, asked: Asked, session_key: str | None) -> Admission:
    agent_id = shapes.agent_named(asked.model)
    if agent_id != names.DEFAULT_AGENT_ID:
        raise GatewayError(ErrorCode.NOT_FOUND, "no such agent", field="model")
    key, is_new = _key(agent_id, asked.user, session_key)
    position = _last_of_user(asked)
    text = _plain(asked.messages[position], asked.field)
    if not text or len(text) > limits.MESSAGE_CHARS_MAX:
        reading.refuse(asked.field, f"the last has 1 to {limits.MESSAGE_CHARS_MAX} characters")
    instructions = _instructions(asked, position, with_earlier=is_new)
    turn = NewTurn(str(uuid.uuid4()), str(uuid.uuid4()), text, instructions or None)
    given = keys.given_by_client(call.idempotency_key, None)
    what = ("" if is_new else key, text, instructions)
    fingerprint = keys.fingerprint("openai", what) if given else b""
    request = Request(given, fingerprint, call.services.clock.now_ms())
    new = NewSession(str(uuid.uuid4()), agent_id, None, None, None)
    return Admission(key, new, turn, request)


def _key(agent_id: str, user: str | None, session_key: str | None) -> tuple[str, bool]:
    if session_key is not None:
        key = keys.checked(session_key, "sessionKey")
        if keys.agent_of(key) != agent_id:
            raise GatewayError(
                ErrorCode.INVALID_REQUEST,
                "sessionKey names another agent than model",
                field="sessionKey",
            )
        return key, False
    if user is not None:
        return keys.for_openai_user(agent_id, user), False
    return f"agent:{agent_id}:openai:{uuid.uuid4()}", True


def _last_of_user(asked: Asked) -> int:
    of_user = [at for at, message in enumerate(asked.messages) if message.role == "user"]
    if not of_user:
        reading.refuse(asked.field, "an agent needs a message of the user to answer")
    return of_user[-1]


def _instructions(asked: Asked, position: int, *, with_earlier: bool) -> str:
    told, earlier = [], []
    for message in asked.messages[:position]:
        text = _plain(message, asked.field)
        if message.role == "system":
            told.append(text)
        elif with_earlier and text:
            earlier.append(f"{message.role}: {text}")
    if earlier:
        told.append("\n".join((_EARLIER, *earlier)))
    joined = "\n\n".join(told)
    if len(joined) > limits.MESSAGE_CHARS_MAX:
        most = limits.MESSAGE_CHARS_MAX
        reading.refuse(asked.field, f"what comes before the turn has at most {most} characters")
    return joined


def _plain(message: ChatMessage, field: str) -> str:
    said = []
    for block in message.content:
        if not isinstance(block, TextBlock):
            reading.refuse(field, "an agent takes text only; leave pictures out")
        said.append(block.text)
    return "\n".join(said)


async def _follow(call: CallContext, run_id: str, outlet: Outlet | None) -> TurnResult:
    feed = call.services.turns.feeds.observe(run_id)
    if not isinstance(feed, Feed):
        if outlet is not None and feed.reply is not None:
            outlet.add(ModelPiece(text=_text(feed)))
        return feed
    if outlet is None:
        return await feed.wait()
    said = 0

    def pass_on() -> None:
        nonlocal said
        text = "".join(feed.pieces[said:])
        said = len(feed.pieces)
        if text:
            outlet.add(ModelPiece(text=text))

    feed.watch(pass_on)
    try:
        pass_on()
        return await feed.wait()
    finally:
        feed.unwatch(pass_on)


def _answer(model: str, key: str, result: TurnResult) -> ModelAnswer:
    if result.refusal is not None:
        refused = result.refusal
        raise GatewayError(refused.code, refused.message, **refused.details, sessionKey=key)
    if result.state == "error":
        raise GatewayError(ErrorCode.INTERNAL, result.error or "the turn failed", sessionKey=key)
    if result.state != "ok":
        reason = result.error or "the turn goes on in its session: ask for its history"
        raise GatewayError(ErrorCode.UNAVAILABLE, reason, sessionKey=key)
    said = result.reply.stop_reason if result.reply else None
    stop_reason: Any = said if said in _STOP_REASONS else "stop"
    return ModelAnswer(
        model=model,
        stop_reason=stop_reason,
        spent=_spent(result.usage),
        cost_micro_usd=0,
        text=_text(result),
    )


def _text(result: TurnResult) -> str:
    parts = result.reply.content if result.reply else []
    return "".join(part.text for part in parts if isinstance(part, TextPart))


def _spent(usage: Usage | None) -> Spent:
    return Spent() if usage is None else Spent(input=usage.input, output=usage.output)


def _abort(call: CallContext, run_id: str) -> None:
    """Have the turn end, also one whose admission is still being written."""
    services = call.services
    operation = partial(
        aborts.abort, key=None, run_id=run_id, now=services.clock.now_ms(), key_field="key"
    )

    def written(future: "asyncio.Future[list[str]]") -> None:
        error = future.exception()
        if error is None:
            services.turns.end_aborted(future.result())
        elif not isinstance(error, GatewayError):
            log.failure("cannot abort a turn", error, run=run_id)

    try:
        services.sessions.submit(operation, grows=False).add_done_callback(written)
    except GatewayError as error:
        log.failure("cannot abort a turn", error, run=run_id)
