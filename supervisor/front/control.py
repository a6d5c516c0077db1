"""The control plane: handed over, for the front has no say in it, but for which verbs a path knows.

Failed attempts at the admin key are counted and slowed like those at tokens.
"""

from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import unquote

import msgspec

from protocol import limits
from protocol.aio import OnReply, Reply, failure_error
from protocol.control.routes import ROUTES, find
from protocol.errors import (
    ErrorCode,
    GatewayError,
    LinkClosedError,
    LocalProtocolError,
    RemoteProtocolError,
)
from protocol.frames import Failure, Result
from protocol.spawn import ControlRequest, ControlResponse
from supervisor.front import response
from supervisor.front.exchange import Client, Request
from supervisor.front.tenants import unavailable

PREFIX: Final = "/v1/tenants/"
PATHS: Final = frozenset(route.path for route in ROUTES if not route.parameters)
VERBS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_decoder: Final = msgspec.json.Decoder(ControlResponse)


class Supervisor(Protocol):
    """The process that decides."""

    control_calls: int

    def ask_supervisor(self, method: str, params: bytes, on_reply: OnReply) -> None:
        """See `tenants.Surroundings`."""


def verbs(path: str) -> tuple[str, ...]:
    """Give what a path knows; everything for one that is not served, which the supervisor says."""
    found = find([unquote(part) for part in path.split("/")[1:]])
    return VERBS if found is None else tuple(found.routes)


class ControlCall:
    """One control request that waits for the supervisor. Implements `exchange.Work`."""

    def __init__(self, client: Client, supervisor: Supervisor) -> None:
        self._client: Client | None = client
        self._supervisor: Final = supervisor
        self._text = False

    def start(self, request: Request) -> None:
        """Ask the supervisor.

        Raises:
            GatewayError: UNAVAILABLE: too much is asked of it already, or it is gone.
        """
        if self._supervisor.control_calls >= limits.CONTROL_CALLS_IN_FLIGHT_MAX:
            raise unavailable("too many control requests are in flight")
        asked = ControlRequest(
            secret=request.asked.secret,
            verb=request.asked.verb,
            path=request.asked.path,
            query=request.asked.query,
            body=bytes(request.body),
            idempotency_key=request.asked.idempotency_key,
        )
        assert self._client is not None
        assert request.asked.route is not None
        self._text = request.asked.route.text
        try:
            self._supervisor.ask_supervisor(
                "control.request", msgspec.json.encode(asked), self._on_reply
            )
        except (LinkClosedError, LocalProtocolError) as error:
            raise unavailable("the supervisor cannot be asked now") from error
        self._supervisor.control_calls += 1
        self._client.wait_for(self, limits.CALL_SECONDS_MAX)

    def abandon(self) -> None:
        """See `Work`. What has been asked is done nevertheless."""
        self._client = None

    def expire(self, error: GatewayError) -> None:
        """See `Work`."""
        client, self._client = self._client, None
        if client is not None:
            client.refuse(error)

    def revoke(self, error: GatewayError) -> None:
        """See `Work`. An operator has no grant."""

    def on_writable(self) -> None:
        """See `Work`."""

    def _on_reply(self, reply: Reply) -> None:
        self._supervisor.control_calls -= 1
        client, self._client = self._client, None
        if client is None:
            return
        try:
            status, body = _read(reply, text=self._text)
        except GatewayError as error:
            client.refuse(error)
            return
        headers = response.status_headers(status, body)
        if status == HTTPStatus.UNAUTHORIZED:
            client.answer_unauthorized(body, headers)
        else:
            client.answer(status, body, headers)


def _read(reply: Reply, *, text: bool) -> tuple[int, bytes]:
    if isinstance(reply, Failure):
        try:
            raise failure_error(reply)
        except RemoteProtocolError as error:
            raise GatewayError(ErrorCode.INTERNAL, "the supervisor gave no answer") from error
    if not isinstance(reply, Result):
        raise unavailable("the gateway is stopping")
    try:
        answer = _decoder.decode(reply.body)
        body = bytes(answer.body)
        if text and answer.status == HTTPStatus.OK:
            body = msgspec.json.decode(body, type=str).encode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GatewayError(ErrorCode.INTERNAL, "the supervisor gave no answer") from error
    if not response.is_status(answer.status):
        raise GatewayError(ErrorCode.INTERNAL, "the supervisor gave no HTTP status")
    return answer.status, b"" if answer.status == HTTPStatus.NO_CONTENT else body
