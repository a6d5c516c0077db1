"""One client's connection: its requests in turn, its deadlines, its answers.

Requests are answered strictly in order, one at a time; those that were sent ahead wait, up to
`HTTP_PIPELINED_REQUESTS_MAX`, and no more is read meanwhile. A client that ends its side has gone
away: half-closed connections are not served.

Nothing that happens here may escape: callers are other connections' and workers' callbacks.
"""

import asyncio
from math import inf
from typing import Final, Protocol, cast

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.meters import FrontMeters
from supervisor.front import intake, response
from supervisor.front.exchange import MakeSuccessor, Request, Work
from supervisor.front.failures import Failures
from supervisor.front.intake import Intake
from supervisor.front.log import Log
from supervisor.front.taking import Taking
from supervisor.front.tenants import unavailable
from supervisor.front.turns import Reading, Turns


class House(intake.Door, Protocol):
    """What connections share."""

    log: Log
    incoming: memoryview
    meters: FrontMeters
    turns: Turns
    draining: bool

    @property
    def failures(self) -> Failures:
        """Those of authentication."""

    def enter(self, connection: "Connection", address: str) -> bool:
        """Take a place for a connection from `address`; False when there is none."""

    def see_off(self, connection: "Connection") -> bool:
        """Keep one that found no place until it has heard so; False when too many are."""

    def leave(self, connection: "Connection", address: str) -> None:
        """Give the place back."""

    def pass_on(self, connection: "Connection") -> None:
        """Let it go; its place is its successor's, who gives it back."""


