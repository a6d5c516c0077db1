"""Several calls in one message (JSON-RPC 2.0, section 6): run side by side, answered in order."""

from collections.abc import Callable, Sequence
from typing import Final

from protocol import jsonrpc, limits
from protocol.errors import ErrorCode, GatewayError
from supervisor.front.exchange import Client, Request, Work
from supervisor.front.tenants import Tenant

StartCall = Callable[[Client, Request, jsonrpc.Request, bytes], None]
"""Begins one decoded call; the client is told its answer."""


class Batch:
    """Implements `exchange.Work` for the client of the whole.

    Each member is a call of its tenant like any other: counted, bounded and held as one. What the
    answers hold until the last one is there counts against the tenant too.
    """

    __slots__ = ("_answers", "_begun_at", "_client", "_held_bytes", "_members", "_open", "_tenant")

    def __init__(self, client: Client, tenant: Tenant) -> None:
        self._client: Client | None = client
        self._tenant: Final = tenant
        self._members: list[Member] = []
        self._answers: list[bytes] = []
        self._held_bytes = 0
        self._open = 0
        self._begun_at = tenant.now()

    def start(self, request: Request, members: Sequence[bytes], start_call: StartCall) -> None:
        """Begin all members.

        Args:
            request: The whole; each member takes over the reservation for its own bytes.
            members: JSON of each.
            start_call: Begins one.
        """
        assert self._client is not None
        self._client.wait_for(self, limits.CALL_SECONDS_MAX)
        self._answers = [b""] * len(members)
        # One more than there are, so that none ends the batch before the last has begun.
        self._open = len(members) + 1
        for index, body in enumerate(members):
            member = Member(self, index)
            self._members.append(member)
            try:
                call = jsonrpc.decode_request(body)
            except GatewayError as error:
                member.refuse(error)
                continue
            if isinstance(call.id, int | str):
                member.request_id = call.id
            share = Request(request.asked)
            share.reserved = min(len(body), request.reserved)
            request.reserved -= share.reserved
            start_call(member, share, call, bytes(call.params))
            share.release()
        request.release()
        self._close_one()

    def settle(self, member: "Member", status: int, body: bytes) -> None:
        """Take a member's answer; empty for none."""
        self._tenant.meters.answered("batch", status, self._tenant.now() - self._begun_at)
        if self._held_bytes + len(body) > limits.BATCH_ANSWER_BYTES_MAX:
            msg = f"the answers of a batch have at most {limits.BATCH_ANSWER_BYTES_MAX} bytes"
            error = GatewayError(ErrorCode.PAYLOAD_TOO_LARGE, msg)
            body = jsonrpc.refusal(member.request_id, error)
        self._answers[member.index] = body
        self._held_bytes += len(body)
        self._tenant.charge(len(body))
        self._close_one()

    def add_headers(self, lines: bytes) -> bool:
        """Have the response to the whole say this too; see `Client`."""
        return self._client is not None and self._client.add_headers(lines)

    # exchange.Work

    def abandon(self) -> None:
        """See `Work`."""
        self._client = None
        self._release()
        for member in self._members:
            member.abandon()

    def expire(self, error: GatewayError) -> None:
        """See `Work`. What has been answered by then is."""
        for member in self._members:
            member.expire(error)

    def revoke(self, error: GatewayError) -> None:
        """See `Work`. What was begun in time is answered, but for what only waits."""
        for member in self._members:
            member.revoke(error)

    def on_writable(self) -> None:
        """See `Work`. Nothing is streamed."""

    # Inside.

    def _close_one(self) -> None:
        self._open -= 1
        if self._open:
            return
        self._release()
        client, self._client = self._client, None
        if client is None:
            return
        said = [answer for answer in self._answers if answer]
        self._answers = []
        if said:
            client.answer(200, b"[%b]" % b",".join(said))
        else:
            client.answer(204, b"")

    def _release(self) -> None:
        self._tenant.release(self._held_bytes)
        self._held_bytes = 0


class Member:
    """The client of one call in a batch. Implements `exchange.Client`; nothing is streamed to it.

    Attributes:
        index: Its place.
        request_id: The id that its answer carries.
    """

    __slots__ = ("_batch", "_work", "index", "request_id")

    def __init__(self, batch: Batch, index: int) -> None:
        self.index: Final = index
        self.request_id: jsonrpc.RequestId = None
        self._batch: Batch | None = batch
        self._work: Work | None = None

    @property
    def write_paused(self) -> bool:
        """See `Client`."""
        return False

    def wait_for(self, work: Work, seconds: float) -> None:
        """See `Client`. The batch as a whole has as long."""
        del seconds
        self._work = work

    def answer(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """See `Client`. Its status is only counted: there is one for the batch."""
        del headers
        batch, self._batch, self._work = self._batch, None, None
        if batch is not None:
            batch.settle(self, status, body)

    def refuse(self, error: GatewayError) -> None:
        """See `Client`."""
        self.answer(error.code.http_status, jsonrpc.refusal(self.request_id, error))

    def answer_unauthorized(self, body: bytes, headers: bytes) -> None:
        """See `Client`. Who calls was known before."""
        self.answer(401, body, headers)

    def add_headers(self, lines: bytes) -> bool:
        """See `Client`. They are those of the batch's response."""
        return self._batch is not None and self._batch.add_headers(lines)

    def begin_events(self) -> None:
        """See `Client`."""

    def send_event(self, name: bytes, data: bytes) -> None:
        """See `Client`."""

    def end_events(self) -> None:
        """See `Client`."""

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        work, self._work, self._batch = self._work, None, None
        if work is not None:
            work.abandon()

    def expire(self, error: GatewayError) -> None:
        """Have it refused now, if it waits."""
        if self._work is not None:
            self._work.expire(error)

    def revoke(self, error: GatewayError) -> None:
        """The batch's credential is good no more."""
        if self._work is not None:
            self._work.revoke(error)
