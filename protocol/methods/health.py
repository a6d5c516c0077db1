"""`health`: how the caller's own worker is. Facts of one tenant only."""

from typing import Final

from protocol.methods.registry import Params, Result, Scope, declare


class HealthParams(Params, frozen=True, kw_only=True):
    """`probe` also opens the stores and reads from them."""

    probe: bool = False


class HealthSessions(Result, frozen=True, kw_only=True):
    """How many sessions there are and how many turns run or wait."""

    count: int
    turns_running: int
    turns_queued: int


class HealthStorage(Result, frozen=True, kw_only=True):
    """`reason` says why the newest write was refused; while there is one only reads are served."""

    writable: bool
    reason: str | None = None


class HealthResult(Result, frozen=True, kw_only=True):
    """`ts` is Unix time in ms, `uptime_ms` and `duration_ms` are ms."""

    ok: bool
    tenant: str
    ts: int
    uptime_ms: int
    duration_ms: float
    generation: int
    default_agent_id: str
    sessions: HealthSessions
    storage: HealthStorage


HEALTH: Final = declare(
    "health",
    params=HealthParams,
    result=HealthResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Say how the tenant's own worker is.",
)