class Connection(asyncio.BufferedProtocol):
    """Implements `exchange.Caller`.

    Three deadlines, in monotonic seconds, are looked at by one common timer: for what the client
    has to send, for what it waits for, and for what it has to take.
    """

    def __init__(self, house: House) -> None:
        self._house: Final = house
        self._intake: Final = Intake(house)
        self._transport: asyncio.Transport
        self._address = ""
        self._request: Request | None = None
        self._begun_at = 0.0
        self._work: Work | None = None
        self._stash: memoryview | None = None
        self._advancing = False
        self._over = False
        self._read_deadline = inf
        self._work_deadline = inf
        self._unread_bytes = 0
        self._taking: Taking
        self._read: Reading

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = transport = cast("asyncio.Transport", transport)
        self._taking = Taking(transport)
        self._read = Reading(transport, self._house.turns)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if peer else ""
        transport.set_write_buffer_limits(high=limits.HTTP_WRITE_BUFFER_HIGH)
        if self._house.enter(self, self._address):
            self._read_deadline = self._house.now() + limits.HTTP_IDLE_SECONDS
            return
        transport.write(response.last(unavailable("the gateway has too many connections")))
        # What the client has asked is not read.
        self._intake.cut = self._house.see_off(self)
        self._close()

    def get_buffer(self, _sizehint: int) -> memoryview:
        """See `asyncio.BufferedProtocol`. It is everybody's: what is in it is used at once."""
        return self._house.incoming

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        try:
            if not self._over:
                self._consume(bytes(self._house.incoming[:nbytes]))
                self._advance()
            if nbytes >= limits.BIG_READ_BYTES:
                self._read.took(nbytes, self._intake.payer)
        except Exception as error:  # noqa: BLE001 - what escapes would hang the transport
            self._break(error)

    def eof_received(self) -> None:
        """See `asyncio.BufferedProtocol`. Has the transport closed."""

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._taking.pause(self._house.now())

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._taking.resume()
        if self._over:
            return
        self._taking.deadline = inf
        try:
            if self._work is not None:
                self._work.on_writable()
            self._advance()
        except Exception as error:  # noqa: BLE001 - as in buffer_updated
            self._break(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._over = True
        self._read_deadline = self._taking.deadline = inf
        self._taking.forget()
        self._stash = None
        work, self._work = self._work, None
        try:
            self._intake.drop()
            if self._request is not None:
                self._request.release()
            if work is not None:
                work.abandon()
        except Exception as error:  # noqa: BLE001 - as in buffer_updated
            self._house.log.broken("connection", error)
        self._house.leave(self, self._address)

    # exchange.Client

    @property
    def write_paused(self) -> bool:
        """See `Client`."""
        return self._taking.paused

    def wait_for(self, work: Work, seconds: float) -> None:
        """See `Client`."""
        self._work = work
        self._work_deadline = self._begun_at + seconds

    def answer(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """See `Client`."""
        request = self._request
        if request is None or self._over:
            return
        try:
            asked = request.asked
            headers += self._headers(request)
            only_head, content = asked.verb == "HEAD", asked.content(status)
            data = response.whole(status, body, headers, only_head=only_head, content=content)
            self._transport.write(data)
            if self._taking.paused and asked.grant is not None:
                self._taking.charge(asked.grant.tenant, len(data))
            self._finish(request, status)
        except Exception as error:  # noqa: BLE001 - as in buffer_updated
            self._break(error)

    def refuse(self, error: GatewayError) -> None:
        """See `Client`."""
        request = self._request
        if request is not None:
            body = request.asked.refusal(error)
            self.answer(error.code.http_status, body, response.error_headers(error))

    def answer_unauthorized(self, body: bytes, headers: bytes) -> None:
        """See `Client`."""
        request = self._request
        if request is None or self._over:
            return
        self._house.meters.auth_failures += 1
        failures = self._house.failures
        delay = failures.note(self._address, request.asked)
        if delay:
            late = failures.late(lambda: self.answer(401, body, headers))
            if late is not None:
                self.wait_for(late, delay)
                return
            request.keep_alive = False
        self.answer(401, body, headers)

    def add_headers(self, lines: bytes) -> bool:
        """See `Client`."""
        if self._request is not None:
            self._request.headers += lines
        return True

    def begin_events(self) -> None:
        """See `Client`."""
        request = self._request
        if request is not None:
            chunked = b"" if request.asked.old_version else response.CHUNKED
            self._send(response.event_stream(self._headers(request) + chunked))

    def send_event(self, name: bytes, data: bytes) -> None:
        """See `Client`."""
        self.send_events(response.event(name, data))

    def end_events(self) -> None:
        """See `Client`."""
        request = self._request
        if request is None or self._over:
            return
        try:
            if not request.asked.old_version:
                self._send(response.LAST_CHUNK)
            self._finish(request, 200)
        except Exception as error:  # noqa: BLE001 - as in buffer_updated
            self._break(error)

    # exchange.Caller

    def send_events(self, data: bytes) -> None:
        """See `Caller`."""
        if self._request is not None:
            self._send(data if self._request.asked.old_version else response.chunk(data))

    def switch(self, head: bytes, successor: MakeSuccessor) -> None:
        """See `Caller`. From here on this connection is the successor's."""
        if self._request is None or self._over:
            return
        self._over = True
        self._transport.write(head)
        self._count(self._request, 101)
        heir = successor(self._transport, self._address)
        self._house.pass_on(self)
        self._transport.set_protocol(heir)
        self._read.hand_over()
        if self._intake.upgraded:
            heir.data_received(bytes(self._intake.upgraded))
        self._intake.drop()

    # For the house.

    def tick(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        try:
            if now >= self._taking.deadline and self._taking.has_stalled(now):
                self.abort()
            if now >= self._work_deadline and self._work is not None:
                self._work_deadline = inf
                self._work.expire(GatewayError(ErrorCode.TIMEOUT, "the call took too long"))
            if now >= self._read_deadline:
                self._read_deadline = inf
                self._time_out_reading()
        except Exception as error:  # noqa: BLE001 - as in buffer_updated
            self._break(error)

    def drain(self) -> None:
        """Close the connection, now if it is idle, else with its next answer."""
        if self._request is None and not self._intake.receiving and not self._over:
            self._close()

    def cut(self, error: GatewayError) -> None:
        """Close the connection; who waits for something is refused with `error`."""
        if self._work is not None and not self._over:
            self._work_deadline = inf
            self._work.expire(error)
        elif not self._over:
            self._close()

    def revoke(self, digests: frozenset[bytes], error: GatewayError) -> None:
        """End what one of these tokens has opened here, if any has, with `error`."""
        request, work = self._request, self._work
        if request is None or work is None or self._over:
            return
        grant = request.asked.grant
        if grant is None or grant.digest not in digests:
            return
        try:
            work.revoke(error)
            if self._taking.paused:
                self.abort()  # it does not read, and so would never see the end
        except Exception as failure:  # noqa: BLE001 - as in buffer_updated
            self._break(failure)

    def abort(self) -> None:
        """Close the connection and lose what has not been sent."""
        self._over = True
        self._transport.abort()

    # Inside: reading.

    def _consume(self, data: bytes | memoryview) -> None:
        incoming = self._intake
        while data and not incoming.closed:
            if len(incoming.ready) >= limits.HTTP_PIPELINED_REQUESTS_MAX:
                self._stash = memoryview(data)
                return
            taken = incoming.feed(data)
            if taken == len(data):
                return
            data = memoryview(data)[taken:]
        if data and incoming.upgraded is not None:
            # No more of it comes until the request has had its turn.
            incoming.upgraded += data
        elif data:
            incoming.cut = True
            self._unread_bytes += len(data)

    def _time_out_reading(self) -> None:
        if not self._intake.begun:
            self._close()
            return
        self._intake.time_out()
        self._advance()

    def _settle(self) -> None:
        """Say what the client has to do next, and by when."""
        incoming = self._intake
        full = self._stash is not None or (
            len(incoming.ready) >= limits.HTTP_PIPELINED_REQUESTS_MAX
        )
        if incoming.closed:
            discarded = self._unread_bytes > limits.HTTP_DISCARD_BYTES_MAX
            full = full or discarded or incoming.upgraded is not None
        if full == self._read.wanted:
            if full:
                self._read.stop()
            else:
                self._read.go_on()
                incoming.deadline = max(
                    incoming.deadline, self._house.now() + limits.HTTP_HEADER_SECONDS
                )
        waits_for_us = self._request is not None or bool(incoming.ready)
        if incoming.receiving and not full:
            self._read_deadline = incoming.deadline
            if incoming.continue_due and not waits_for_us:
                incoming.continue_due = False
                self._transport.write(response.CONTINUE)
        elif waits_for_us or full:
            self._read_deadline = inf
        elif self._house.draining:
            self._close()
        else:
            self._read_deadline = self._house.now() + limits.HTTP_IDLE_SECONDS

    # Inside: one request after the other.

    def _advance(self) -> None:
        if self._advancing:
            return
        self._advancing = True
        ready = self._intake.ready
        try:
            while ready and self._request is None and not self._taking.paused and not self._over:
                self._begin(ready.popleft())
                if self._stash is not None and not self._over:
                    stash, self._stash = self._stash, None
                    self._consume(stash)
        finally:
            self._advancing = False
        if not self._over:
            self._settle()

    def _begin(self, request: Request) -> None:
        self._request = request
        self._begun_at = self._house.now()
        asked, refusal = request.asked, request.refusal
        tokens = self._house.tokens
        if (
            refusal is None
            and asked.grant is not None
            and asked.tokens_version != tokens.version
            and not tokens.holds(asked.grant)
        ):
            refusal = intake.unauthorized()
        if refusal is None:
            assert asked.route is not None
            asked.route.start(self, request)
        elif refusal.code is ErrorCode.UNAUTHORIZED:
            body = asked.refusal(refusal)
            self.answer_unauthorized(body, response.error_headers(refusal))
        else:
            self.refuse(refusal)

    def _headers(self, request: Request) -> bytes:
        if self._house.draining:
            request.keep_alive = False
        return request.header_lines()

    def _finish(self, request: Request, status: int) -> None:
        self._count(request, status)
        request.release()
        self._request = self._work = None
        self._work_deadline = inf
        if not request.keep_alive:
            self._close()
        elif self._intake.ready:
            self._advance()
        elif not self._advancing:
            self._settle()

    def _count(self, request: Request, status: int) -> None:
        seconds = self._house.now() - self._begun_at
        self._house.meters.answered(request.asked.counted_as, status, seconds)

    # Inside: writing and the end.

    def _send(self, data: bytes) -> None:
        if self._over:
            return
        try:
            self._transport.write(data)
        except Exception as error:  # noqa: BLE001 - as in buffer_updated
            self._break(error)

    def _close(self) -> None:
        """Close when all is sent.

        With input unread the kernel would reset the connection and the client lose the answer: then
        only our side is closed, and what still comes is thrown away for a moment.
        """
        self._over = True
        self._read_deadline = inf
        incoming = self._intake
        unread = incoming.cut or incoming.receiving or self._stash is not None
        unread = unread or incoming.upgraded is not None
        if unread and self._transport.can_write_eof():
            self._read.go_on()
            self._transport.write_eof()
            sent = self._transport.get_write_buffer_size() == 0
            seconds = limits.HTTP_LINGER_SECONDS if sent else limits.HTTP_WRITE_SECONDS
        else:
            self._transport.close()
            seconds = limits.HTTP_WRITE_SECONDS
        self._taking.expect(self._house.now(), seconds)

    def _break(self, error: Exception) -> None:
        self._house.log.broken("connection", error)
        self.abort()
