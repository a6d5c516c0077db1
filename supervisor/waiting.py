"""Those who wait until a tenant is served."""

import asyncio
from typing import Final

from protocol.errors import GatewayError


class Waiting:
    """Calls that wait for one and the same thing, and are answered together."""

    def __init__(self) -> None:
        self._futures: Final[list[asyncio.Future[None]]] = []

    async def wait(self) -> None:
        """Wait until it is there.

        Raises:
            GatewayError: it was refused.
        """
        served = asyncio.get_running_loop().create_future()
        self._futures.append(served)
        await served

    def answer(self, refusal: GatewayError | None = None) -> None:
        """Let all go on, or refuse them all."""
        for served in self._futures:
            if served.done():  # its caller was cancelled
                continue
            if refusal is None:
                served.set_result(None)
            else:
                served.set_exception(refusal)
        self._futures.clear()
