"""What supervisor, launcher, worker and egress say to each other, beside models.

On egress's descriptor channel the supervisor sends one message after the other, each with one
descriptor: `Configured` first (a memfd with the `Settings`), then a `Place` for every worker (its
link), `Proxies` when a launcher is another (a channel on which that hands over listeners). Other
settings come by its link: the call `configure` is answered when they are in force.
"""

from typing import Annotated, Final

import msgspec

from protocol import limits
from protocol.quotas import Quota

EGRESS = b"egress"
"""What a worker's descriptor channel says before the descriptor of its link to egress."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Provider(_Message, frozen=True, kw_only=True):
    """Who is asked for models, and as what kind of API; `base_url` without a trailing slash."""

    type: str
    base_url: str


class Model(_Message, frozen=True, kw_only=True):
    """A model as the operator names it. `fallbacks` are others that are asked when it fails."""

    provider: str
    upstream_model: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    input: tuple[str, ...] = ("text",)
    embeds: bool = False
    fallbacks: tuple[str, ...] = ()


class Price(_Message, frozen=True, kw_only=True):
    """Integer micro-USD a million tokens, by class; for None see `supervisor.egress.rates`."""

    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None


class Billing(_Message, frozen=True, kw_only=True):
    """The rate card: prices by model id, which may end with `*`. See `supervisor.egress.rates`."""

    rate_card: dict[str, Price] = {}
    allow_unpriced: bool = False
    sandbox_second_nano_usd: int = 0
    egress_gib_micro_usd: int = 0


class Configured(_Message, frozen=True, kw_only=True, tag="configured"):
    """The descriptor is a memfd that holds the first `Settings` in MessagePack.

    There they may be longer than a message, and hold the keys, which nobody else keeps.
    """


class Settings(_Message, frozen=True, kw_only=True):
    """What an operator decides about egress. `keys` are the providers', by provider."""

    ledger_directory: str
    uid: int | None = None
    """As whom it runs, as root; None is the gateway's own."""
    policy: bytes = b""
    """The system calls of egress as a BPF program; empty where none can be filtered."""
    providers: dict[str, Provider] = {}
    models: dict[str, Model] = {}
    billing: Billing = Billing()
    allow_hosts: tuple[str, ...] = ()
    """`host:port` that may be reached although it is an internal address."""
    fetch_hosts: tuple[str, ...] = ()
    """Hosts (`*.` before one takes its subdomains) that the tool `fetch` may ask."""
    sandbox_hosts: dict[str, tuple[str, ...]] = {}
    """By network profile: `host:port` that a sandbox of that profile may reach."""
    concurrent: int = 64
    """Model calls of one tenant at a time."""
    connect_seconds: float = 10.0
    first_byte_seconds: float = 120.0
    idle_seconds: float = 60.0
    total_seconds: float = 590.0
    retries: int = 2
    own_keys: bool = True
    """Whether tenants may bring keys of their own."""
    keys: dict[str, str] = {}


class Place(_Message, frozen=True, kw_only=True, tag="place"):
    """A worker; the descriptor is egress's end of the link to it."""

    tenant: str
    generation: int
    quota: Quota
    since_ms: int = 0
    """When the tenant was created, Unix ms: an earlier one of the id used what is before."""


class Proxies(_Message, frozen=True, kw_only=True, tag="proxies"):
    """The descriptor is the end of a channel on which the present launcher hands over listeners."""


Handed = Place | Proxies


class QuotaOf(_Message, frozen=True, kw_only=True):
    """What a tenant may spend."""

    tenant: str
    quota: Quota


class Quotas(_Message, frozen=True, kw_only=True):
    """Parameters of `quotas`, supervisor → egress: in force when it is answered.

    Those of all tenants come at each start of it, in parts, and one whenever it has changed. It
    answers with a `tuple[Standing, ...]` of those of these tenants that are blocked or warned; what
    the supervisor had of the others is over.
    """

    quotas: tuple[QuotaOf, ...]


class Gone(_Message, frozen=True, kw_only=True):
    """Body of the event `gone`, supervisor → egress: the tenant was deleted. Its rows stay."""

    tenant: str


class Ran(_Message, frozen=True, kw_only=True):
    """Body of the event `sandbox.ran`, launcher → supervisor → egress: a sandbox has ended."""

    tenant: str
    sandbox_id: str
    mode: str
    wall_ms: int
    cpu_ms: int


class Listener(_Message, frozen=True, kw_only=True, tag="listener"):
    """Launcher → egress, with a listening socket inside a sandbox's network namespace."""

    tenant: str
    sandbox_id: str
    profile: str


class Closed(_Message, frozen=True, kw_only=True, tag="closed"):
    """Launcher → egress: the sandbox has ended, and its listener with it."""

    sandbox_id: str


Door = Listener | Closed


class FetchRequest(_Message, frozen=True, kw_only=True):
    """Parameters of `fetch`, worker → egress: an HTTP request to a host of `fetch_hosts`."""

    url: Annotated[str, msgspec.Meta(max_length=limits.FETCH_URL_CHARS_MAX)]
    run_id: str | None = None


class FetchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back; `truncated` at `FETCH_BYTES_MAX`. `body` is text as the charset says."""

    url: str
    """Of the last redirect."""
    status: int
    content_type: str
    body: str
    truncated: bool


OWN_KEY_PATTERN: Final = rf"^[!-~]{{8,{limits.SECRET_CHARS_MAX}}}$(?!\n)"
"""Printable ASCII without spaces: it becomes part of a header."""


class OwnKey(_Message, frozen=True, kw_only=True):
    """Parameters of `key.set`, worker → egress; a key of None is `key.delete`."""

    provider: Annotated[str, msgspec.Meta(max_length=64)]
    key: Annotated[str, msgspec.Meta(pattern=OWN_KEY_PATTERN)] | None


class KnownKey(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """That there is a key for a provider, and since when, Unix ms; nothing of the key itself.

    The result of `keys` is a list of them.
    """

    provider: str
    created_at: int
