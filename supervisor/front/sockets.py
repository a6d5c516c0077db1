"""All WebSockets of one front, by the token that opened each."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from websockets.frames import CloseCode

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from supervisor.front.auth import Grant
from supervisor.front.tenants import RETRY_MS, Tenant, unavailable

LOOK_SECONDS: Final = 1.0


class Socket(Protocol):
    """One WebSocket, as the table sees it."""

    @property
    def grant(self) -> Grant:
        """By which token it was opened."""

    @property
    def address(self) -> str:
        """Of its peer."""

    def tick(self, now: float) -> None:
        """Act on the deadlines that have passed."""

    def drain(self) -> None:
        """Close the connection, now if nothing is asked, else with the last answer."""

    def close(self, code: CloseCode, reason: str, *, cut: bool = False) -> None:
        """Close the connection."""

    def revoke(self, error: GatewayError) -> None:
        """Its token is good no more: hear nothing, and close with the last answer that is due."""

    def abort(self) -> None:
        """Close the connection and lose what has not been sent."""


class Sockets:
    """See the module.

    Args:
        most: How many there may be.
        on_left: Told when one has left, and from where it had come.
    """

    def __init__(self, most: int, on_left: Callable[[str], None]) -> None:
        self._on_left: Final = on_left
        self._most: Final = most
        self._all: dict[Socket, None] = {}
        self._ending: dict[Socket, None] = {}
        self._by_digest: dict[bytes, set[Socket]] = {}
        self._counts: dict[Tenant, int] = {}
        self._next_look = 0.0

    def __len__(self) -> int:
        """How many there are, those that end included."""
        return len(self._all)

    def __iter__(self) -> Iterator[Socket]:
        """Those there are now."""
        return iter(list(self._all))

    def check_room(self, tenant: Tenant) -> None:
        """Refuse one more than there may be.

        Raises:
            GatewayError: RATE_LIMITED when the tenant, UNAVAILABLE when the front has too many.
        """
        if self._counts.get(tenant, 0) >= limits.SOCKETS_PER_TENANT_MAX:
            msg = f"a tenant has at most {limits.SOCKETS_PER_TENANT_MAX} WebSockets"
            raise GatewayError(ErrorCode.RATE_LIMITED, msg, retryAfterMs=RETRY_MS)
        if len(self._all) >= self._most:
            raise unavailable("the gateway has too many WebSockets")

    def enter(self, socket: Socket) -> None:
        """Take one in."""
        grant = socket.grant
        self._all[socket] = None
        self._by_digest.setdefault(grant.digest, set()).add(socket)
        self._counts[grant.tenant] = self._counts.get(grant.tenant, 0) + 1

    def end(self, socket: Socket) -> None:
        """One is about to end: it is looked at sooner than others."""
        self._ending[socket] = None

    def leave(self, socket: Socket) -> None:
        """Forget one that is closed."""
        if socket not in self._all:
            return
        del self._all[socket]
        self._ending.pop(socket, None)
        grant = socket.grant
        same = self._by_digest[grant.digest]
        same.discard(socket)
        if not same:
            del self._by_digest[grant.digest]
        left = self._counts[grant.tenant] - 1
        if left:
            self._counts[grant.tenant] = left
        else:
            del self._counts[grant.tenant]
        self._on_left(socket.address)

    def revoke(self, digests: Iterable[bytes], error: GatewayError) -> None:
        """Close all that these tokens opened; from now on they are not heard."""
        for digest in digests:
            for socket in list(self._by_digest.get(digest, ())):
                socket.revoke(error)

    def due(self, now: float) -> Iterable[Socket]:
        """Give those whose deadlines are to be looked at: all of them about once a second."""
        if now < self._next_look:
            return self._ending
        self._next_look = now + LOOK_SECONDS
        return self._all
