"""`agent.*`: turns of agents."""

from typing import Annotated, Final, Literal

import msgspec

from protocol.methods.registry import Params, Result, Scope, declare

WAIT_MS_DEFAULT: Final = 30_000
WAIT_MS_MAX: Final = 540_000
RunId = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


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


WAIT: Final = declare(
    "agent.wait",
    params=WaitParams,
    result=WaitResult,
    scope=Scope.READ,
    idempotent=True,
    timeout_seconds=600.0,
    doc="Wait for the end of a turn.",
)
