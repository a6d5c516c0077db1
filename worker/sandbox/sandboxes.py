"""What is run in a tenant's sandboxes: for a call, and for a tool of its agents."""

import base64
import binascii
from typing import Final

from protocol import launching, limits
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import sandbox
from worker.config.overlay import OverlayFile
from worker.sandbox import choice, runs
from worker.sandbox.choice import Asked, Choice
from worker.sandbox.link import LauncherLink
from worker.sandbox.output import Kept, Live
from worker.sessions.feed import Stream


class Sandboxes:
    """See the module.

    Args:
        launcher: Who starts them.
        overlay: The tenant's configuration.
    """

    def __init__(self, launcher: LauncherLink, overlay: OverlayFile) -> None:
        self._launcher: Final = launcher
        self._overlay: Final = overlay

    async def choose(self, asked: Asked) -> Choice:
        """Give the sandbox that a call gets, and who said what of it.

        Raises:
            GatewayError: as `choice.choose`; or no launcher is there, or the configuration cannot
                be used.
        """
        return choice.choose(self._launcher.ceilings, await self._overlay.usable(), asked)

    async def run(
        self, params: sandbox.RunParams, *, tool: str | None = None, stream: Stream | None = None
    ) -> sandbox.RunResult:
        """Run a program to its end; at a cancellation it is ended.

        Args:
            params: What is run.
            tool: Which tool asks.
            stream: Where output goes as it comes, instead of into the result.

        Raises:
            GatewayError: nothing was run, with the reason; or how it ended cannot be known.
        """
        stdin = _stdin(params)
        chosen = await self.choose(Asked.of(params, tool))
        spec = launching.Spec(
            argv=params.argv,
            env=params.env,
            cwd=params.cwd,
            name=params.name,
            mode=chosen.mode.value,
            image=chosen.image.value,
            network=chosen.network.value,
            wall_seconds=chosen.wall_seconds.value,
            caps=chosen.caps,
        )
        stdout, stderr = Kept(), Kept()
        if stream is None:
            finished = await runs.run(self._launcher, spec, stdin, (stdout, stderr))
        else:
            live = Live("stdout", stream), Live("stderr", stream)
            finished = await runs.run(self._launcher, spec, stdin, live, stream)
        truncated = stdout.truncated or stderr.truncated or not finished.whole
        return _result(finished.ran, (stdout, stderr), truncated=truncated)


def _result(ran: launching.Ran, output: tuple[Kept, Kept], *, truncated: bool) -> sandbox.RunResult:
    (stdout, stdout_encoding), (stderr, stderr_encoding) = (kept.encoded() for kept in output)
    return sandbox.RunResult(
        exit_code=ran.exit_code,
        signal=ran.signal,
        stdout=stdout,
        stderr=stderr,
        stdout_encoding=stdout_encoding,
        stderr_encoding=stderr_encoding,
        truncated=truncated,
        timed_out=ran.timed_out,
        oom_killed=ran.oom_killed,
        wall_ms=ran.wall_ms,
        cpu_ms=ran.cpu_ms,
        peak_memory_bytes=ran.peak_memory_bytes,
        mode=ran.mode,
        sandbox_id=ran.sandbox_id,
    )


def _stdin(params: sandbox.RunParams) -> bytes:
    try:
        text = params.stdin.encode()
        data = base64.b64decode(text, validate=True) if params.stdin_encoding == "base64" else text
    except binascii.Error as error:
        raise GatewayError(
            ErrorCode.INVALID_REQUEST, f"stdin: no base64: {error}", field="stdin"
        ) from error
    if len(data) > limits.SANDBOX_INPUT_BYTES_MAX:
        message = (
            f"stdin: {len(data)} bytes, more than {limits.SANDBOX_INPUT_BYTES_MAX}; use a file"
        )
        raise GatewayError(ErrorCode.PAYLOAD_TOO_LARGE, message, field="stdin")
    return data
