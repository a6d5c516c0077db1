"""Failed authentications are slowed, per address and per claimed tenant.

Only failures come here, so a valid token is neither refused nor slowed, whatever others do.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from protocol import limits
from supervisor.front.addresses import network_of

_FIRST_DELAY_SECONDS: Final = 0.1
_DOUBLINGS_MAX: Final = 16


class Throttle:
    """Counts failures in windows and says how late each one is to be answered.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock: Final = clock
        # Two tables: thousands of invented tenants cannot push the guesser's own address out.
        self._addresses: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._tenants: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._waiting = 0

    def failed(self, address: str, tenant: str | None) -> float:
        """Note a failure; gives the seconds after which it is to be answered.

        Args:
            address: Where it came from.
            tenant: Whom the credential claims to be for, if it says so.
        """
        now = self._clock()
        count = self._count(self._addresses, network_of(address), now)
        if tenant is not None:
            count = max(count, self._count(self._tenants, tenant, now))
        over = count - limits.AUTH_FAILURES_FREE
        if over <= 0:
            return 0.0
        delay: float = _FIRST_DELAY_SECONDS * 2 ** min(over - 1, _DOUBLINGS_MAX)
        return min(delay, limits.AUTH_FAILURE_DELAY_SECONDS_MAX)

    def begin_wait(self) -> bool:
        """Take one of the places of those who wait; False when there is none.

        Who finds none is answered at once, and loses the connection.
        """
        if self._waiting >= limits.AUTH_FAILURES_WAITING_MAX:
            return False
        self._waiting += 1
        return True

    def end_wait(self) -> None:
        """Give the place back."""
        self._waiting -= 1

    @staticmethod
    def _count(table: OrderedDict[str, tuple[float, int]], key: str, now: float) -> int:
        started, count = table.get(key, (now, 0))
        if now - started > limits.AUTH_FAILURE_WINDOW_SECONDS:
            started, count = now, 0
        table[key] = (started, count + 1)
        table.move_to_end(key)
        if len(table) > limits.AUTH_FAILURE_KEYS_MAX:
            table.popitem(last=False)
        return count + 1
