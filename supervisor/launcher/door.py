"""The door of one sandbox: from the socket it is handed out on to the listener that egress has."""

import asyncio
import contextlib
from typing import Final, Self

from protocol import descriptors
from protocol.egress import Listener
from protocol.errors import ErrorCode, GatewayError
from supervisor.launcher.engine import Job, Outcome, Wrapped
from supervisor.launcher.outlets import Outlets
from supervisor.launcher.readable import readable

OPEN_SECONDS: Final = 10.0


class Door:
    """See the module. A context: at its end what is not in use any more is closed.

    Args:
        listener: Whose it is.
        outlets: Where it is made known.
    """

    def __init__(self, listener: Listener, outlets: Outlets) -> None:
        self._listener: Final = listener
        self._outlets: Final = outlets
        self._ours, self._theirs = descriptors.pair()

    def __enter__(self) -> Self:
        """Nothing is done yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close what it is handed out on."""
        self._ours.close()
        self._theirs.close()

    @property
    def theirs(self) -> int:
        """What the sandbox gets."""
        return self._theirs.fileno()

    async def opened(self, job: Job) -> Job:
        """Wait for the listener and make it known; gives the job that closes it at its end.

        Raises:
            GatewayError: UNAVAILABLE: the sandbox has ended, or cannot have a network.
        """
        self._theirs.close()
        self._ours.setblocking(False)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await readable(self._ours.fileno())
            _, (descriptor,) = descriptors.receive(self._ours, 1)
        except BaseException as error:
            job.kill()
            with contextlib.suppress(GatewayError):
                await job.wait()
            job.close()
            if isinstance(error, (EOFError, OSError, TimeoutError, ValueError)):
                message = "no network namespace can be made here for a sandbox"
                raise GatewayError(ErrorCode.UNAVAILABLE, message, field="network") from error
            raise
        held = contextlib.ExitStack()
        held.enter_context(self._outlets.opened(self._listener, descriptor))
        return _Networked(job, held)


class _Networked(Wrapped):
    """A job whose door is closed at its end; see `Job`."""

    def __init__(self, job: Job, held: contextlib.ExitStack) -> None:
        super().__init__(job)
        self._held: Final = held

    async def wait(self) -> Outcome:
        """See `Job`."""
        try:
            return await super().wait()
        finally:
            self._held.close()

    def close(self) -> None:
        """See `Job`."""
        self._held.close()
        super().close()
