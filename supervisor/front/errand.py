"""A call that the front makes of a tenant's worker for a client, on its own account."""

from collections.abc import Callable
from typing import Final

import msgspec

from protocol import limits
from protocol.aio import LinkEnd, Reply, failure_error
from protocol.errors import GatewayError, LinkClosedError, RemoteProtocolError
from protocol.frames import Chunk, Failure
from protocol.pieces import Pieces
from supervisor.front.auth import Grant
from supervisor.front.tenants import unavailable

_encode: Final = msgspec.json.Encoder().encode


class Errand:
    """Implements `tenants.Pending`. Its end is told once, unless it is abandoned.

    Args:
        grant: In whose name.
        method: What is called.
        params: With what; anything that msgspec encodes.
        on_result: Takes the result, as JSON.
        on_error: Takes the refusal.
        on_chunk: Takes the pieces of a stream, for a method that has one.

    What `on_result` and `on_chunk` raise ends the worker's link.
    """

    __slots__ = (
        "_call_id",
        "_end",
        "_is_over",
        "_on_chunk",
        "_on_error",
        "_on_result",
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
        grant: Grant,
        method: str,
        params: object,
        on_result: Callable[[bytes], None],
        on_error: Callable[[GatewayError], None],
        on_chunk: Callable[[bytes], None] | None = None,
    ) -> None:
        self._tenant: Final = grant.tenant
        self._on_result: Final = on_result
        self._on_error: Final = on_error
        self._on_chunk: Final = on_chunk
        self._end: LinkEnd | None = None
        self._call_id = 0
        self._is_over = False
        self.method = method
        self.params: bytes | Pieces = _encode(params)
        self.scopes = grant.scopes
        self.token_id = grant.token_id
        self.credit = 0 if on_chunk is None else limits.STREAM_CREDIT_INITIAL
        self.idempotency_key: str | None = None
        self.held_until = 0.0

    def start(self) -> None:
        """Send it, or have it held."""
        try:
            self._tenant.submit(self)
        except GatewayError as error:
            self.fail(error)

    def grant(self, count: int) -> None:
        """Take so many pieces more."""
        if self._end is not None and not self._is_over and not self._end.closed:
            self._end.link.grant(self._call_id, count)
            self._end.flush()

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        if self._is_over:
            return
        self._is_over = True
        if self._end is None:
            self._tenant.withdraw(self)
        elif not self._end.closed:
            self._end.link.cancel(self._call_id)
            self._end.flush()

    # tenants.Pending

    def sent(self, end: LinkEnd, call_id: int) -> None:
        """See `Pending`."""
        self._end, self._call_id = end, call_id
        self.params = b""

    def fail(self, error: GatewayError) -> None:
        """See `Pending`."""
        if not self._is_over:
            self._is_over = True
            self._on_error(error)

    def on_reply(self, reply: Reply) -> None:
        """See `Pending`. What the worker gets wrong is raised, and ends its link."""
        if self._is_over:
            return
        if isinstance(reply, Chunk):
            if self._on_chunk is not None:
                self._on_chunk(reply.data)
            return
        if isinstance(reply, LinkClosedError):
            self.fail(unavailable("the tenant's worker went away before it had answered"))
        elif isinstance(reply, Failure):
            try:
                error = failure_error(reply)
            except RemoteProtocolError:
                self.fail(unavailable("the tenant's worker gave no proper answer"))
                raise
            self.fail(error)
        else:
            self._is_over = True
            self._on_result(reply.body)
