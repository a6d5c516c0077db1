"""Big reads in turns: what one tenant sends does not keep the front from what others ask.

uv reads a socket until it is empty, for up to 32 reads, before it looks at the next one. So who has
sent much at once is not read from until it is its turn again: in each turn of the event loop one
connection each of a few tenants that send much, while all those that send little are served.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from protocol import limits


class Turns:
    """Those who wait to be read from, by who pays for them."""

    def __init__(self) -> None:
        # In the order of their turns.
        self._waiting: Final[dict[object, deque[Callable[[], None]]]] = {}

    def wait(self, payer: object, go_on: Callable[[], None]) -> None:
        """Have `go_on` called when it is the turn of this one of the payer's."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)
        self._waiting.setdefault(payer, deque()).append(go_on)

    def _turn(self) -> None:
        for payer in list(islice(self._waiting, limits.TURNS_AT_ONCE)):
            waiting = self._waiting.pop(payer)
            go_on = waiting.popleft()
            if waiting:
                self._waiting[payer] = waiting
            go_on()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)


class Reading:
    """Whether one connection is read from: when its owner wants to, and it is its turn.

    Attributes:
        wanted: Its owner wants to read.
    """

    __slots__ = ("_resting", "_transport", "_turns", "wanted")

    def __init__(self, transport: asyncio.Transport, turns: Turns) -> None:
        self._transport: Final = transport
        self._turns: Final = turns
        self.wanted = True
        self._resting = False

    def took(self, count: int, payer: object) -> None:
        """So many bytes have come at once; what is thrown away costs a read too.

        Args:
            count: How many.
            payer: On whose account; None for those who have not said who they are.
        """
        if count < limits.BIG_READ_BYTES or self._resting or self._transport.is_closing():
            return
        self._resting = True
        self._transport.pause_reading()
        self._turns.wait(payer, self._on_turn)

    def stop(self) -> None:
        """Read no more for now."""
        self.wanted = False
        self._transport.pause_reading()

    def go_on(self) -> None:
        """Read on."""
        self.wanted = True
        if not self._resting:
            self._transport.resume_reading()

    def hand_over(self) -> None:
        """Leave the transport, reading, to another."""
        self._resting = False
        self.go_on()

    def _on_turn(self) -> None:
        if self._resting:
            self._resting = False
            if self.wanted and not self._transport.is_closing():
                self._transport.resume_reading()
