"""Egress's way from exec to exit.

Started as `python -m supervisor.egress <link> <channel>`: the descriptors of its end of the data
link to the supervisor and of its end of the descriptor channel, whose first message comes with the
`Settings`. It ends with 0 when the link to the supervisor ends, and with 3 when it has no ledger.
"""

import asyncio
import gc
import socket
from pathlib import Path
from typing import Final

import uvloop

from protocol import aio
from protocol.egress import Settings
from protocol.quotas import Standing
from supervisor.answering import SupervisorLink
from supervisor.egress.keys import KeysError, OwnKeys
from supervisor.egress.ledger import LedgerError
from supervisor.egress.ledger_till import open_till
from supervisor.egress.outward import Outward
from supervisor.egress.service import FROM_SUPERVISOR, Egress
from supervisor.front.log import Log

RETRY_SECONDS: Final = 3.0
"""How long it waits before it makes room for one that tries the ledger again."""
EXIT_NO_LEDGER: Final = 3


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
    handler, outward = SupervisorLink("egress", log), Outward()
    egress: Egress | None = None

    def tell_standing(standing: Standing) -> None:
        if egress is not None:  # before it is there, the supervisor will ask
            egress.tell("quota.standing", standing)

    try:
        # First: nobody is let in before it is known what was spent.
        till = await open_till(settings, tell_standing)
        own_keys = OwnKeys(Path(settings.ledger_directory))
    except (LedgerError, KeysError) as error:
        log.warning("no ledger", error=str(error))
        await asyncio.sleep(RETRY_SECONDS)
        return EXIT_NO_LEDGER
    if till.left.calls:
        log.warning("calls were under way when the one before ended", **till.left._asdict())
    # Then: what it has to know comes at once.
    handler.owner = egress = Egress(settings, channel, till, outward, own_keys, log)
    egress.supervisor = await aio.attach(link, FROM_SUPERVISOR, handler)
    log.info("start")
    looking = asyncio.create_task(till.keep_looking())
    await handler.closed.wait()
    looking.cancel()
    egress.close()
    await outward.close()
    till.close()
    return 0
