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
from supervisor.front import origins, response, upgrade
from supervisor.front.auth import TokenTable
from supervisor.front.exchange import Asked, Request, Route
from supervisor.front.head import Head, bearer_secret, host_name, malformed, too_large
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
        self._pieces: bytes | bytearray = b""
        self._body_bytes = 0
        self._silent_bytes = 0
        # A client asks for the same again and again: what was found good is compared, not judged.
        self._good: tuple[bytes, bytes, str, dict[bytes, bytes]] | None = None
        self._good_asked = _NOTHING
        # The parser takes these two as they are, without another call in between.
        self.on_url: Final = self._head.add_target
        self.on_header: Final = self._head.add_field
        self._parser: Final = httptools.HttpRequestParser(self)

    # For the connection.

    @property
    def appetite(self) -> int:
        """How many bytes to feed at once, so that no flood of small requests is read ahead."""
        if self._request is None:
            return _HEAD_SLICE
        return max(self._head.content_length - self._body_bytes, 0) or _CHUNKED_SLICE

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes. Whatever is wrong with them ends up as the last of `ready`."""
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
            return
        # The parser keeps what is not complete, such as half a field, to itself.
        self._silent_bytes += len(data)
        if self._silent_bytes > limits.HTTP_HEADER_BYTES_MAX:
            self._end(too_large())

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
        length = head.fields.pop(b"content-length", None)
        good = (verb, head.target, version, head.fields)
        if good == self._good and self._is_still_good():
            request = Request(self._good_asked)
        else:
            request = self._judge(verb, version)
        self._request = request
        self._pieces, self._body_bytes = b"", 0
        if length is not None or b"transfer-encoding" in head.fields:
            self.deadline = self._door.now() + limits.HTTP_BODY_SECONDS
            self._judge_body(request)

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
        if not self._pieces:
            self._pieces = piece
        elif isinstance(self._pieces, bytearray):
            self._pieces += piece
        else:
            self._pieces = bytearray(self._pieces) + piece

    def on_message_complete(self) -> None:
        """See httptools."""
        self._head.heard = True
        request = self._request
        if request is None or self.closed:
            # After an upgrade the parser still completes the message that was refused.
            return
        request.body = bytes(self._pieces)
        request.keep_alive = self._parser.should_keep_alive() and not request.asked.old_version
        self._request, self._pieces = None, b""
        self.receiving = self.begun = self.continue_due = False
        self.closed = not request.keep_alive
        self.ready.append(request)

    # Inside.

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
        request.refusal = error
        request.keep_alive = False
        self._request, self._pieces = None, b""
        self.receiving = self.begun = self.continue_due = False
        self.closed = True
        self.ready.append(request)

    def _change_protocol(self, rest: bytes | memoryview) -> None:
        """What follows a request with `Upgrade` is no HTTP, whatever is answered."""
        if not self.closed:
            self.ready[-1].keep_alive = False
            self.closed = True
            self.upgraded = bytearray(rest)

    def _is_still_good(self) -> bool:
        asked, tokens = self._good_asked, self._door.tokens
        assert asked.grant is not None
        return asked.tokens_version == tokens.version and not tokens.is_over(asked.grant)

    def _judge(self, verb: bytes, version: str) -> Request:
        head = self._head
        asked = Asked(verb.decode("ascii"), head.check_target(), old_version=version == "1.0")
        asked.forwarded = head.fields.get(b"x-forwarded-for", b"")
        if self._parser.should_upgrade():
            upgrade.check(asked, head, served=self._door.routes.upgrade(asked.path))
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
            request.refusal = error
        else:
            if asked.grant is not None:
                self._good = (verb, head.target, version, head.fields)
                self._good_asked = asked
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
            if route.credential == "token":
                self._authenticate(asked)
            elif not asked.secret:
                raise unauthorized()
        asked.idempotency_key = head.idempotency_key
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

    def _judge_body(self, request: Request) -> None:
        """Decide about the body before it is read.

        Raises:
            GatewayError: it is not read.
        """
        head = self._head
        length = head.content_length
        has_body = length > 0 or b"transfer-encoding" in head.fields
        asked = request.asked
        bytes_max = limits.HTTP_BODY_BYTES_MAX
        if asked.route is not None:
            bytes_max = asked.route.body_bytes_max
        waits = b"expect" in head.fields and not asked.old_version
        self.payer = None
        if request.refusal is None:
            try:
                if length > bytes_max:
                    raise _body_too_large(bytes_max)
                if has_body and not asked.is_json:
                    raise _no_json()
                if length and asked.grant is not None:
                    asked.grant.tenant.reserve(length)
                    request.reserved = length
            except GatewayError as error:
                request.refusal = error
        if request.refusal is None:
            self.payer = None if asked.grant is None else asked.grant.tenant
            self.continue_due = waits and has_body
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
