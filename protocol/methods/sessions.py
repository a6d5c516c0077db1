"""`sessions.*`: conversations of one tenant."""

from typing import Annotated, Final, Literal

import msgspec

from protocol import limits
from protocol.methods.chat import Message, MessageText, SessionKey, Usage
from protocol.methods.registry import Params, Result, Scope, declare
from protocol.names import ACCOUNT_ID_PATTERN

AgentId = Annotated[str, msgspec.Meta(pattern=ACCOUNT_ID_PATTERN, max_length=64)]
Label = Annotated[str, msgspec.Meta(max_length=limits.LABEL_CHARS_MAX)]
IdempotencyKey = Annotated[
    str, msgspec.Meta(min_length=1, max_length=limits.IDEMPOTENCY_KEY_CHARS_MAX)
]
RunStatus = Literal["queued", "running", "ok", "error", "interrupted"]


class SessionRow(Result, frozen=True, kw_only=True):
    """One session. Times are Unix ms; the token counts add up all its turns."""

    key: str
    session_id: str
    agent_id: str
    kind: Literal["direct"]
    created_at: int
    updated_at: int
    label: str | None = None
    display_name: str | None = None
    channel: str | None = None
    model: str | None = None
    input_tokens: int
    output_tokens: int
    total_tokens: int
    last_message_preview: str | None = None


class CreateParams(Params, frozen=True, kw_only=True):
    """All optional. With `message` the first turn starts at once."""

    key: SessionKey | None = None
    agent_id: AgentId | None = None
    label: Label | None = None
    display_name: Annotated[str, msgspec.Meta(max_length=limits.DISPLAY_NAME_CHARS_MAX)] | None = (
        None
    )
    message: MessageText | None = None
    idempotency_key: IdempotencyKey | None = None


class CreateResult(Result, frozen=True, kw_only=True):
    """`created` is false when the session was there already."""

    ok: Literal[True]
    key: str
    session_id: str
    entry: SessionRow
    run_started: bool
    created: bool
    run_id: str | None = None
    message_seq: int | None = None


class ListParams(Params, frozen=True, kw_only=True):
    """Newest first. `search` is a part of key, label or display name, case ignored."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.SESSIONS_PAGE_MAX)] = (
        limits.SESSIONS_PAGE_DEFAULT
    )
    offset: Annotated[int, msgspec.Meta(ge=0, le=limits.JSON_INTEGER_ABS_MAX)] = 0
    active_minutes: Annotated[int, msgspec.Meta(ge=1, le=5_256_000)] | None = None
    agent_id: AgentId | None = None
    label: Label | None = None
    search: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    include_last_message: bool = False


class ListDefaults(Result, frozen=True, kw_only=True):
    """What a new session uses."""

    model_provider: str
    model: str


class ListResult(Result, frozen=True, kw_only=True):
    """`count` is the number of rows here, `total` of all that match."""

    ts: int
    count: int
    total: int
    defaults: ListDefaults
    sessions: list[SessionRow]


class GetParams(Params, frozen=True, kw_only=True):
    """The session's key."""

    key: SessionKey


class GetResult(Result, frozen=True, kw_only=True):
    """The row, and the state of its newest turn if it had one."""

    session: SessionRow
    run_id: str | None = None
    run_status: RunStatus | None = None


class SendParams(Params, frozen=True, kw_only=True):
    """A turn in an existing session."""

    key: SessionKey
    message: MessageText
    idempotency_key: IdempotencyKey | None = None


class SendResult(Result, frozen=True, kw_only=True):
    """What became of the message.

    Answered at once (`started`, `queued`, or for a repeated idempotency key `in_flight` or the
    turn's final status); a caller that asked for a stream gets it at the end of the turn, with the
    reply.
    """

    run_id: str
    session_key: str
    status: Literal["started", "queued", "in_flight", "ok", "error", "interrupted"]
    message_seq: int
    reply: Message | None = None
    usage: Usage | None = None
    error: str | None = None


class ChatDelta(Result, frozen=True, kw_only=True):
    """One `chat` event of a streamed turn: text that is added to the reply so far."""

    run_id: str
    session_key: str
    seq: int
    state: Literal["delta"]
    delta_text: str


CREATE: Final = declare(
    "sessions.create",
    params=CreateParams,
    result=CreateResult,
    scope=Scope.WRITE,
    spends=True,
    idempotent=True,
    doc="Create a session, or give the one that has this key; optionally start its first turn.",
)
LIST: Final = declare(
    "sessions.list",
    params=ListParams,
    result=ListResult,
    scope=Scope.READ,
    idempotent=True,
    doc="List the tenant's sessions, newest first.",
)
GET: Final = declare(
    "sessions.get",
    params=GetParams,
    result=GetResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Give one session.",
)
SEND: Final = declare(
    "sessions.send",
    params=SendParams,
    result=SendResult,
    scope=Scope.WRITE,
    spends=True,
    idempotent=True,
    streams=True,
    timeout_seconds=300.0,
    doc="Send a message to a session; a turn of its agent answers it.",
)
