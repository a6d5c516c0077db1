"""The link between a tenant's present worker and the present front."""

import asyncio
from math import inf
from typing import Final

from protocol import limits
from protocol.errors import GatewayError, LinkClosedError
from protocol.spawn import WorkerLink
from supervisor.front_process import FrontProcess
from supervisor.logs import Log
from supervisor.surroundings import Surroundings
from supervisor.worker_process import WorkerProcess


class FrontLink:
    """Knows whether the front has a link, and when it is to be handed another.

    Args:
        tenant: Whose.
        around: Where the present front is.
        log: For a front that does not do as it is told.
    """

    def __init__(self, tenant: str, around: Surroundings, log: Log) -> None:
        self._tenant: Final = tenant
        self._around: Final = around
        self._log: Final = log
        self._front: FrontProcess | None = None
        self._lost_until: float | None = None

    @property
    def due_at(self) -> float | None:
        """When the present front is to be handed a link; None while it has one, or is not there."""
        if self._around.front is None:
            return None
        return self._lost_until if self._front is self._around.front else -inf

    def give(self, process: WorkerProcess) -> None:
        """Hand the present front a link to a process; one that is still to come gets it later.

        Raises:
            OSError: the worker is gone, or takes none any more.
        """
        self._front, self._lost_until = self._around.front, None
        if self._front is None:
            return
        with process.new_front_link() as sock:
            link = WorkerLink(tenant=self._tenant, generation=process.spec.generation)
            self._front.give_link(link, sock)

    def lost(self) -> None:
        """Take note that the link has ended: mostly its worker has, so another one can wait."""
        now = asyncio.get_running_loop().time()
        self._lost_until = now + limits.ABORT_GRACE_SECONDS

    async def detach(self, process: WorkerProcess) -> None:
        """Have the front send nothing new to a process."""
        front = self._around.front
        if front is not None:
            try:
                await front.detach(self._tenant, process.spec.generation)
            except (LinkClosedError, GatewayError, TimeoutError) as error:
                self._log.warning("front was not detached", error=str(error))
