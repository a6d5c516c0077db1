"""What a route sees: a complete request, and the client that waits for its answer."""

import asyncio
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, Protocol

from protocol.errors import GatewayError
from protocol.meters import RouteName
from protocol.pieces import Pieces
from supervisor.front import origins, response
from supervisor.front.auth import Grant

_REFUSALS: Final = 400  # and what is above


class Asked:
    """What the head of a request asks for.

    Not changed once the head has been judged, and shared by the requests of one connection that ask
    for the same.

    `tokens_version` is that of the table in which `grant` was found; `secret` is what was presented
    in vain, or what another process has to judge. `origin` is that of a browser's page which may
    call, `forwarded` what the peer says of whom it calls for.
    """

    __slots__ = (
        "forwarded",
        "grant",
        "idempotency_key",
        "is_json",
        "old_version",
        "origin",
        "path",
        "query",
        "route",
        "secret",
        "session_key",
        "tokens_version",
        "upgrade",
        "verb",
        "wants_events",
    )

    def __init__(self, verb: str, target: str, *, old_version: bool) -> None:
        self.verb = verb
        self.path, _, self.query = target.partition("?")
        self.old_version = old_version
        self.route: Route | None = None
        self.grant: Grant | None = None
        self.tokens_version = 0
        self.secret = ""
        self.idempotency_key: str | None = None
        self.session_key: str | None = None
        self.is_json = False
        self.origin = b""
        self.forwarded = b""
        self.wants_events = False
        self.upgrade: Upgrade | None = None

    @property
    def counted_as(self) -> RouteName:
        """The name under which its answer is counted."""
        return "other" if self.route is None else self.route.name

    def refusal(self, error: GatewayError) -> bytes:
        """Give the body of a refusal."""
        return response.problem_body(error) if self.route is None else self.route.refusal(error)

    def content(self, status: int) -> response.Content:
        """Say what the body of an answer is."""
        route = self.route
        if status < _REFUSALS:
            return response.METRICS if route is not None and route.text else response.JSON
        problems = route is None or route.refusal is response.problem_body
        return response.PROBLEM if problems else response.JSON


class Upgrade(NamedTuple):
    """What a client that wants to speak WebSocket has said (RFC 6455, section 4.1).

    `protocols` are the subprotocols it offers, without the one that carries its token.
    """

    key: bytes
    version: bytes
    protocols: tuple[str, ...]


class Request:
    """One request, from its head to its turn.

    `reserved` is how many bytes of its tenant's allowance its body holds; whoever takes the body
    on takes the reservation over. A body over `RPC_SCANNED_BYTES_MAX` is in pieces. A request with
    a `refusal` gets that for an answer.
    """

    __slots__ = ("asked", "body", "headers", "keep_alive", "refusal", "reserved")

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.body: bytes | Pieces = b""
        self.headers = b""
        self.reserved = 0
        self.keep_alive = False
        self.refusal: GatewayError | None = None

    def refuse(self, error: GatewayError) -> None:
        """Have it answered with `error`."""
        # Its frames hold this request, and all that came with it.
        self.refusal = error.with_traceback(None)

    def header_lines(self) -> bytes:
        """Give what the head of its response says beside what the answer wants there."""
        lines = self.headers if self.keep_alive else self.headers + response.CLOSE
        origin = self.asked.origin
        return lines + origins.headers(origin) if origin else lines

    def release(self) -> None:
        """Give the reservation back."""
        if self.reserved and self.asked.grant is not None:
            self.asked.grant.tenant.release(self.reserved)
        self.reserved = 0


class Work(Protocol):
    """What a client waits for. Every method returns at once."""

    def abandon(self) -> None:
        """The client has gone away; it must not be spoken to any more."""

    def expire(self, error: GatewayError) -> None:
        """The time is over: refuse the client with `error`, now."""

    def revoke(self, error: GatewayError) -> None:
        """The client's credential is good no more: what streams or waits ends with `error`, now.

        What was begun in time and does something is answered.
        """

    def on_writable(self) -> None:
        """The client takes more of what is streamed to it."""


class Client(Protocol):
    """The client whose request is in turn. Nothing here raises, whatever state it is in."""

    @property
    def write_paused(self) -> bool:
        """Whether the client reads slower than we write."""

    def wait_for(self, work: Work, seconds: float) -> None:
        """Say what the client waits for now, and how long at most."""

    def answer(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """Send the whole response; the client's next request is in turn then."""

    def refuse(self, error: GatewayError) -> None:
        """Send a refusal in the form of the request's route."""

    def answer_unauthorized(self, body: bytes, headers: bytes) -> None:
        """Send a 401, later the more of them there were."""

    def add_headers(self, lines: bytes) -> bool:
        """Have the response say this too; False where there is no head that could."""

    def begin_events(self) -> None:
        """Send the head of a stream of events."""

    def send_event(self, name: bytes, data: bytes) -> None:
        """Send one event."""

    def end_events(self) -> None:
        """End the stream; the client's next request is in turn then."""


class Caller(Client, Protocol):
    """The client of a request that came by itself, on a connection that is its own."""

    def send_events(self, data: bytes) -> None:
        """Send part of a stream of events as it is; it must not be empty."""

    def switch(self, head: bytes, successor: "MakeSuccessor") -> None:
        """Answer with this head, and give the connection to who speaks another protocol on it."""


class Successor(asyncio.Protocol):
    """Who takes a connection over; its first bytes may have come with the request."""

    __slots__ = ()


MakeSuccessor = Callable[[asyncio.Transport, str], Successor]
"""Makes one for a transport and the address of its peer, whose place it has from then on."""


class Route(NamedTuple):
    """What is served at a path.

    `name` is what its answers are counted under. `credential` is what the caller must present: a
    tenant's token, a bearer secret that somebody else judges, or nothing. `upgrades`: a client may
    ask for another protocol there. `text`: what it gives is text, where others give JSON.
    `operators` is what takes its place for who presents what looks like an admin key.
    """

    name: RouteName
    verbs: tuple[str, ...]
    start: Callable[[Caller, Request], None]
    refusal: Callable[[GatewayError], bytes]
    credential: Literal["token", "secret", "none"]
    body_bytes_max: int = 0
    takes_query: bool = False
    upgrades: bool = False
    text: bool = False
    operators: "Route | None" = None


class LateAnswer:
    """An answer that waits for its time. Implements `Work`.

    Args:
        say: Sends it.
        over: Called once, when the wait has ended.
    """

    def __init__(self, say: Callable[[], None], over: Callable[[], None]) -> None:
        self._say = say
        self._over = over

    def abandon(self) -> None:
        """See `Work`."""
        self._over()

    def expire(self, error: GatewayError) -> None:
        """See `Work`. What waited is what is said, whatever ends the wait."""
        del error
        self._over()
        self._say()

    def revoke(self, error: GatewayError) -> None:
        """See `Work`. Only those without a grant wait here."""

    def on_writable(self) -> None:
        """See `Work`."""
