"""`sandbox.*`: programs that run apart from everything else of a tenant's, and what they leave."""

from typing import Annotated, Final, Literal

import msgspec

from protocol import limits
from protocol.launching import DEFAULT_NAME, WORK, Argument, Mode, Profile, SandboxName
from protocol.methods.registry import Params, Result, Scope, declare

Encoding = Literal["text", "base64"]
TimeoutMs = Annotated[int, msgspec.Meta(ge=1, le=round(limits.SANDBOX_CALL_SECONDS_MAX * 1000))]
Variables = Annotated[dict[str, Argument], msgspec.Meta(max_length=limits.SANDBOX_VARIABLES_MAX)]


class RunLimits(Params, frozen=True, kw_only=True):
    """What the sandbox may have at most; more than the operator allows is cut to that."""

    memory_bytes: Annotated[int, msgspec.Meta(ge=16 * limits.MIB, le=2**50)] | None = None
    cpus: Annotated[float, msgspec.Meta(ge=0.01, le=1024)] | None = None
    pids: Annotated[int, msgspec.Meta(ge=4, le=2**22)] | None = None


class RunParams(Params, frozen=True, kw_only=True):
    """A program, named by its path or found in PATH, and its arguments: no shell reads them.

    It starts in `cwd`, in /work or /tmp; /work is the directory `sandbox/<name>` of the tenant and
    stays. After `timeoutMs` it is ended; if nothing is said, after a minute. `sandbox` is how it is
    kept apart, `image` what it finds there under Docker, `network` which of the operator's profiles
    says what it can reach (through a proxy, which its environment names; `none` is nothing): what
    nobody names is as the tenant's configuration says, or the gateway's. With `stream`, a caller
    that takes chunks gets the output as it comes, and none in the result.
    """

    argv: Annotated[
        tuple[Argument, ...], msgspec.Meta(min_length=1, max_length=limits.SANDBOX_ARGUMENTS_MAX)
    ]
    stdin: Annotated[str, msgspec.Meta(max_length=2 * limits.SANDBOX_INPUT_BYTES_MAX)] = ""
    stdin_encoding: Encoding = "text"
    env: Variables = {}  # noqa: RUF012 - msgspec copies an empty one
    cwd: Annotated[str, msgspec.Meta(max_length=limits.SANDBOX_PATH_BYTES_MAX)] = WORK
    timeout_ms: TimeoutMs | None = None
    sandbox: Mode | None = None
    image: Profile | None = None
    network: Profile | None = None
    limits: RunLimits = RunLimits()
    name: SandboxName = DEFAULT_NAME
    stream: bool = False


class RunResult(Result, frozen=True, kw_only=True, omit_defaults=False):
    """How the program ended: `exitCode`, or the `signal` that ended it.

    Output that is no UTF-8 is base64, which its encoding says; `truncated` says that there was
    more. `peakMemoryBytes` is null where nothing measures it.
    """

    exit_code: int | None
    signal: int | None
    stdout: str
    stderr: str
    stdout_encoding: Encoding
    stderr_encoding: Encoding
    truncated: bool
    timed_out: bool
    oom_killed: bool
    wall_ms: int
    cpu_ms: int
    peak_memory_bytes: int | None
    mode: Mode
    sandbox_id: str


class Output(Result, frozen=True, kw_only=True):
    """A piece of output as it came: `text`, or `base64` for what is no UTF-8."""

    stream: Literal["stdout", "stderr"]
    text: str | None = None
    base64: str | None = None


RUN: Final = declare(
    "sandbox.run",
    params=RunParams,
    result=RunResult,
    scope=Scope.WRITE,
    streams="output",
    timeout_seconds=limits.CALL_SECONDS_MAX,
    doc="Run a program in a sandbox; one that fails is a result, not an error.",
)
