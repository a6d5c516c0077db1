"""`agent` and `agent.wait`: turns of agents."""

from typing import Annotated, Final, Literal

import msgspec

from protocol.methods.chat import (
    IdempotencyKey,
    Message,
    MessageText,
    RunId,
    SendStatus,
    SessionKey,
    Usage,
)
from protocol.methods.registry import Params, Result, Scope, declare
from protocol.methods.sessions import AgentId, Label

WAIT_MS_DEFAULT: Final = 30_000
WAIT_MS_MAX: Final = 540_000


class RunParams(Params, frozen=True, kw_only=True):
    """Without `sessionKey` the agent's main session, `agent:<agent>:main`, made if needed.

    `label` is for a session that is made. `deliver` would send the reply to where the session's
    last message came from; no channel can do that yet, so that only false is taken.
    """

    message: MessageText
    agent_id: AgentId | None = None
    session_key: SessionKey | None = None
    label: Label | None = None
    deliver: bool = False
    idempotency_key: IdempotencyKey | None = None


class RunResult(Result, frozen=True, kw_only=True):
    """`status` and what follows it are as with `sessions.send`; `acceptedAt` is Unix ms."""

    run_id: str
    session_key: str
    accepted_at: int
    status: SendStatus
    message_seq: int
    reply: Message | None = None
    usage: Usage | None = None
    error: str | None = None
    error_code: str | None = None


RUN: Final = declare(
    "agent",
    params=RunParams,
    result=RunResult,
    scope=Scope.WRITE,
    spends=True,
    idempotent=True,
    streams="chat",
    timeout_seconds=300.0,
    doc="Run a turn of an agent.",
)


class WaitParams(Params, frozen=True, kw_only=True):
    """`timeoutMs` of 0 only looks."""

    run_id: RunId
    timeout_ms: Annotated[int, msgspec.Meta(ge=0, le=WAIT_MS_MAX)] = WAIT_MS_DEFAULT


class WaitResult(Result, frozen=True, kw_only=True):
    """How a turn ended; `timeout`: it had not when the wait was over. Times are Unix ms."""

    run_id: str
    status: Literal["ok", "error", "interrupted", "timeout"]
    started_at: int | None = None
    ended_at: int | None = None
    error: str | None = None
    error_code: str | None = None


WAIT: Final = declare(
    "agent.wait",
    params=WaitParams,
    result=WaitResult,
    scope=Scope.READ,
    idempotent=True,
    timeout_seconds=600.0,
    doc="Wait for the end of a turn.",
)
