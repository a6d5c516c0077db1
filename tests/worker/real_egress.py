"""An egress in this process, with a ledger of its own, that workers are made known to."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from protocol import descriptors, egress
from protocol.quotas import Quota
from supervisor.egress.keys import OwnKeys
from supervisor.egress.ledger_till import LedgerTill, open_till, unix_ms
from supervisor.egress.outward import Outward
from supervisor.egress.service import Egress
from supervisor.front.log import Log


class RunningEgress:
    """What the supervisor does for an egress."""

    def __init__(self, channel: socket.socket, till: LedgerTill, keys: OwnKeys) -> None:
        self._channel = channel
        self.till = till
        self.keys = keys

    def meet(self, worker: socket.socket, tenant: str) -> None:
        """Have a worker know it, over our end of the worker's descriptor channel."""
        mine, theirs = socket.socketpair()
        with mine, theirs:
            place = egress.Place(tenant=tenant, generation=1, quota=Quota())
            descriptors.send(self._channel, msgspec.msgpack.encode(place), [mine.fileno()])
            descriptors.send(worker, egress.EGRESS, [theirs.fileno()])


@asynccontextmanager
async def running_egress(
    directory: Path, now_ms: Callable[[], int] = unix_ms, **settings: Any
) -> AsyncIterator[RunningEgress]:
    """Start one whose ledger and keys are in `directory`."""
    decided = egress.Settings(ledger_directory=str(directory), **settings)
    till = await open_till(decided, lambda _standing: None, now_ms)
    keys, outward = OwnKeys(directory), Outward()
    ours, theirs = descriptors.pair()
    theirs.setblocking(False)
    running = Egress(decided, theirs, till, outward, keys, Log())
    try:
        with ours:
            yield RunningEgress(ours, till, keys)
    finally:
        running.close()
        await outward.close()
        till.close()
