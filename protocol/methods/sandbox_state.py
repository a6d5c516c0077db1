"""`sandbox.*`: what runs now, and what a sandbox would be."""

from typing import Annotated, Any, Final, Literal

import msgspec

from protocol import limits
from protocol.launching import DEFAULT_NAME, WORK, Kind, Mode, Profile, SandboxName
from protocol.methods.config import Name
from protocol.methods.registry import Params, Result, Scope, declare
from protocol.methods.sandbox import RunLimits, TimeoutMs, Variables

SandboxId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Source = Literal["gateway", "operator", "tenant", "call", "tool"]
"""Who said it: the gateway's default, the operator's bound, the tenant's configuration, the call,
or the tenant's configuration of the tool."""


class Limits(Result, frozen=True, kw_only=True):
    """What a sandbox may have at most; what is left out has no bound of its own."""

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None


class ListParams(Params, frozen=True, kw_only=True):
    """None."""


class RunningSandbox(Result, frozen=True, kw_only=True):
    """One sandbox that runs; `startedAt` is Unix ms."""

    sandbox_id: str
    kind: Kind
    name: str
    mode: Mode
    argv: list[str]
    started_at: int
    limits: Limits


class ListResult(Result, frozen=True, kw_only=True):
    """Oldest first. `queued` is how many runs wait for their turn."""

    sandboxes: list[RunningSandbox]
    queued: int


class KillParams(Params, frozen=True, kw_only=True):
    """A sandbox that runs."""

    sandbox_id: SandboxId


class KillResult(Result, frozen=True, kw_only=True):
    """It is being ended; whoever waits for it is answered when it has."""

    ok: Literal[True]


class StatusParams(Params, frozen=True, kw_only=True):
    """None."""


class ModeStatus(Result, frozen=True, kw_only=True):
    """One mode that the operator allows, and whether it can be had now; `detail` says why not."""

    mode: Mode
    usable: bool
    detail: str


class StatusResult(Result, frozen=True, kw_only=True):
    """What there is for the tenant's sandboxes, and what is in use.

    Of runs over `concurrent` at a time `queueable` wait, the others are refused. Without `cgroups`
    memory and processes are bounded for each process by itself, and processors are not.
    """

    modes: list[ModeStatus]
    default_mode: Mode
    images: list[str]
    networks: list[str]
    limits: Limits
    wall_seconds: float
    running: int
    queued: int
    concurrent: int
    queueable: int
    terminals: int
    cgroups: bool


class ExplainParams(Params, frozen=True, kw_only=True):
    """As for `sandbox.run`; `tool` is the tool of an agent's that would ask."""

    sandbox: Mode | None = None
    image: Profile | None = None
    network: Profile | None = None
    name: SandboxName = DEFAULT_NAME
    env: Variables = {}  # noqa: RUF012 - msgspec copies an empty one
    cwd: Annotated[str, msgspec.Meta(max_length=limits.SANDBOX_PATH_BYTES_MAX)] = WORK
    timeout_ms: TimeoutMs | None = None
    limits: RunLimits = RunLimits()
    tool: Name | None = None


class Setting(Result, frozen=True, kw_only=True, omit_defaults=False):
    """One value of the profile, and where it comes from."""

    value: Any
    source: Source


class Mount(Result, frozen=True, kw_only=True):
    """What is at a path inside, and whether it can be written to."""

    path: str
    holds: str
    writable: bool = False


class ExplainResult(Result, frozen=True, kw_only=True):
    """The sandbox that such a call would get. Unless `usable`, `detail` says why there is none."""

    profile: dict[str, Setting]
    environment: dict[str, Setting]
    mounts: list[Mount]
    usable: bool
    detail: str


LIST: Final = declare(
    "sandbox.list",
    params=ListParams,
    result=ListResult,
    scope=Scope.READ,
    idempotent=True,
    doc="List the tenant's sandboxes that run.",
)
KILL: Final = declare(
    "sandbox.kill",
    params=KillParams,
    result=KillResult,
    scope=Scope.WRITE,
    doc="End a sandbox, and all that runs in it, at once.",
)
STATUS: Final = declare(
    "sandbox.status",
    params=StatusParams,
    result=StatusResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Say which sandboxes can be had, within which bounds, and what is in use.",
)
EXPLAIN: Final = declare(
    "sandbox.explain",
    params=ExplainParams,
    result=ExplainResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Say what a sandbox would be, and who said so of each value; nothing is started.",
)
