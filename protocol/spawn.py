"""What the supervisor tells a process at its start, and asks the front later."""

from typing import Annotated, Final, Literal

import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.quotas import NO_QUOTA, Counted, Quota, Standing

EXIT_OUT_OF_MEMORY: Final = 12
"""How a worker ends that has reached its memory limit; the number is that of ENOMEM."""


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator decides about the turns of agents.

    `model` is used unless the tenant chooses another. A turn asks the model at most `max_rounds`
    times, for `max_tokens` in all (input and output), has at most `max_tool_calls` made, and takes
    at most `max_seconds`. `fetches` says whether there is any host that the tool `fetch` may ask.
    """

    model: str = "builtin/echo"
    max_rounds: int = 24
    max_tokens: int = 2_000_000
    max_tool_calls: int = 64
    max_seconds: float = 600.0
    fetches: bool = False


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has to know; its tenant's directory is its working directory.

    `generation` grows with every worker of the tenant and is never used again. `living` are the
    other generations that are still alive; what any other one left behind was cut off.
    """

    tenant: str
    generation: int
    living: tuple[int, ...] = ()
    idle_seconds: float = 0.0
    """After how long without work it says so (event `idle`), to be parked; 0 is never."""
    concurrent_runs: int | None = None
    """How many turns may run at a time; the event `runs` says so anew, None is for the bound."""
    supersedes: bool = False
    """Whether another generation serves, and goes on if this one does not start."""
    storage: "StorageRefusal | None" = None
    """Why it may not write, if it may not; the event `storage` says when that changes."""
    agents: AgentSettings = AgentSettings()
    """What holds for its agents."""


class Idle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of the event `idle`, from a worker that had nothing to do for a while.

    `wake_at_ms` is when it wants to be woken, in Unix ms.
    """

    wake_at_ms: Annotated[int, msgspec.Meta(ge=0, le=limits.JSON_INTEGER_ABS_MAX)] | None = None


class FrontSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator decides about the front: part of `FrontSpec`, and `front.configure` later.

    `allowed_hosts` are the values of `Host` (without port, lower case) that are answered,
    `allowed_origins` those of `Origin`. `trusted_proxies` are networks (CIDR) whose word counts on
    who the client is.
    """

    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    connections_per_address_max: int = limits.HTTP_CONNECTIONS_PER_ADDRESS_MAX
    tls_directory: str | None = None
    """Where certificate and key lie, for a front that speaks TLS; see `protocol.tls`."""


class FrontSpec(msgspec.Struct, frozen=True, kw_only=True):
    """First message on the front's descriptor channel; the listening socket comes with it."""

    settings: FrontSettings
    version: str
    notices: tuple[str, ...]
    """What an operator has to know, such as isolation that was switched off; part of `/readyz`."""
    jail: bytes
    """How the front is confined; its meaning is the privileged side's."""
    supervised: frozenset[str] = frozenset()
    """The methods of tenants that are not for their workers; asked as `tenant.request`."""


class StorageRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """Body of the event `storage`, sent to a worker: why it may not write; `null` when it may.

    What makes less of what there is goes on, so that a tenant can get below its limit again.
    """

    code: Literal["QUOTA_EXCEEDED", "UNAVAILABLE"]
    message: str
    details: dict[str, int | str] = {}

    def error(self) -> GatewayError:
        """Give the refusal of a call."""
        return GatewayError(ErrorCode[self.code], self.message, **self.details)


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Body of the event `settings`, sent to a worker: what may change while it runs."""

    idle_seconds: float
    agents: AgentSettings = AgentSettings()


class WorkerLink(msgspec.Struct, frozen=True, kw_only=True):
    """Each later message on the front's descriptor channel: a link to a tenant's worker."""

    tenant: str
    generation: int


class LinkLost(msgspec.Struct, frozen=True, kw_only=True):
    """Body of the event `worker.link_lost`, sent by the front: a link to a worker has ended.

    `reason` says what the worker did wrong, if it did. A worker that lives on and is meant to serve
    has to be replaced, or given a new link.
    """

    tenant: str
    generation: int
    reason: str | None = None


class TerminalAttached(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of the event `terminal.attached`, sent by the front: for the audit.

    Somebody with that token sees a terminal, and types into it if the token allows that.
    """

    tenant: str
    token_id: str
    terminal_id: Annotated[str, msgspec.Meta(max_length=64)]
    address: Annotated[str, msgspec.Meta(max_length=64)]


class TokenGrant(msgspec.Struct, frozen=True, kw_only=True):
    """What a token gives inside its tenant, until `expires_at` (Unix ms) if there is an end."""

    id: str
    scopes: int
    expires_at: int | None = None


class TenantAccess(msgspec.Struct, frozen=True, kw_only=True):
    """What the front knows of one tenant. `tokens` maps SHA-256 digests (hex) to what they give."""

    tenant: str
    enabled: bool
    tokens: dict[str, TokenGrant]
    quota: Quota = NO_QUOTA


class TenantsUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `tenants.update`, asked of the front; in force when it is answered."""

    known: list[TenantAccess] = []
    gone: list[str] = []
    counts: tuple[Counted, ...] = ()
    """Requests that the front before has counted; part of the first load."""
    standings: tuple[Standing, ...] = ()
    """What egress has decided; in the first load what was known before, else news."""
    complete: bool = False
    """True with the last part of the first load: from here on the front is ready."""


class WakeParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of `worker.wake`, asked by the front when a call finds no worker."""

    tenant: str


class DetachParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of `worker.detach`, asked of the front: send this generation nothing new.

    What it has in flight goes on. When it is answered, no further call leaves for it.
    """

    tenant: str
    generation: int


class TenantLoad(msgspec.Struct, frozen=True):
    """What the front has of one tenant: calls in flight, and calls held until a worker starts."""

    in_flight: int = 0
    held: int = 0


class ControlRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of `control.request`: an HTTP request on the control plane, not yet authorised.

    The front cannot check the admin key; it hands over what the caller presented.
    """

    secret: str
    verb: str
    path: str
    query: str
    body: bytes
    idempotency_key: str | None = None


class TenantRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of `tenant.request`: a call of a tenant that the supervisor answers.

    `tenant`, `token_id` and `scopes` are those of the token that was presented to the front;
    `params` are as the client sent them.
    """

    tenant: str
    token_id: str
    scopes: Annotated[int, msgspec.Meta(ge=0, le=limits.SCOPE_BITS_MAX)]
    method: str
    params: bytes


class ControlResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `control.request`: an HTTP status and a JSON body, a string for text."""

    status: int
    body: msgspec.Raw


TENANTS_PER_UPDATE_MAX = 1000
TOKENS_PER_UPDATE_MAX = 20_000
"""Both together stay below the bound of a frame."""
