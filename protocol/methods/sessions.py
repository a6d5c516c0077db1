"""`sessions.*`: conversations of one tenant."""

from typing import Annotated, Final, Literal

import msgspec

from protocol import limits
from protocol.methods.chat import (
    AbortResult,
    IdempotencyKey,
    MessageText,
    Role,
    RunId,
    SendResult,
    SessionKey,
)
from protocol.methods.events import ToolProgress
from protocol.methods.registry import Params, Result, Scope, declare
from protocol.names import ACCOUNT_ID_PATTERN

AgentId = Annotated[str, msgspec.Meta(pattern=ACCOUNT_ID_PATTERN, max_length=64)]
Label = Annotated[str, msgspec.Meta(max_length=limits.LABEL_CHARS_MAX)]
DisplayName = Annotated[str, msgspec.Meta(max_length=limits.DISPLAY_NAME_CHARS_MAX)]
SessionId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
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
    display_name: DisplayName | None = None
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


class Archive(Result, frozen=True, kw_only=True):
    """An earlier transcript of a session, or a part of one; `chat.history` reads it by its id."""

    session_id: str
    why: Literal["reset", "compact", "delete"]
    archived_at: int


class GetResult(Result, frozen=True, kw_only=True):
    """The row, the state of its newest turn if it had one, and what is archived, newest first."""

    session: SessionRow
    archives: list[Archive] = msgspec.field(default_factory=list)
    run_id: str | None = None
    run_status: RunStatus | None = None


class SendParams(Params, frozen=True, kw_only=True):
    """A turn in an existing session."""

    key: SessionKey
    message: MessageText
    idempotency_key: IdempotencyKey | None = None


class ChatDelta(Result, frozen=True, kw_only=True):
    """One `chat` event of a streamed turn: text that is added to the reply so far.

    Of the state `tool` it adds none, and tells of a tool call.
    """

    run_id: str
    session_key: str
    seq: int
    state: Literal["delta", "tool"]
    delta_text: str
    tool: ToolProgress | None = None


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
    streams="chat",
    timeout_seconds=300.0,
    doc="Send a message to a session; a turn of its agent answers it.",
)


class PreviewParams(Params, frozen=True, kw_only=True):
    """The newest `limit` rows of each session, each cut at `maxChars`."""

    keys: Annotated[
        tuple[SessionKey, ...], msgspec.Meta(min_length=1, max_length=limits.PREVIEW_KEYS_MAX)
    ]
    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.PREVIEW_ITEMS_MAX)] = 12
    max_chars: Annotated[int, msgspec.Meta(ge=20, le=limits.PREVIEW_CHARS_MAX)] = 240


class PreviewItem(Result, frozen=True, kw_only=True):
    """One row's text."""

    role: Role
    text: str


class Preview(Result, frozen=True, kw_only=True):
    """One session's newest rows, oldest first."""

    key: str
    status: Literal["ok", "empty", "missing"]
    items: list[PreviewItem]


class PreviewResult(Result, frozen=True, kw_only=True):
    """In the order of the keys."""

    ts: int
    previews: list[Preview]


PREVIEW: Final = declare(
    "sessions.preview",
    params=PreviewParams,
    result=PreviewResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Give the beginnings of the newest rows of several sessions.",
)


class ResolveParams(Params, frozen=True, kw_only=True):
    """Exactly one of `key`, `sessionId` and `label`."""

    key: SessionKey | None = None
    session_id: SessionId | None = None
    label: Label | None = None
    agent_id: AgentId | None = None
    allow_missing: bool = False


class ResolveResult(Result, frozen=True, kw_only=True):
    """`ok` is false, without a key, for what is missing and may be."""

    ok: bool
    key: str | None = None


RESOLVE: Final = declare(
    "sessions.resolve",
    params=ResolveParams,
    result=ResolveResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Find a session's key by the key itself, the session's id or its label.",
)


class AbortParams(Params, frozen=True, kw_only=True):
    """Turns of one session, or one turn; with both, a turn of that session."""

    key: SessionKey | None = None
    run_id: RunId | None = None


ABORT: Final = declare(
    "sessions.abort",
    params=AbortParams,
    result=AbortResult,
    scope=Scope.WRITE,
    idempotent=True,
    doc="End turns that run or wait; what they said so far stays in the transcript.",
)


class SearchParams(Params, frozen=True, kw_only=True):
    """Words that all have to be there; `"in quotes"` one after the other; `begin*` as a beginning.

    Nothing else has a meaning in a query. `cursor` is the `nextCursor` of the page before.
    """

    query: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.SEARCH_QUERY_CHARS_MAX)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.SEARCH_HITS_MAX)] = 25
    cursor: Annotated[str, msgspec.Meta(pattern=r"^m[0-9]{1,16}$(?!\n)")] | None = None
    agent_id: AgentId | None = None
    key: SessionKey | None = None


class SearchHit(Result, frozen=True, kw_only=True):
    """A message, or a session by its label or display name.

    `highlights` are the places of `snippet` that were found, as pairs of start and end, counted in
    Unicode characters.
    """

    kind: Literal["session", "message"]
    session_key: str
    session_id: str
    timestamp: int
    snippet: str
    highlights: list[tuple[int, int]]
    message_id: str | None = None
    seq: int | None = None
    role: Role | None = None


class SearchResult(Result, frozen=True, kw_only=True):
    """Sessions first, on the first page only; then messages, newest first."""

    results: list[SearchHit]
    next_cursor: str | None = None


SEARCH: Final = declare(
    "sessions.search",
    params=SearchParams,
    result=SearchResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Search what was said, and the names of sessions.",
)
