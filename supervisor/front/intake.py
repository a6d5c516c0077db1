"""From a client's bytes to complete requests: parsing, limits, and who may be heard at all.

A request is judged when its head is complete, before anything of its body is kept: what nobody may
ask for costs no memory. Of a refused request a little is read on, to keep the connection in step;
what does not let itself be parsed, or is over a limit, closes the connection.
"""

from collections import deque
from typing import Final, Protocol

import httptools

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.names import ADMIN_KEY_PREFIX
from protocol.pieces import Pieces
from supervisor.front import origins, response, upgrade
from supervisor.front.auth import TokenTable
from supervisor.front.exchange import Asked, Request, Route
from supervisor.front.head import Head, bearer_secret, host_name, malformed, too_large
from supervisor.front.known import KnownHead, learn
from supervisor.front.routes import Routes
from supervisor.front.tenants import Tenant, unavailable

_HEAD_SLICE: Final = 4 * limits.KIB
_CHUNKED_SLICE: Final = 64 * limits.KIB


class Door(Protocol):
    """What is the same for every connection."""

    tokens: TokenTable
    routes: Routes
    hosts: frozenset[str]
    origins: frozenset[str]
    loaded: bool

    def now(self) -> float:
        """Monotonic seconds."""


class Intake:
    """Parses one connection's bytes.

    Attributes:
        ready: Complete requests, oldest first.
        receiving: Part of a request has arrived.
        begun: Its first line has begun to arrive.
        deadline: When that request has to have arrived.
        closed: Nothing more is read from this client; the last of `ready` is its last answer.
        cut: There was more to read when it was closed.
        continue_due: The client waits for leave to send its body.
        upgraded: What came after a request to change the protocol, the last of `ready`.
        payer: The tenant whose body is taken.
    """

    def __init__(self, door: Door) -> None:
        self.ready: Final[deque[Request]] = deque()
        self.receiving = False
        self.begun = False
        self.deadline = 0.0
        self.closed = False
        self.cut = False
        self.continue_due = False
        self.upgraded: bytearray | None = None
        self.payer: Tenant | None = None
        self._door: Final = door
        self._head: Final = Head()
        self._request: Request | None = None
        self._pieces = Pieces()
        self._body_bytes = 0
        self._length = 0
        self._silent_bytes = 0
        self._known: KnownHead | None = None
        # How many heads end in the bytes that are fed; and what the first asks for, if it is good.
        self._heads = 0
        self._lesson: Asked | None = None
        # What has to come of a body whose head was known.
        self._body_left = 0
        # The parser takes these two as they are, without another call in between.
        self.on_url: Final = self._head.add_target
        self.on_header: Final = self._head.add_field
        self._parser: Final = httptools.HttpRequestParser(self)

    # For the connection.

    def feed(self, data: bytes | memoryview) -> int:
        """Take from the beginning of `data`, not more than its first requests; gives how much.

        Whatever is wrong with it ends up as the last of `ready`.
        """
        if not self.receiving and (taken := self._take_known(data)):
            return taken
        appetite = _HEAD_SLICE
        if self._request is not None:
            appetite = max(self._length - self._body_bytes, 0) or _CHUNKED_SLICE
        piece = data if len(data) <= appetite else memoryview(data)[:appetite]
        if self._body_left:
            self._take_body(piece)
        else:
            self._parse(piece)
        return len(piece)

    def time_out(self) -> None:
        """Refuse the request that did not arrive in time."""
        self._end(GatewayError(ErrorCode.REQUEST_TIMEOUT, "the request did not arrive in time"))

    def drop(self) -> None:
        """Forget everything; the client has gone."""
        self.closed = True
        if self._request is not None:
            self._request.release()
        for request in self.ready:
            request.release()
        self.ready.clear()
        del self._parser  # it holds what it calls, which would be left to the collector

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        """See httptools."""
        if self.closed:
            raise malformed("nothing can follow the last request")
        self._head.heard = True
        self._head.reset()
        self.begun = True
        if not self.receiving:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """See httptools."""
        head, parser = self._head, self._parser
        head.heard = True
        version, verb = parser.get_http_version(), parser.get_method()
        head.finish(version)
        request = self._judge(verb, version)
        chunked = b"transfer-encoding" in head.fields
        waits = b"expect" in head.fields and version != "1.0"
        self._request = request
        self._expect_body(head.content_length)
        if chunked or head.content_length:
            self._judge_body(request, head.content_length, waits=waits)
        self._heads += 1
        is_plain = request.refusal is None and not (chunked or waits)
        if is_plain and self._heads == 1 and parser.should_keep_alive():
            self._lesson = request.asked

    def on_body(self, piece: bytes) -> None:
        """See httptools."""
        self._head.heard = True
        self.continue_due = False
        request = self._request
        assert request is not None
        self._body_bytes += len(piece)
        if request.refusal is not None:
            if self._body_bytes > limits.HTTP_DISCARD_BYTES_MAX:
                raise request.refusal
            return
        assert request.asked.route is not None
        if self._body_bytes > request.asked.route.body_bytes_max:
            raise _body_too_large(request.asked.route.body_bytes_max)
        if request.asked.grant is not None and self._body_bytes > request.reserved:
            request.asked.grant.tenant.reserve(len(piece))
            request.reserved += len(piece)
        self._pieces.add(piece)

    def on_message_complete(self) -> None:
        """See httptools."""
        self._head.heard = True
        request = self._request
        if request is None or self.closed:
            # After an upgrade the parser still completes the message that was refused.
            return
        request.keep_alive = self._parser.should_keep_alive() and not request.asked.old_version
        self._complete(request)

    # Inside.

    def _complete(self, request: Request) -> None:
        is_big = len(self._pieces) > limits.RPC_SCANNED_BYTES_MAX
        request.body = self._pieces if is_big else bytes(self._pieces)
        self._request, self._pieces = None, Pieces()
        self.receiving = self.begun = self.continue_due = False
        self.closed = not request.keep_alive
        self.ready.append(request)

    def _parse(self, data: bytes | memoryview) -> None:
        # The first head of several is the one that `data` begins with.
        self._heads = 1 if self.receiving else 0
        if not self.receiving:
            self._expect_head()
        head = self._head
        head.heard = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as change:
            self._change_protocol(data[change.args[0] :])
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, GatewayError):
                self._end(cause)
            elif cause is not None:
                raise cause from None
            else:
                self._end(malformed(f"not HTTP/1.1: {error}"))
        if head.heard:
            self._silent_bytes = 0
            lesson, self._lesson = self._lesson, None
            if lesson is not None:
                self._known = learn(data, lesson)
            return
        # The parser keeps what is not complete, such as half a field, to itself.
        self._silent_bytes += len(data)
        if self._silent_bytes > limits.HTTP_HEADER_BYTES_MAX:
            self._end(too_large())

    def _take_known(self, data: bytes | memoryview) -> int:
        """Take the head that is known, if `data` begins with it, and what there is of its body."""
        known = self._known
        found = None if known is None else known.find(data)
        if known is None or found is None or not self._is_still_good(known.asked):
            return 0
        body_at, length = found
        self._request = request = Request(known.asked)
        request.keep_alive = True
        try:
            self._judge_body(request, length, waits=False)
        except GatewayError as error:
            self._end(error)
            return body_at
        end = body_at + length
        if end <= len(data) and request.refusal is None:
            request.body = bytes(data[body_at:end])
            self._request = None
            self.ready.append(request)
            return end
        self.receiving = self.begun = True
        self._expect_body(length)
        self._body_left = length
        return body_at

    def _take_body(self, piece: bytes | memoryview) -> None:
        self.on_body(bytes(piece))  # what is kept must not keep all that came with it
        self._body_left -= len(piece)
        if not self._body_left and self._request is not None:
            self._complete(self._request)

    def _expect_head(self) -> None:
        self.receiving = True
        self.deadline = self._door.now() + limits.HTTP_HEADER_SECONDS

    def _end(self, error: GatewayError) -> None:
        """Have `error` be the last answer."""
        self.cut = True
        if self.closed:
            # Something came after the request that was to be the last.
            return
        request = self._request or Request(_NOTHING)
        request.release()
        request.refuse(error)
        request.keep_alive = False
        self._request, self._pieces = None, Pieces()
        self.receiving = self.begun = self.continue_due = False
        self.closed = True
        self.ready.append(request)

    def _change_protocol(self, rest: bytes | memoryview) -> None:
        """What follows a request with `Upgrade` is no HTTP, whatever is answered."""
        if not self.closed:
            self.ready[-1].keep_alive = False
            self.closed = True
            self.upgraded = bytearray(rest)

    def _is_still_good(self, asked: Asked) -> bool:
        tokens = self._door.tokens
        if asked.tokens_version != tokens.version or asked.grant is None:
            return False
        return not tokens.is_over(asked.grant)

    def _judge(self, verb: bytes, version: str) -> Request:
        head = self._head
        asked = Asked(verb.decode("ascii"), head.check_target(), old_version=version == "1.0")
        asked.forwarded = head.fields.get(b"x-forwarded-for", b"")
        if self._parser.should_upgrade():
            upgrade.check(asked, head, served=self._door.routes.upgrades(asked.path))
        request = Request(asked)
        host = head.fields.get(b"host")
        # HTTP/1.0 knows no Host; a browser, which could be led here, always sends one.
        name = None if host is None else host_name(host)
        if host is not None and name is None:
            raise malformed("host: no name of a host")
        try:
            if name is not None and name not in self._door.hosts:
                raise _foreign_host()
            origin = head.fields.get(b"origin")
            origins.check(origin, host, self._door.origins)
            asked.origin = origin or b""
            self._admit(asked)
        except GatewayError as error:
            request.refuse(error)
        return request

    def _admit(self, asked: Asked) -> None:
        """Fill in what is asked for.

        Raises:
            GatewayError: it may not be asked for.
        """
        head = self._head
        asked.route = route = self._door.routes.find(asked.path)
        if asked.verb == "OPTIONS" and asked.origin:
            asked.route = PREFLIGHT
            return
        if asked.verb not in route.verbs:
            msg = f"use {' or '.join(route.verbs)} here"
            raise GatewayError(ErrorCode.METHOD_NOT_ALLOWED, msg, allowed=route.verbs)
        if asked.query and not route.takes_query:
            msg = "no query is taken here"
            raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="query")
        if route.credential != "none":
            asked.secret = asked.secret or bearer_secret(head.fields.get(b"authorization"))
            if route.operators is not None and asked.secret.startswith(ADMIN_KEY_PREFIX):
                asked.route = route.operators
            elif route.credential == "token":
                self._authenticate(asked)
            elif not asked.secret:
                raise unauthorized()
        asked.idempotency_key = head.idempotency_key
        asked.session_key = head.session_key
        asked.wants_events = head.accepts_events
        asked.is_json = head.is_json

    def _authenticate(self, asked: Asked) -> None:
        tokens = self._door.tokens
        grant = tokens.look_up(asked.secret)
        if grant is None:
            raise unauthorized() if self._door.loaded else unavailable("the gateway is starting")
        asked.grant = grant
        asked.tokens_version = tokens.version
        asked.secret = ""

    def _expect_body(self, length: int) -> None:
        self._body_bytes, self._length = 0, length
        self.deadline = self._door.now() + limits.HTTP_BODY_SECONDS

    def _judge_body(self, request: Request, length: int, *, waits: bool) -> None:
        """Decide about the body before it is read.

        Args:
            request: Whose it is.
            length: What is declared, in bytes; 0 when it comes in chunks.
            waits: The client sends it when it is told to.

        Raises:
            GatewayError: it is not read.
        """
        asked = request.asked
        self.payer = None
        bytes_max = limits.HTTP_BODY_BYTES_MAX
        if asked.route is not None:
            bytes_max = asked.route.body_bytes_max
        if request.refusal is None:
            try:
                if length > bytes_max:
                    raise _body_too_large(bytes_max)
                if not asked.is_json:
                    raise _no_json()
                if length and asked.grant is not None:
                    asked.grant.tenant.reserve(length)
                    request.reserved = length
            except GatewayError as error:
                request.refuse(error)
        if request.refusal is None:
            self.payer = None if asked.grant is None else asked.grant.tenant
            self.continue_due = waits
        elif waits or length > limits.HTTP_DISCARD_BYTES_MAX:
            raise request.refusal


_NOTHING: Final = Asked("", "", old_version=False)
PREFLIGHT: Final = Route(
    "other",
    ("OPTIONS",),
    lambda client, _request: client.answer(204, b"", origins.PREFLIGHT),
    response.error_body,
    "none",
)


def unauthorized() -> GatewayError:
    """Give the one refusal of every credential that is not good, whatever is wrong with it."""
    return GatewayError(ErrorCode.UNAUTHORIZED, "a valid bearer token is needed")


def _body_too_large(bytes_max: int) -> GatewayError:
    return GatewayError(ErrorCode.PAYLOAD_TOO_LARGE, f"a body has at most {bytes_max} bytes here")


def _no_json() -> GatewayError:
    msg = "content-type: must be application/json, without a content-encoding"
    return GatewayError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, msg)


def _foreign_host() -> GatewayError:
    msg = "this host name is not served here; allowed_hosts in the configuration lists more"
    return GatewayError(ErrorCode.FORBIDDEN, msg)
