"""`chat.*`: the transcript of a session, and the end of its turns."""

from typing import Annotated, Final, Literal

import msgspec

from protocol import limits
from protocol.launching import Mode
from protocol.methods.registry import Params, Result, Scope, declare

SessionKey = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.SESSION_KEY_CHARS_MAX)]
MessageText = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MESSAGE_CHARS_MAX)]
IdempotencyKey = Annotated[
    str, msgspec.Meta(min_length=1, max_length=limits.IDEMPOTENCY_KEY_CHARS_MAX)
]
RunId = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Role = Literal["user", "assistant", "tool", "system"]
SendStatus = Literal["started", "queued", "in_flight", "ok", "error", "interrupted"]


class TextPart(Result, tag="text", tag_field="type", frozen=True, kw_only=True):
    """Plain text."""

    text: str


class ToolCallPart(Result, tag="toolCall", tag_field="type", frozen=True, kw_only=True):
    """The model asks for a tool; `arguments` is a JSON object as text."""

    call_id: str
    name: str
    arguments: str


class ToolResultPart(Result, tag="toolResult", tag_field="type", frozen=True, kw_only=True):
    """What a tool answered: untrusted text."""

    call_id: str
    name: str
    text: str
    is_error: bool = False


Part = TextPart | ToolCallPart | ToolResultPart


class Usage(Result, frozen=True, kw_only=True):
    """Tokens of one turn, all its model calls together, and what they have cost.

    `input` holds those read from and written to a provider's cache, `output` those of reasoning.
    """

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    cost_micro_usd: int = 0


class Message(Result, frozen=True, kw_only=True):
    """One row of a transcript. `seq` grows within the session; `timestamp` is Unix ms.

    Without `runId` it belongs to no turn: a note, or (`system`) the summary of a compaction.
    """

    seq: int
    id: str
    role: Role
    content: list[Part]
    timestamp: int
    run_id: str | None = None
    label: str | None = None
    model: str | None = None
    usage: Usage | None = None
    stop_reason: str | None = None


class HistoryParams(Params, frozen=True, kw_only=True):
    """`beforeSeq` pages backwards: rows older than it.

    `sessionId` names an earlier transcript of the session, which was archived; see `sessions.get`.
    """

    session_key: SessionKey
    session_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.HISTORY_MESSAGES_MAX)] = (
        limits.HISTORY_MESSAGES_DEFAULT
    )
    before_seq: Annotated[int, msgspec.Meta(ge=1, le=limits.JSON_INTEGER_ABS_MAX)] | None = None


class HistoryResult(Result, frozen=True, kw_only=True):
    """The newest rows, oldest first. `has_more` says that older ones exist."""

    session_key: str
    session_id: str
    messages: list[Message]
    has_more: bool


HISTORY: Final = declare(
    "chat.history",
    params=HistoryParams,
    result=HistoryResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Give the newest rows of a session's transcript.",
)


class AbortParams(Params, frozen=True, kw_only=True):
    """Without `runId`: every turn of the session that runs or waits."""

    session_key: SessionKey
    run_id: RunId | None = None


class AbortResult(Result, frozen=True, kw_only=True):
    """`runIds` are the turns that end now as interrupted; `agent.wait` tells when one has."""

    ok: Literal[True]
    aborted: bool
    run_ids: list[str]


ABORT: Final = declare(
    "chat.abort",
    params=AbortParams,
    result=AbortResult,
    scope=Scope.WRITE,
    idempotent=True,
    doc="End turns of a session; what they said so far stays in the transcript.",
)


class SendParams(Params, frozen=True, kw_only=True):
    """A turn in a session, which is made if there is none of this key.

    `sandbox` is the mode of the sandboxes that its tools use where nothing else says so.
    """

    session_key: SessionKey
    message: MessageText
    sandbox: Mode | None = None
    idempotency_key: IdempotencyKey | None = None


class SendResult(Result, frozen=True, kw_only=True):
    """What became of the message.

    `errorCode` is that of the table of errors, where the turn failed for a reason that is in it.
    Answered at once (`started`, `queued`, or for a repeated idempotency key `in_flight` or the
    turn's final status); a caller that asked for a stream gets it at the end of the turn, with the
    reply.
    """

    run_id: str
    session_key: str
    status: SendStatus
    message_seq: int
    reply: Message | None = None
    usage: Usage | None = None
    error: str | None = None
    error_code: str | None = None


SEND: Final = declare(
    "chat.send",
    params=SendParams,
    result=SendResult,
    scope=Scope.WRITE,
    spends=True,
    idempotent=True,
    streams="chat",
    timeout_seconds=300.0,
    doc="Send a message to a session, made if needed; a turn of its agent answers it.",
)


class InjectParams(Params, frozen=True, kw_only=True):
    """A note for the transcript; later turns are told of it."""

    session_key: SessionKey
    message: MessageText
    role: Literal["assistant", "system"] = "assistant"
    label: Annotated[str, msgspec.Meta(max_length=limits.NOTE_LABEL_CHARS_MAX)] | None = None
    idempotency_key: IdempotencyKey | None = None


class InjectResult(Result, frozen=True, kw_only=True):
    """The row that was added."""

    ok: Literal[True]
    message_id: str
    message_seq: int


INJECT: Final = declare(
    "chat.inject",
    params=InjectParams,
    result=InjectResult,
    scope=Scope.ADMIN,
    idempotent=True,
    doc="Add a note to a session's transcript without a turn.",
)
