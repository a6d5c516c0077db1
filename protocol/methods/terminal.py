"""`terminal.*`: a program with a terminal of its own, in a sandbox.

A terminal is the tenant's: it goes on when its client, or the tenant's worker, is another.
"""

from typing import Annotated, Final, Literal

import msgspec

from protocol import limits
from protocol.launching import (
    DEFAULT_NAME,
    WORK,
    Argument,
    Columns,
    Mode,
    Profile,
    Rows,
    SandboxName,
    TerminalEnd,
)
from protocol.methods.registry import Params, Result, Scope, declare

TerminalId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Position = Annotated[int, msgspec.Meta(ge=0, le=limits.JSON_INTEGER_ABS_MAX)]
Argv = Annotated[
    list[Argument], msgspec.Meta(min_length=1, max_length=limits.SANDBOX_ARGUMENTS_MAX)
]
COLUMNS_DEFAULT: Final = 80
ROWS_DEFAULT: Final = 24


class SpawnParams(Params, frozen=True, kw_only=True):
    """`cmd` is a line for a shell, or what runs as it is; without it, a shell.

    `sandbox` is a mode and `network` a profile that the tenant may choose, `name` the directory
    that is at /work.
    """

    cmd: Argument | Argv | None = None
    cwd: Annotated[str, msgspec.Meta(max_length=limits.SANDBOX_PATH_BYTES_MAX)] = WORK
    env: Annotated[dict[str, Argument], msgspec.Meta(max_length=limits.SANDBOX_VARIABLES_MAX)] = (
        msgspec.field(default_factory=dict)
    )
    cols: Columns = COLUMNS_DEFAULT
    rows: Rows = ROWS_DEFAULT
    name: SandboxName = DEFAULT_NAME
    sandbox: Mode | None = None
    network: Profile | None = None


class SpawnResult(Result, frozen=True, kw_only=True):
    """The new terminal; `id` is `terminalId` again."""

    terminal_id: str
    id: str
    cols: int
    rows: int
    mode: Mode
    name: str


SPAWN: Final = declare(
    "terminal.spawn",
    params=SpawnParams,
    result=SpawnResult,
    scope=Scope.WRITE,
    doc="Start a program with a terminal in a sandbox.",
)


class WriteParams(Params, frozen=True, kw_only=True):
    """What is typed: `data` is text, `dataBase64` bytes; one of them.

    A `writer` numbers its bytes from 0, and these begin with number `at`: what the terminal has had
    of them already, in a call whose answer was lost, is not written again.
    """

    terminal_id: TerminalId
    data: Annotated[str, msgspec.Meta(max_length=limits.TERMINAL_WRITE_BYTES_MAX)] | None = None
    data_base64: (
        Annotated[bytes, msgspec.Meta(max_length=limits.TERMINAL_WRITE_BYTES_MAX)] | None
    ) = None
    writer: Annotated[str, msgspec.Meta(max_length=limits.TERMINAL_WRITER_CHARS_MAX)] = ""
    at: Position = 0


class WriteResult(Result, frozen=True, kw_only=True):
    """How many of the bytes it has; fewer than all if its program does not read: send the rest."""

    written: int


WRITE: Final = declare(
    "terminal.write",
    params=WriteParams,
    result=WriteResult,
    scope=Scope.WRITE,
    doc="Type into a terminal.",
)


class ResizeParams(Params, frozen=True, kw_only=True):
    """The new size, in characters."""

    terminal_id: TerminalId
    cols: Columns
    rows: Rows


class ResizeResult(Result, frozen=True, kw_only=True):
    """The size it has now."""

    cols: int
    rows: int


RESIZE: Final = declare(
    "terminal.resize",
    params=ResizeParams,
    result=ResizeResult,
    scope=Scope.WRITE,
    idempotent=True,
    doc="Give a terminal another size, and tell its program.",
)


class TerminalParams(Params, frozen=True, kw_only=True):
    """Which."""

    terminal_id: TerminalId


class CloseResult(Result, frozen=True, kw_only=True):
    """Its program, and all that runs with it, is being ended, or had ended before."""

    closed: Literal[True]


CLOSE: Final = declare(
    "terminal.close",
    params=TerminalParams,
    result=CloseResult,
    scope=Scope.WRITE,
    idempotent=True,
    doc="End a terminal and all that runs in it.",
)


class Ended(Result, frozen=True, kw_only=True):
    """How a program ended: by itself with an exit code, or by a signal; and why."""

    exit_code: int | None = None
    signal: int | None = None
    reason: TerminalEnd


class TerminalView(Result, frozen=True, kw_only=True):
    """A terminal. Times are Unix ms; `attached` is how many watch it.

    Bytes of output are numbered from 0; those from `fromByte` on, up to before `nextByte`, are
    kept. One that has `ended` is kept for a minute.
    """

    terminal_id: str
    mode: Mode
    name: str
    cols: int
    rows: int
    created_at: int
    last_activity_at: int
    from_byte: int
    next_byte: int
    attached: int
    ended: Ended | None = None


class ListParams(Params, frozen=True, kw_only=True):
    """Nothing."""


class ListResult(Result, frozen=True, kw_only=True):
    """The tenant's terminals, oldest first."""

    terminals: list[TerminalView]


LIST: Final = declare(
    "terminal.list",
    params=ListParams,
    result=ListResult,
    scope=Scope.READ,
    idempotent=True,
    doc="List the tenant's terminals.",
)


class AttachParams(Params, frozen=True, kw_only=True):
    """Output from byte `fromByte` on, or all that is kept; as text, or `base64` for bytes.

    A caller that takes no stream gets what there is, and waits up to `waitMs` for it.
    """

    terminal_id: TerminalId
    from_byte: Position | None = None
    encoding: Literal["text", "base64"] = "text"
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=limits.EVENTS_WAIT_MS_MAX)] = 0


class Attached(Result, tag="attached", tag_field="type", frozen=True, kw_only=True):
    """The first piece: what it is, and the number of the byte that comes first."""

    terminal_id: str
    from_byte: int
    cols: int
    rows: int
    mode: Mode
    name: str


class Output(Result, tag="output", tag_field="type", frozen=True, kw_only=True):
    """A piece of output, and the number of its first byte.

    A number that is not the one expected shows what was lost. Text has no character in halves; what
    is not UTF-8 is U+FFFD in it.
    """

    from_byte: int
    data: str | None = None
    data_base64: bytes | None = None


Piece = Attached | Output


class AttachResult(Result, frozen=True, kw_only=True):
    """Where to go on; and how the terminal ended, if it did.

    An answer without `ended` is gone on with by another call from `nextByte` on. `fromByte` and the
    data are for a caller that takes no stream.
    """

    terminal_id: str
    next_byte: int
    ended: Ended | None = None
    from_byte: int | None = None
    data: str | None = None
    data_base64: bytes | None = None


ATTACH: Final = declare(
    "terminal.attach",
    params=AttachParams,
    result=AttachResult,
    scope=Scope.READ,
    idempotent=True,
    streams="terminal",
    timeout_seconds=limits.CALL_SECONDS_MAX,
    doc="Give a terminal's output as it comes, what was kept of it first.",
)
