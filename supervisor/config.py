"""`config.yaml`: what the operator decides. Every key is optional; an unknown one is an error."""

import ipaddress
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from protocol import documents, limits
from protocol.control.shapes import Cpus, DiskBytes, DiskInodes, MemoryBytes, Pids
from protocol.launching import MODES, NO_NETWORK, Mode
from protocol.names import ACCOUNT_ID_PATTERN
from supervisor import sealed_key
from supervisor.billing_config import BillingSection
from supervisor.config_models import (
    AgentsSection,
    EgressSection,
    Models,
    NetworkProfiles,
    Providers,
    check,
)

CONFIG_BYTES_MAX: Final = 256 * 1024

Origin = Annotated[str, msgspec.Meta(pattern=r"\Ahttps?://[a-z0-9.:\[\]-]{1,253}(:[0-9]{1,5})?\Z")]
HostName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9.:\[\]-]{1,253}\Z")]


class ConfigError(Exception):
    """`config.yaml` cannot be used; the message names the key and what is wrong with it."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class TlsSection(_Section, frozen=True, kw_only=True):
    """Absolute paths of PEM files: the certificate with its chain, and its key, not encrypted."""

    certificate: Annotated[str, msgspec.Meta(pattern=r"\A/[^\0]+\Z", max_length=1024)]
    key: Annotated[str, msgspec.Meta(pattern=r"\A/[^\0]+\Z", max_length=1024)]


class GatewaySection(_Section, frozen=True, kw_only=True):
    """Where the gateway listens, and who may call.

    An address beside the loopback ones needs `tls`, or `expose_without_tls`: then tokens cross the
    network in the clear unless something in front encrypts. `allowed_hosts` are names it may be
    called by beside the loopback ones, `allowed_origins` pages that may call from a browser.
    `trusted_proxies` (addresses or CIDR networks) may say in `X-Forwarded-For` whom they call for.
    """

    host: Annotated[str, msgspec.Meta(max_length=45)] = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 18789
    tls: TlsSection | None = None
    expose_without_tls: bool = False
    allowed_hosts: Annotated[tuple[HostName, ...], msgspec.Meta(max_length=64)] = ()
    allowed_origins: Annotated[tuple[Origin, ...], msgspec.Meta(max_length=64)] = ()
    trusted_proxies: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=64)], ...], msgspec.Meta(max_length=64)
    ] = ()
    connections_per_address: Annotated[int, msgspec.Meta(ge=1, le=limits.HTTP_CONNECTIONS_MAX)] = (
        limits.HTTP_CONNECTIONS_PER_ADDRESS_MAX
    )

    def __post_init__(self) -> None:
        """Refuse what no type can say.

        Raises:
            ValueError: naming the key; msgspec makes a `ValidationError` with the path of it.
        """
        try:
            loopback = ipaddress.ip_address(self.host).is_loopback
        except ValueError as error:
            msg = f"host: {error}"
            raise ValueError(msg) from error
        if not (loopback or self.tls or self.expose_without_tls):
            msg = (
                f"host: {self.host} can be reached by others: give tls: {{certificate, key}}, "
                "or write expose_without_tls: true if tokens may cross the network in the clear"
            )
            raise ValueError(msg)
        for network in self.trusted_proxies:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                msg = f"trusted_proxies: {error}"
                raise ValueError(msg) from error


class IsolationSection(_Section, frozen=True, kw_only=True):
    """How tenants are kept apart.

    `required` refuses to start below the minimum. `none` starts anyway, with whatever steps of the
    jail hold here, and says so everywhere. Tenant uids (used by root only) come from the range.
    """

    mode: Literal["required", "none"] = "required"
    uid_first: Annotated[int, msgspec.Meta(ge=65536, lt=2**31)] = 1_900_000_000
    uid_count: Annotated[int, msgspec.Meta(ge=1024, le=2**30)] = 100_000_000


class WorkerSection(_Section, frozen=True, kw_only=True):
    """How workers live.

    After `idle_seconds` without work one is parked; 0 is never. One that asks for more than
    `memory_bytes` of memory of its own (RLIMIT_DATA) ends and is replaced.
    """

    idle_seconds: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 900.0
    memory_bytes: Annotated[int, msgspec.Meta(ge=128 * 2**20, le=2**40)] = 2**30


class DockerSection(_Section, frozen=True, kw_only=True):
    """The engine of the sandbox mode `docker`.

    `images` are profiles: the name that a tenant may choose, and the id (`sha256:…`) of the image,
    as `openclaw sandbox image build` prints it. `runtime` is one that the engine knows, such as
    `runsc`. `warm` started containers wait for a tenant that has just used one.
    """

    host: Annotated[str, msgspec.Meta(pattern=r"\Aunix:///[^\0]+\Z", max_length=120)] = (
        "unix:///var/run/docker.sock"
    )
    images: Annotated[
        dict[
            Annotated[str, msgspec.Meta(pattern=ACCOUNT_ID_PATTERN)],
            Annotated[str, msgspec.Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")],
        ],
        msgspec.Meta(max_length=64),
    ] = {}
    runtime: Annotated[str, msgspec.Meta(pattern=ACCOUNT_ID_PATTERN)] | None = None
    warm: Annotated[int, msgspec.Meta(ge=0, le=16)] = 1


class SandboxSection(_Section, frozen=True, kw_only=True):
    """What tenants' sandboxes are, and may use: the ceilings of each one.

    `mode` is used where nobody chooses, `allowed` may be chosen. Over `concurrent` runs of a tenant
    at a time `queued` wait; more are refused. `network` are profiles: the hosts (`host:port`) that
    a sandbox which names one can reach.
    """

    mode: Mode = "bubblewrap"
    allowed: Annotated[tuple[Mode, ...], msgspec.Meta(min_length=1, max_length=2)] = MODES
    docker: DockerSection = DockerSection()
    memory_bytes: Annotated[int, msgspec.Meta(ge=16 * 2**20, le=2**40)] = 512 * 2**20
    cpus: Annotated[float, msgspec.Meta(ge=0.01, le=1024)] = 1.0
    pids: Annotated[int, msgspec.Meta(ge=4, le=2**22)] = 128
    file_bytes: Annotated[int, msgspec.Meta(ge=2**20, le=2**50)] = 2**30
    network: NetworkProfiles = {}
    wall_seconds: Annotated[float, msgspec.Meta(ge=1, le=limits.SANDBOX_SECONDS_MAX)] = 600.0
    concurrent: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4
    queued: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 32
    terminals: Annotated[int, msgspec.Meta(ge=0, le=64)] = 4
    terminal_idle_seconds: Annotated[float, msgspec.Meta(ge=10, le=86_400)] = 900.0

    def __post_init__(self) -> None:
        """Refuse a mode that is not allowed, and a profile that nobody could ask for.

        Raises:
            ValueError: naming the key.
        """
        if self.mode not in self.allowed:
            msg = f"mode: {self.mode} is not among those of allowed"
            raise ValueError(msg)
        if NO_NETWORK in self.network:
            msg = f"network: a profile cannot be called {NO_NETWORK}, which is to have none"
            raise ValueError(msg)


class CapsSection(_Section, frozen=True, kw_only=True):
    """What each tenant may have, its worker and all its sandboxes together.

    `cgroup` is `auto`, `none`, or the path of a cgroup (v2) that is the gateway's to fill. Without
    cgroups only what a single process can be held to holds. `openclaw tenants limits` overrides
    the others for one tenant. None is no cap. A tenant stops writing at `disk_bytes` or
    `disk_inodes`, and everybody when less than `disk_floor_bytes` are free.
    """

    cgroup: Annotated[str, msgspec.Meta(pattern=r"\A(auto|none|/[^\0]*)\Z", max_length=1024)] = (
        "auto"
    )
    memory_bytes: MemoryBytes | None = 2 * 2**30
    cpus: Cpus | None = None
    pids: Pids | None = 1024
    disk_bytes: DiskBytes | None = 10 * 2**30
    disk_inodes: DiskInodes | None = 1_000_000
    disk_floor_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**50)] = 256 * 2**20


class AlertsSection(_Section, frozen=True, kw_only=True):
    """Whom to tell when a tenant fails: a program's path and its arguments."""

    command: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()


