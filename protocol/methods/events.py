"""`events.*`: what happens in a tenant, as it happens."""

from typing import Annotated, Any, Final, Literal

import msgspec

from protocol import limits
from protocol.methods.chat import Message, SessionKey, Usage
from protocol.methods.registry import Params, Result, Scope, declare
from protocol.quotas import Metric

EventName = Literal["chat", "agent", "session.changed", "quota.warning", "events.reset"]
Cursor = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,16}(-[0-9]{1,16}){2}$(?!\n)")]


class ChatEvent(Result, frozen=True, kw_only=True):
    """`chat`: text that is added to a turn's reply (`delta`), or how the turn has ended.

    `seq` grows within the turn. `message` is the whole reply, left out if it is over
    `EVENT_BYTES_MAX`; `chat.history` has it.
    """

    run_id: str
    session_key: str
    seq: int
    state: Literal["delta", "final", "aborted", "error"]
    delta_text: str | None = None
    message: Message | None = None
    usage: Usage | None = None
    error_message: str | None = None
    error_code: str | None = None


class Lifecycle(Result, frozen=True, kw_only=True):
    """What an `agent` event of the stream `lifecycle` says."""

    phase: Literal["start", "end", "error"]
    error: str | None = None


class ToolProgress(Result, frozen=True, kw_only=True):
    """What an `agent` event of the stream `tool` says; the beginnings of arguments and output."""

    phase: Literal["start", "result"]
    name: str
    tool_call_id: str
    arguments: str | None = None
    output: str | None = None
    is_error: bool = False


class ToolEvent(Result, frozen=True, kw_only=True):
    """`agent`: a turn has a tool run, or it has ended. `ts` is Unix ms."""

    run_id: str
    session_key: str
    stream: Literal["tool"]
    ts: int
    data: ToolProgress


class AgentEvent(Result, frozen=True, kw_only=True):
    """`agent`: a turn begins or ends. `ts` is Unix ms."""

    run_id: str
    session_key: str
    stream: Literal["lifecycle"]
    ts: int
    data: Lifecycle


SessionChange = Literal[
    "created", "message", "turn", "patched", "reset", "deleted", "compacted", "injected"
]


class SessionChanged(Result, frozen=True, kw_only=True):
    """`session.changed`: the session is to be read again. `ts` is Unix ms."""

    session_key: str
    reason: SessionChange
    ts: int


class QuotaWarning(Result, frozen=True, kw_only=True):
    """`quota.warning`: a limit was come near to; once a window, and on WebSockets only.

    It has no cursor, and `events.poll` does not give it: it is the front's, which wakes no worker
    for it. `tenants.quota.status` and the header `OpenClaw-Quota-Warning` say the same. `limit` and
    `used` are in the unit of the metric, `resetsAt` is ISO 8601, UTC.
    """

    metric: Metric
    limit: int
    used: int
    resets_at: str


class SubscribeParams(Params, frozen=True, kw_only=True):
    """All events, or those of these names and sessions; replaces an earlier subscription."""

    events: Annotated[list[EventName], msgspec.Meta(max_length=16)] | None = None
    session_keys: Annotated[list[SessionKey], msgspec.Meta(max_length=64)] | None = None


class SubscribeResult(Result, frozen=True, kw_only=True):
    """Whether events come on this connection from now on."""

    subscribed: bool


class UnsubscribeParams(Params, frozen=True, kw_only=True):
    """Nothing."""


class PollParams(Params, frozen=True, kw_only=True):
    """`cursor` is that of an earlier answer; without one, what happens from now on.

    When there is nothing yet, the answer waits for up to `waitMs`.
    """

    cursor: Cursor | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.EVENTS_POLL_MAX)] = (
        limits.EVENTS_POLL_DEFAULT
    )
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=limits.EVENTS_WAIT_MS_MAX)] = 0


class PolledEvent(Result, frozen=True, kw_only=True):
    """One event; a poll with its cursor gives what came after it."""

    event: EventName
    cursor: str
    payload: Any


class PollResult(Result, frozen=True, kw_only=True):
    """Events, oldest first, and the cursor to go on with.

    `reset`: what the cursor named is no longer known here, and events were missed; read the
    sessions again. `more`: there were more than `limit`.
    """

    cursor: str
    events: list[PolledEvent]
    reset: bool = False
    more: bool = False


SUBSCRIBE: Final = declare(
    "events.subscribe",
    params=SubscribeParams,
    result=SubscribeResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Have events sent on this WebSocket, as notifications with the method `event`.",
)
UNSUBSCRIBE: Final = declare(
    "events.unsubscribe",
    params=UnsubscribeParams,
    result=SubscribeResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Have no more events sent on this WebSocket.",
)
POLL: Final = declare(
    "events.poll",
    params=PollParams,
    result=PollResult,
    scope=Scope.READ,
    idempotent=True,
    timeout_seconds=60.0,
    doc="Give the events after a cursor, for callers that have only HTTP.",
)
