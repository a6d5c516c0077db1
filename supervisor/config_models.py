"""The sections of `config.yaml` about models: who is asked, by which names, and what goes out."""

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from protocol.errors import GatewayError
from protocol.models import ModelId
from protocol.names import ACCOUNT_ID_PATTERN
from supervisor.egress.hosts import fetch_host, host_port
from supervisor.sealed_key import SealedKey

BUILTIN: Final = "builtin"
"""The provider that is always there, of `builtin/echo`."""
ECHO: Final = "builtin/echo"

ProviderName = Annotated[str, msgspec.Meta(pattern=ACCOUNT_ID_PATTERN)]
HostAndPort = Annotated[
    str, msgspec.Meta(pattern=r"\A(\[[0-9a-f:.]{2,45}\]|[a-z0-9.-]{1,253}):[0-9]{1,5}\Z")
]
FetchHost = Annotated[str, msgspec.Meta(pattern=r"\A(\*\.)?[a-z0-9.-]{1,253}(:[0-9]{1,5})?\Z")]
Seconds = Annotated[float, msgspec.Meta(ge=0.05, le=3600)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=2**40)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ProviderSection(_Section, frozen=True, kw_only=True):
    """One provider: the kind of its API, where it is, and the key, literal or `${VARIABLE}`."""

    type: Literal["openai", "anthropic"]
    base_url: Annotated[str, msgspec.Meta(max_length=1024)]
    api_key: SealedKey | None = None

    def __post_init__(self) -> None:
        """Refuse an address that nothing could be asked at.

        Raises:
            ValueError: naming the key.
        """
        try:
            url = urlsplit(self.base_url)
            good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
            good = good and not url.query and not url.fragment and url.username is None
        except ValueError:
            good = False
        if not good:
            msg = "base_url: give https://host[:port][/path], without user, query or fragment"
            raise ValueError(msg)


class ModelSection(_Section, frozen=True, kw_only=True):
    """One model by the name that tenants use. `upstream_model` is the provider's name for it."""

    provider: ProviderName
    upstream_model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    context_window: Tokens | None = None
    max_output_tokens: Tokens | None = None
    input: Annotated[
        tuple[Literal["text", "image"], ...], msgspec.Meta(min_length=1, max_length=2)
    ] = ("text",)
    embeds: bool = False
    fallbacks: Annotated[tuple[ModelId, ...], msgspec.Meta(max_length=8)] = ()


Providers = Annotated[dict[ProviderName, ProviderSection], msgspec.Meta(max_length=64)]
Models = Annotated[dict[ModelId, ModelSection], msgspec.Meta(max_length=256)]
NetworkProfiles = Annotated[
    dict[
        Annotated[str, msgspec.Meta(pattern=ACCOUNT_ID_PATTERN)],
        Annotated[tuple[HostAndPort, ...], msgspec.Meta(min_length=1, max_length=64)],
    ],
    msgspec.Meta(max_length=32),
]


class AgentsSection(_Section, frozen=True, kw_only=True):
    """What agents use unless their tenant chooses another, and the bounds of one turn.

    A turn asks the model at most `max_rounds` times, for `max_tokens` in all, has at most
    `max_tool_calls` made, and takes at most `max_seconds`.
    """

    model: ModelId = ECHO
    max_rounds: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 24
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=2**40)] = 2_000_000
    max_tool_calls: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 64
    max_seconds: Annotated[float, msgspec.Meta(ge=1, le=600)] = 600.0


class EgressSection(_Section, frozen=True, kw_only=True):
    """What may go out, and how long it may take.

    `allow_hosts` are internal addresses (`host:port`) that may be reached nevertheless;
    `fetch_hosts` what the tool `fetch` may ask. `concurrent` is model calls of one tenant at a
    time. An answer has to begin within `first_byte_seconds`, to go on within `idle_seconds`, and to
    end within `total_seconds`. With `own_keys` tenants may bring keys of their own for a provider:
    their calls cost the operator nothing, and go where the operator's own go.
    """

    allow_hosts: Annotated[tuple[HostAndPort, ...], msgspec.Meta(max_length=64)] = ()
    fetch_hosts: Annotated[tuple[FetchHost, ...], msgspec.Meta(max_length=256)] = ()
    concurrent: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    connect_seconds: Seconds = 10.0
    first_byte_seconds: Seconds = 120.0
    idle_seconds: Seconds = 60.0
    total_seconds: Seconds = 590.0
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 2
    own_keys: bool = True

    def __post_init__(self) -> None:
        """Refuse hosts in a spelling that egress would refuse.

        Raises:
            ValueError: naming the key.
        """
        for key, entries, read in (
            ("allow_hosts", self.allow_hosts, host_port),
            ("fetch_hosts", self.fetch_hosts, fetch_host),
        ):
            for entry in entries:
                try:
                    read(entry)
                except GatewayError as error:
                    msg = f"{key}: {error.message}"
                    raise ValueError(msg) from error


def check(providers: Providers, models: Models, agents: AgentsSection) -> None:
    """Refuse what names something that is not there.

    Raises:
        ValueError: naming the key.
    """
    if BUILTIN in providers:
        msg = f"providers.{BUILTIN}: this name is taken by what is always there"
        raise ValueError(msg)
    for name, model in models.items():
        if name.startswith((f"{BUILTIN}/", "openclaw")):
            msg = f"models.{name}: names that begin with {BUILTIN}/ or openclaw are taken"
            raise ValueError(msg)
        if model.provider not in providers:
            msg = f"models.{name}.provider: there is no provider {model.provider}"
            raise ValueError(msg)
        for fallback in model.fallbacks:
            if fallback not in models or fallback == name:
                msg = f"models.{name}.fallbacks: {fallback} is no other model"
                raise ValueError(msg)
    if agents.model not in models and agents.model != ECHO:
        msg = f"agents.model: there is no model {agents.model}"
        raise ValueError(msg)