class Config(_Section, frozen=True, kw_only=True):
    """The whole file."""

    gateway: GatewaySection = GatewaySection()
    isolation: IsolationSection = IsolationSection()
    worker: WorkerSection = WorkerSection()
    sandbox: SandboxSection = SandboxSection()
    caps: CapsSection = CapsSection()
    alerts: AlertsSection = AlertsSection()
    providers: Providers = {}
    models: Models = {}
    agents: AgentsSection = AgentsSection()
    egress: EgressSection = EgressSection()
    billing: BillingSection = BillingSection()

    def __post_init__(self) -> None:
        """Refuse sections that do not fit each other.

        Raises:
            ValueError: naming the key.
        """
        check(self.providers, self.models, self.agents)


def load(path: Path, *, port: int | None = None) -> Config:
    """Read the file; one that is not there means all defaults.

    Args:
        path: Where it is.
        port: Stands for `gateway.port`, whatever the file says.

    Raises:
        ConfigError: it cannot be read, is no YAML, or a key is unknown or of a wrong type.
    """
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError as error:
        if path.is_symlink():
            msg = f"{path} is a link to a file that is not there"
            raise ConfigError(msg) from error
        text = b"{}"
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise ConfigError(msg) from error
    if len(text) > CONFIG_BYTES_MAX:
        msg = f"{path} is over {CONFIG_BYTES_MAX} bytes"
        raise ConfigError(msg)
    try:
        config = msgspec.convert(documents.parse(text), Config, dec_hook=sealed_key.decode)
    except (documents.DocumentError, msgspec.ValidationError) as error:
        msg = f"{path}: {error}"
        raise ConfigError(msg) from error
    isolation = config.isolation
    if isolation.uid_first + isolation.uid_count > 2**31:
        msg = f"{path}: isolation: uid_first + uid_count goes past 2147483648"
        raise ConfigError(msg)
    if port is not None:
        section = msgspec.structs.replace(config.gateway, port=port)
        config = msgspec.structs.replace(config, gateway=section)
    return config
