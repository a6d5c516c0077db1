"""One call of a client to its tenant's worker, from its acceptance to the worker's last word."""

from typing import Final, Protocol

from protocol import limits
from protocol.aio import LinkEnd, Reply, failure_error
from protocol.errors import GatewayError, LinkClosedError, RemoteProtocolError
from protocol.frames import Chunk, Failure
from protocol.methods import METHODS, WAITING
from protocol.pieces import Pieces
from supervisor.front import response
from supervisor.front.exchange import Client, Request
from supervisor.front.stream import EventStream
from supervisor.front.tenants import Tenant, unavailable


class Envelope(Protocol):
    """How results and refusals are written on a route. An empty body means that none is wanted."""

    def success(self, result: bytes) -> tuple[int, bytes]:
        """Give status and body for a result."""

    def refusal(self, error: GatewayError) -> bytes:
        """Give the body for a refusal."""


class TenantCall:
    """Implements `tenants.Pending` and `exchange.Work`.

    It outlives its client: what the tenant has in flight is counted until the worker has answered.
    """

    __slots__ = (
        "_call_id",
        "_client",
        "_end",
        "_envelope",
        "_reserved",
        "_stream",
        "_tenant",
        "credit",
        "held_until",
        "idempotency_key",
        "method",
        "params",
        "scopes",
        "token_id",
    )

    def __init__(
        self,
        client: Client,
        request: Request,
        envelope: Envelope,
        method: str,
        params: bytes | Pieces,
    ) -> None:
        assert request.asked.grant is not None
        self._client: Client | None = client
        self._envelope: Final = envelope
        self._tenant: Final[Tenant] = request.asked.grant.tenant
        self._reserved = request.reserved
        request.reserved = 0
        self._end: LinkEnd | None = None
        self._call_id = 0
        self._stream: EventStream | None = None
        self.method = method
        self.params = params
        self.scopes = request.asked.grant.scopes
        self.token_id = request.asked.grant.token_id
        self.credit = 0
        self.idempotency_key = request.asked.idempotency_key
        self.held_until = 0.0

    def start(self, *, streams: bool = False) -> None:
        """Send it, or have it held; the client may be able to take the answer in pieces."""
        if streams:
            self.credit = limits.STREAM_CREDIT_INITIAL
        client = self._client
        assert client is not None
        client.wait_for(self, limits.CALL_SECONDS_MAX)
        try:
            self._tenant.admit(self.method, client)
            self._tenant.submit(self)
        except GatewayError as error:
            self.fail(error)

    # tenants.Pending

    def sent(self, end: LinkEnd, call_id: int) -> None:
        """See `Pending`."""
        self._end, self._call_id = end, call_id
        self.params = b""
        if self.credit and self._client is not None:
            self._stream = self._begin_stream(self._client, end, call_id)

    def fail(self, error: GatewayError) -> None:
        """See `Pending`."""
        self._retire()
        self._refuse(error)

    def on_reply(self, reply: Reply) -> None:
        """Take part of the worker's answer; what it gets wrong is raised, and ends its link."""
        if isinstance(reply, Chunk):
            if self._client is not None and self._stream is not None:
                self._stream.chunk(reply)
            return
        self._retire()
        if isinstance(reply, LinkClosedError):
            self._refuse(unavailable("the tenant's worker went away before it had answered"))
        elif isinstance(reply, Failure):
            try:
                error = failure_error(reply)
            except RemoteProtocolError:
                self._refuse(unavailable("the tenant's worker gave no proper answer"))
                raise
            self._refuse(error)
        else:
            self._succeed(reply.body)

    # exchange.Work

    def abandon(self) -> None:
        """See `Work`."""
        self._client = None
        if self._end is None:
            self._tenant.withdraw(self)
            self._retire()
        elif not self._end.closed:
            self._end.link.cancel(self._call_id)
            self._end.flush()

    def expire(self, error: GatewayError) -> None:
        """See `Work`."""
        client = self._client
        self.abandon()
        self._client = client
        self._refuse(error)

    def revoke(self, error: GatewayError) -> None:
        """See `Work`."""
        if self.credit or self.method in WAITING or self._tenant.holds(self):
            self.expire(error)

    def on_writable(self) -> None:
        """See `Work`."""
        if self._stream is not None:
            self._stream.grant()

    # Inside.

    def _begin_stream(self, client: Client, end: LinkEnd, call_id: int) -> EventStream:
        return EventStream(client, end, call_id, _event(self.method))

    def _retire(self) -> None:
        if self._reserved:
            self._tenant.release(self._reserved)
            self._reserved = 0

    def _succeed(self, result: bytes) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        status, body = self._envelope.success(result)
        if self._stream is not None:
            self._stream.finish(body)
        else:
            client.answer(status, body)

    def _refuse(self, error: GatewayError) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        body = self._envelope.refusal(error)
        if self._stream is not None and self._stream.begun:
            self._stream.fail(body)
        else:
            client.answer(error.code.http_status, body, response.error_headers(error))


def _event(method: str) -> bytes:
    """Give the name of what a method streams."""
    declared = METHODS.get(method)
    return b"chat" if declared is None else declared.streams.encode()
