"""The handler of `sandbox.run`."""

from protocol.methods import sandbox
from worker.dispatch import CallContext, handles


@handles(sandbox.RUN)
async def run(call: CallContext, params: sandbox.RunParams) -> sandbox.RunResult:
    """Run a program, with its output as a stream if that was asked for."""
    stream = call.stream if params.stream else None
    return await call.services.sandboxes.run(params, stream=stream)
