"""The handler of `sandbox.run`."""

import base64
import binascii

from protocol import launching, limits
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import sandbox
from worker.dispatch import CallContext, handles
from worker.sandbox import choice, runs
from worker.sandbox.output import Kept, Live


@handles(sandbox.RUN)
async def run(call: CallContext, params: sandbox.RunParams) -> sandbox.RunResult:
    """Run a program, with its output as a stream if that was asked for."""
    link = call.services.launcher
    stdin = _stdin(params)
    spec = launching.Spec(
        argv=params.argv,
        env=params.env,
        cwd=params.cwd,
        name=params.name,
        mode=choice.mode(link.ceilings, params.sandbox),
        image=params.image,
        wall_seconds=params.timeout_ms / 1000,
        caps=launching.Caps(
            memory_bytes=params.limits.memory_bytes,
            cpus=params.limits.cpus,
            pids=params.limits.pids,
        ),
    )
    stdout, stderr = Kept(), Kept()
    if params.stream and call.stream is not None:
        live = Live("stdout", call.stream), Live("stderr", call.stream)
        finished = await runs.run(link, spec, stdin, live, call.stream)
    else:
        finished = await runs.run(link, spec, stdin, (stdout, stderr))
    ran = finished.ran
    texts = stdout.encoded(), stderr.encoded()
    return sandbox.RunResult(
        exit_code=ran.exit_code,
        signal=ran.signal,
        stdout=texts[0][0],
        stderr=texts[1][0],
        stdout_encoding=texts[0][1],
        stderr_encoding=texts[1][1],
        truncated=stdout.truncated or stderr.truncated or not finished.whole,
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
