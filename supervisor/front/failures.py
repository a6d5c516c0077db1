"""Failed authentication: said in the log, counted, and answered the later the more there were."""

from collections.abc import Callable
from typing import Final

from protocol import names
from supervisor.front.addresses import Proxies
from supervisor.front.exchange import Asked, LateAnswer
from supervisor.front.log import Log
from supervisor.front.throttle import Throttle


class Failures:
    """See the module.

    Args:
        log: Where each is said, but for the secret.
        proxies: Gives whose word counts on who a client is.
    """

    def __init__(self, log: Log, proxies: Callable[[], Proxies]) -> None:
        self._log: Final = log
        self._proxies: Final = proxies
        self._throttle: Final = Throttle()

    def note(self, peer: str, asked: Asked) -> float:
        """Note one; gives the seconds after which it is to be answered.

        Args:
            peer: Address from which it came.
            asked: With the secret that was presented in vain, which is forgotten.
        """
        claimed = names.claimed_tenant(asked.secret)
        asked.secret = ""
        address = self._proxies().client(peer, asked.forwarded)
        delay = self._throttle.failed(address, claimed)
        self._log.warning(
            "authentication failed",
            address=address,
            tenant=claimed,
            prefix=names.token_prefix(claimed) if claimed else None,
            delay=delay,
        )
        return delay

    def late(self, say: Callable[[], None]) -> LateAnswer | None:
        """Give the wait for an answer; None when too many wait.

        Who finds no place is answered at once, and loses the connection.
        """
        if not self._throttle.begin_wait():
            return None
        return LateAnswer(say, self._throttle.end_wait)
