"""What supervisor, launcher and worker say to each other about sandboxes.

The launcher learns who a tenant is from the supervisor alone (`Place`, which comes with the links);
a worker's word decides nothing but what runs inside its own tenant's ceilings.

The launcher makes the pipes of a run and hands the worker its ends on a descriptor channel of their
own, before the call is answered: each message there is a number that the worker chose, as text,
with the descriptors. A worker hands over none.
"""

from collections.abc import Collection
from typing import Annotated, Final, Literal

import msgspec

from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.names import ACCOUNT_ID_PATTERN
from protocol.spawn import StorageRefusal

Mode = Literal["bubblewrap", "docker"]
"""How a sandbox is made; one surface."""
MODES: Final[tuple[Mode, ...]] = ("bubblewrap", "docker")
Kind = Literal["run", "terminal"]

SandboxName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$(?!\n)")]
"""A directory under the tenant's `sandbox/`, which is at /work inside."""
DEFAULT_NAME: Final = "main"
WORK: Final = "/work"
Profile = Annotated[str, msgspec.Meta(pattern=ACCOUNT_ID_PATTERN)]
"""What an operator calls an image; a tenant never names engine options."""
NO_NETWORK: Final = "none"
"""What whoever wants none says, where something else said otherwise."""
DEFAULT_IMAGE: Final = "base"
"""Of those an operator names, the one for whoever asks for none; else the first by name."""
Argument = Annotated[str, msgspec.Meta(max_length=limits.SANDBOX_ARGUMENT_BYTES_MAX)]
Columns = Annotated[int, msgspec.Meta(ge=1, le=limits.TERMINAL_COLUMNS_MAX)]
Rows = Annotated[int, msgspec.Meta(ge=1, le=limits.TERMINAL_ROWS_MAX)]


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Caps(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """What something may have at once; None is no cap of its own.

    `cpus` is processors' worth of time, 0.5 is half of one.
    """

    memory_bytes: Annotated[int, msgspec.Meta(ge=16 * limits.MIB, le=2**50)] | None = None
    cpus: Annotated[float, msgspec.Meta(ge=0.01, le=1024)] | None = None
    pids: Annotated[int, msgspec.Meta(ge=4, le=2**22)] | None = None


class Ceilings(_Message, frozen=True, kw_only=True):
    """What an operator allows the sandboxes of a tenant.

    `sandbox` caps each of them; what all of a tenant's have together is the tenant's own cgroup.
    Of runs over `concurrent` at a time `queued` wait, the others are refused.
    """

    modes: tuple[Mode, ...]
    default_mode: Mode
    images: tuple[Profile, ...]
    sandbox: Caps
    wall_seconds: float
    concurrent: int
    queued: int
    terminals: int
    terminal_idle_seconds: float
    file_bytes: int
    """The longest file a sandbox can write, bytes."""
    networks: tuple[Profile, ...] = ()
    """What a sandbox may reach the hosts of."""


class LauncherSpec(_Message, frozen=True, kw_only=True):
    """First message on the launcher's descriptor channel."""

    state_root: str
    policy: bytes
    """The system calls of sandboxes as a BPF program; empty where none can be filtered."""
    own_policy: bytes
    """Those of the launcher, likewise."""
    stem_policy: bytes
    """Those of the process that starts sandboxes, likewise."""
    docker_policy: str
    """Those of sandboxes as a profile of Docker's, likewise."""
    docker_host: str
    """Where the engine listens, `unix://…`."""
    docker_runtime: str | None
    images: dict[str, str]
    """Profiles, and the id (`sha256:…`) of the image of each."""
    warm: int
    """How many started containers wait for a tenant that has just used one."""
    gateway: str
    """Labels what belongs to this gateway, so that the next start sweeps it."""


class Outlet(_Message, frozen=True, kw_only=True, tag="outlet"):
    """A later message on that channel, with the channel to the present egress."""


class Place(_Message, frozen=True, kw_only=True, tag="place"):
    """Each other message on that channel: a worker, with its data link and its descriptor channel.

    `cgroup` is the tenant's, as `supervisor.caps` names it; None where there are none.
    """

    tenant: str
    generation: int
    uid: int
    gid: int
    ceilings: Ceilings
    cgroup: str | None = None


class Hold(_Message, frozen=True, kw_only=True):
    """Body of the event `hold`, sent to the launcher: why a tenant may run nothing, None if it may.

    What runs ends at once, and what is asked for is refused.
    """

    tenant: str
    refusal: StorageRefusal | None


Handed = Outlet | Place

LAUNCHER: Final = b"launcher"
"""Begins the message on a worker's descriptor channel with its ends of data link and descriptor
channel to the launcher; its `Ceilings` in MessagePack follow."""


class Spec(_Message, frozen=True, kw_only=True):
    """Parameters of `run` and part of `terminal.open`, asked of the launcher by a worker.

    `argv` and `env` are what runs, as it is: no shell. `stdio` is the number of the message on the
    descriptor channel that will carry three pipes: write end of stdin, read ends of stdout and
    stderr.
    """

    argv: Annotated[
        tuple[Argument, ...], msgspec.Meta(min_length=1, max_length=limits.SANDBOX_ARGUMENTS_MAX)
    ]
    env: Annotated[dict[str, Argument], msgspec.Meta(max_length=limits.SANDBOX_VARIABLES_MAX)] = {}
    cwd: Annotated[str, msgspec.Meta(max_length=limits.SANDBOX_PATH_BYTES_MAX)] = WORK
    name: SandboxName = DEFAULT_NAME
    mode: Mode
    image: Profile | None = None
    network: Profile | None = None
    wall_seconds: Annotated[float, msgspec.Meta(gt=0, le=limits.SANDBOX_SECONDS_MAX)]
    caps: Caps = Caps()
    stdio: int = 0


class Ran(_Message, frozen=True, kw_only=True):
    """Result of `run`: how a sandbox ended. A command that fails is a result.

    Exactly one of `exit_code` and `signal` is set. `peak_memory_bytes` is None where nothing
    measures it.
    """

    sandbox_id: str
    mode: Mode
    exit_code: int | None = None
    signal: int | None = None
    timed_out: bool = False
    oom_killed: bool = False
    wall_ms: int = 0
    cpu_ms: int = 0
    peak_memory_bytes: int | None = None


class Named(_Message, frozen=True, kw_only=True):
    """Parameters of `kill` and `terminal.close`: a sandbox of the caller's tenant."""

    sandbox_id: str


class Running(_Message, frozen=True, kw_only=True):
    """One sandbox that runs. `generation` is the worker's that asked for it."""

    sandbox_id: str
    kind: Kind
    name: str
    mode: Mode
    argv: tuple[str, ...]
    started_at_ms: int
    generation: int
    caps: Caps


class Sandboxes(_Message, frozen=True, kw_only=True):
    """Result of `list`: the tenant's sandboxes, and how many runs wait."""

    running: tuple[Running, ...] = ()
    queued: int = 0


class Engine(_Message, frozen=True, kw_only=True):
    """Whether a mode can be had now, and why not."""

    mode: Mode
    usable: bool
    detail: str


class Engines(_Message, frozen=True, kw_only=True):
    """Result of `status`: what the launcher has, and what it allows the tenant."""

    engines: tuple[Engine, ...]
    ceilings: Ceilings
    cgroups: bool


TerminalEnd = Literal["exit", "closed", "idle", "tenant"]
"""Why a terminal ended: its program did by itself, it was closed, nobody used it for too long, or
its tenant is out of service."""


class Ended(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """How a terminal ended. Exactly one of `exit_code` and `signal` is set."""

    exit_code: int | None = None
    signal: int | None = None
    reason: TerminalEnd


class OpenTerminal(_Message, frozen=True, kw_only=True):
    """Parameters of `terminal.open`; gives `Terminal`.

    `spec.wall_seconds` and `spec.stdio` say nothing here: a terminal ends when it is idle.
    """

    spec: Spec
    columns: Columns = 80
    rows: Rows = 24


class Terminal(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """A terminal. Bytes of its output are numbered from 0 from its start.

    Of those from `from_byte` on, up to before `next_byte`, `attach` gives what is there. `attached`
    is how many watch it. One that has `ended` is kept for a little while, for those who have not
    heard so.
    """

    sandbox_id: str
    mode: Mode
    name: str
    columns: int
    rows: int
    started_at_ms: int
    active_at_ms: int
    from_byte: int = 0
    next_byte: int = 0
    attached: int = 0
    ended: Ended | None = None


class Terminals(_Message, frozen=True, kw_only=True):
    """Result of `terminal.list`: the tenant's, oldest first."""

    terminals: tuple[Terminal, ...] = ()


class Attach(_Message, frozen=True, kw_only=True):
    """Parameters of `terminal.attach`, a stream that ends with `Ended`.

    Its first chunk is the `Terminal`, as JSON; each other one is `terminal_chunk`. What is kept of
    the output from byte `from_byte` on comes first (all that is kept, if it is None), then what
    comes. A number that is not the one expected shows what is lost.
    """

    sandbox_id: str
    from_byte: Annotated[int, msgspec.Meta(ge=0, le=limits.JSON_INTEGER_ABS_MAX)] | None = None


class Write(_Message, frozen=True, kw_only=True):
    """Parameters of `terminal.write`; gives `Written`.

    A `writer` numbers its bytes from 0, and `data` begins with number `at`: what the terminal has
    had from it already is not written again.
    """

    sandbox_id: str
    data: Annotated[bytes, msgspec.Meta(max_length=limits.TERMINAL_WRITE_BYTES_MAX)]
    writer: Annotated[str, msgspec.Meta(max_length=limits.TERMINAL_WRITER_CHARS_MAX)] = ""
    at: Annotated[int, msgspec.Meta(ge=0, le=limits.JSON_INTEGER_ABS_MAX)] = 0


class Written(_Message, frozen=True, kw_only=True):
    """How many of the bytes the terminal has now; fewer than all if its program does not read."""

    count: int


class Resize(_Message, frozen=True, kw_only=True):
    """Parameters of `terminal.resize`."""

    sandbox_id: str
    columns: Columns
    rows: Rows


class TenantEnd(_Message, frozen=True, kw_only=True):
    """Parameters of `tenant.end`, asked of the launcher by the supervisor.

    A tenant is out of service: nothing of it runs in the launcher any more when it is answered.
    """

    tenant: str


class TerminalEvent(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """Body of the event `terminal.event`, sent by the launcher: for the audit.

    `program` is printable ASCII. `lost` is how many before it were not told of, since they were too
    many.
    """

    tenant: str
    sandbox_id: str
    mode: Mode
    name: str
    program: str
    ended: Ended | None = None
    lost: int = 0


_NUMBER: Final = 8


def terminal_chunk(number: int, data: bytes) -> bytes:
    """Give a chunk of a terminal's output: its first byte's number (u64, little), and the bytes."""
    return number.to_bytes(_NUMBER, "little") + data


def read_terminal_chunk(chunk: bytes) -> tuple[int, bytes]:
    """Give number and bytes of a `terminal_chunk`.

    Raises:
        RemoteProtocolError: it is none.
    """
    if len(chunk) <= _NUMBER:
        reason = "a chunk of a terminal without output"
        raise RemoteProtocolError(reason)
    return int.from_bytes(chunk[:_NUMBER], "little"), chunk[_NUMBER:]


def default_image(images: Collection[str]) -> str | None:
    """Give the image for whoever asks for none; None if there is none at all."""
    return DEFAULT_IMAGE if DEFAULT_IMAGE in images else min(images, default=None)
