"""Egress's way from exec to exit.

Started as `python -m supervisor.egress <link> <channel>`: the descriptors of its end of the data
link to the supervisor and of its end of the descriptor channel, whose first message comes with the
`Settings`. It ends with 0 when the link to the supervisor ends.
"""

import asyncio
import gc
import socket

import uvloop

from protocol import aio
from protocol.egress import Settings
from supervisor.egress.free_till import FreeTill
from supervisor.egress.outward import Outward
from supervisor.egress.service import FROM_SUPERVISOR, Egress, SupervisorLink
from supervisor.front.log import Log


def run(settings: Settings, link: socket.socket, channel: socket.socket) -> int:
    """Serve workers until the supervisor is gone; gives the exit code."""
    channel.setblocking(False)
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, link, channel))


async def _serve(settings: Settings, link: socket.socket, channel: socket.socket) -> int:
    log = Log()
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: log.broken("event loop", context.get("exception") or RuntimeError())
    )
    handler, outward = SupervisorLink(), Outward()
    # First: what it has to know comes at once.
    handler.egress = egress = Egress(settings, channel, FreeTill(), outward, log)
    egress.supervisor = await aio.attach(link, FROM_SUPERVISOR, handler)
    log.info("start")
    await handler.closed.wait()
    egress.close()
    await outward.close()
    return 0
