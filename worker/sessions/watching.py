"""How a call follows a turn: with its text as a stream if the caller asked for one."""

import asyncio
from contextlib import suppress
from typing import Final

from worker.dispatch import CallContext
from worker.sessions.feed import DeltaPump, Feed, TurnResult

# How long the rest of a stream waits for a slow reader; the result says everything again.
LAST_DELTAS_SECONDS: Final = 10.0


async def follow(call: CallContext, run_id: str, session_key: str) -> TurnResult:
    """Wait for a turn's end, sending its text meanwhile. Bound the wait outside.

    Gives a result whose state is `queued` or `running` when the turn is left to another
    generation of the worker.

    Raises:
        GatewayError: the storage refused.
    """
    feed = call.services.turns.feeds.observe(run_id)
    if not isinstance(feed, Feed):
        return feed
    if call.stream is None:
        return await feed.wait()
    with DeltaPump(feed, call.stream, run_id, session_key) as pump:
        result = await feed.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_DELTAS_SECONDS):
                await pump.all_sent()
    return result
