"""A model asked through egress, for a caller who wants the answer whole or as it comes."""

import asyncio
from typing import Final

import msgspec

from protocol import frames, limits
from protocol.aio import Reply, failure_error
from protocol.models import ModelAnswer, ModelRequest
from worker.dispatch import CallContext
from worker.openai.outlet import Outlet, Writer

METHOD: Final = "model"
_decode: Final = msgspec.json.Decoder(ModelAnswer).decode


async def ask(call: CallContext, request: ModelRequest, writer: Writer | None) -> ModelAnswer:
    """Give the answer; what is streamed has gone before.

    Who cancels closes the connection to the provider at once.

    Args:
        call: On whose behalf.
        request: What is asked.
        writer: How a stream is written; None: nothing is streamed.

    Raises:
        GatewayError: egress or the provider refused, or the answer broke off.
    """
    egress = call.services.egress
    if writer is None or call.stream is None:
        if request.stream:
            request = msgspec.structs.replace(request, stream=False)
        return _decode(await egress.call(METHOD, request))
    ended: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    outlet = Outlet(call.stream, writer)

    def on_reply(reply: Reply) -> None:
        if isinstance(reply, frames.Chunk):
            outlet.take(reply.data)
        elif not ended.done():
            ended.set_result(reply)

    asked = await egress.stream(METHOD, request, on_reply, limits.STREAM_CREDIT_INITIAL)
    outlet.on_taken(asked.grant)
    try:
        reply = await ended
    except asyncio.CancelledError:
        asked.cancel()
        raise
    if not isinstance(reply, frames.Result | frames.End):
        error = egress.unavailable()
        if isinstance(reply, frames.Failure):
            error = failure_error(reply)
        await outlet.fail(error)
        raise error
    answer = _decode(reply.body)
    await outlet.finish(answer)
    return answer
