"""`channels.*`: what comes in from outside and what is answered there."""

from typing import Annotated, Final, Literal

import msgspec

from protocol import limits
from protocol.methods.chat import IdempotencyKey, MessageText, Usage
from protocol.methods.registry import Params, Result, Scope, declare
from protocol.names import ACCOUNT_ID_PATTERN, TENANT_ID_PATTERN

OutsideId = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,120}$(?!\n)")]
"""A name that another system gives: printable ASCII without spaces."""


class InboundUser(Params, rename=str, frozen=True, kw_only=True):
    """Who wrote, as the channel names them."""

    id: OutsideId
    display_name: Annotated[str, msgspec.Meta(max_length=limits.DISPLAY_NAME_CHARS_MAX)] | None = (
        None
    )


class InboundText(Params, tag="text", tag_field="type", rename=str, frozen=True, kw_only=True):
    """Plain text."""

    text: MessageText


class InboundEnvelope(Params, rename=str, frozen=True, kw_only=True):
    """What a channel delivers.

    `tenant` and `channel` may be left out; `tenant`, when given, must be the caller's own.
    `session_id` tells conversations of one user apart. `message_id` is the channel's
    own id of the message: a second delivery of it is answered, not run again.
    """

    user: InboundUser
    content: InboundText
    tenant: Annotated[str, msgspec.Meta(pattern=TENANT_ID_PATTERN)] | None = None
    channel: Annotated[str, msgspec.Meta(pattern=ACCOUNT_ID_PATTERN)] | None = None
    session_id: OutsideId | None = None
    message_id: IdempotencyKey | None = None
    received_at: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class InboundParams(Params, frozen=True, kw_only=True):
    """The channel's account and the envelope that arrived there."""

    account: Annotated[str, msgspec.Meta(pattern=ACCOUNT_ID_PATTERN)]
    envelope: InboundEnvelope


class InboundReply(Result, tag="text", tag_field="type", frozen=True, kw_only=True):
    """What to show to the user: `messages`, which the agent has sent on its way, then `text`."""

    text: str
    messages: list[str] = msgspec.field(default_factory=list)


class InboundResult(Result, frozen=True, kw_only=True):
    """`reply` is left out while the turn still runs (`in_flight`) and when it failed."""

    ok: bool
    run_id: str
    session_key: str
    status: Literal["ok", "in_flight", "error", "interrupted"]
    reply: InboundReply | None = None
    usage: Usage | None = None
    error: str | None = None
    error_code: str | None = None


INBOUND: Final = declare(
    "channels.inbound",
    params=InboundParams,
    result=InboundResult,
    scope=Scope.WRITE,
    spends=True,
    idempotent=True,
    streams="chat",
    timeout_seconds=60.0,
    doc="Take a message from the generic webhook channel and answer it with a turn of the agent.",
)
