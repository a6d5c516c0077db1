"""One tenant as the front sees it: the link to its worker, and what waits for one."""

from collections import deque
from typing import Final, Protocol

import msgspec

from protocol import limits
from protocol.aio import LinkEnd, OnReply, Reply, failure_error
from protocol.errors import (
    ErrorCode,
    GatewayError,
    LinkClosedError,
    LocalProtocolError,
    RemoteProtocolError,
)
from protocol.frames import Event as EventFrame
from protocol.frames import Failure
from protocol.meters import FrontMeters
from protocol.methods.events import QuotaWarning
from protocol.moments import rfc3339, unix_ms
from protocol.pace import Pace
from protocol.pieces import Pieces
from protocol.quotas import NO_QUOTA, Counted, Quota, Reached, Standing
from protocol.spawn import TenantLoad, WakeParams
from supervisor.front.gate import Counts, Gate
from supervisor.front.subscription import RESET, Event
from supervisor.front.supervised import Supervised

RETRY_MS: Final = 1000
# What an earlier worker still had to tell does not come any more.
_EVENTS_MISSED: Final = Event(RESET, b'{"payload":{"reason":"another worker"}}')
_EVENTS_DROPPED: Final = Event(RESET, b'{"payload":{"reason":"events were dropped"}}')


class Pending(Protocol):
    """A call on its way to the worker."""

    method: str
    params: bytes | Pieces
    scopes: int
    token_id: str
    credit: int
    idempotency_key: str | None
    held_until: float

    def sent(self, end: LinkEnd, call_id: int) -> None:
        """It has been sent; the answer comes to `on_reply`."""

    def on_reply(self, reply: Reply) -> None:
        """Part of the answer, or its end."""

    def fail(self, error: GatewayError) -> None:
        """It will not be sent."""


class Listener(Protocol):
    """Who wants to hear of events."""

    def on_event(self, event: Event) -> None:
        """One has come."""


class Told(Protocol):
    """Whose request it is; see `exchange.Client`."""

    def add_headers(self, lines: bytes) -> bool:
        """Have the response say this too; False where there is no head that could."""


class Surroundings(Protocol):
    """What all tenants share."""

    bytes_in_flight: int
    counts: Counts
    meters: FrontMeters
    supervised: Supervised

    def now(self) -> float:
        """Monotonic seconds."""

    def ask_supervisor(self, method: str, params: bytes, on_reply: OnReply) -> None:
        """Call the supervisor.

        Raises:
            LinkClosedError: it has gone away.
            LocalProtocolError: too many calls to it are open.
        """

    def holding(self, tenant: "Tenant", *, holds: bool) -> None:
        """A tenant begins or ends to hold calls."""


class Tenant:
    """Takes the calls of one tenant in order and hands them to its worker, or holds them.

    Calls in flight are counted on the link, so a call that its client has left, and that the worker
    has not answered yet, still counts.
    """

    def __init__(self, name: str, around: Surroundings) -> None:
        self.name: Final = name
        self.meters: Final = around.meters
        self.now: Final = around.now
        self._around: Final = around
        self._end: LinkEnd | None = None
        self._generation = -1
        self._detached = -1
        self._held: deque[Pending] = deque()
        self._held_bytes = 0
        self._bytes = 0
        self._wake: object | None = None
        self._listeners: dict[Listener, None] = {}
        self._events_missed = False
        self._gate: Gate | None = None
        self._deliveries: Final = Pace(
            limits.EVENT_DELIVERIES_PER_SECOND, limits.EVENT_DELIVERIES_BURST
        )
        self.attachments: Final = Pace(
            limits.TERMINAL_EVENTS_PER_SECOND, limits.TERMINAL_EVENTS_BURST
        )
        """How many of those that see a terminal are told of to the audit."""

    @property
    def has_link(self) -> bool:
        """Whether a worker can be reached now."""
        return self._end is not None and not self._end.closed

    @property
    def held(self) -> int:
        """How many calls wait for a worker."""
        return len(self._held)

    # Quotas. What is refused here wakes no worker.

    def admit(self, method: str, client: Told | None = None) -> None:
        """Count a request of a client; each goes through here once, before it is begun.

        Args:
            method: What is asked for.
            client: Who hears of warnings.

        Raises:
            GatewayError: QUOTA_EXCEEDED.
        """
        gate = self._gate
        if gate is not None:
            gate.admit(method)
            if gate.notice and client is not None and client.add_headers(gate.notice):
                gate.notice = b""

    def limit(self, quota: Quota) -> None:
        """Take other limits."""
        if self._gate is not None or quota != NO_QUOTA:
            gate = self._gate or self._new_gate()
            gate.limit(quota)
            self._keep(gate)

    def restore(self, counted: Counted) -> None:
        """Go on counting where the front before was."""
        if self._gate is not None:
            self._gate.restore(counted)

    def stand(self, standing: Standing, *, known: bool) -> None:
        """Take what egress has decided; see `Gate.stand`."""
        gate = self._gate or self._new_gate()
        gate.stand(standing, known=known)
        self._keep(gate)

    def lift(self) -> None:
        """Forget all limits, and what was counted."""
        if self._gate is not None:
            self._around.counts.forget(self._gate)
            self._gate = None

    def _new_gate(self) -> Gate:
        return Gate(self.name, unix_ms, self._around.counts.add, self._warn)

    def _keep(self, gate: Gate) -> None:
        if gate.is_open:
            self.lift()
        else:
            self._gate = gate

    def _warn(self, reached: Reached) -> None:
        payload = QuotaWarning(
            metric=reached.metric,
            limit=reached.limit,
            used=reached.used,
            resets_at=rfc3339(reached.resets_at_ms),
        )
        self.publish(Event("quota.warning", b'{"payload":%b}' % msgspec.json.encode(payload)))

    # Bytes.

    def reserve(self, count: int) -> None:
        """Take bytes of the tenant's allowance.

        Raises:
            GatewayError: RATE_LIMITED when the tenant, UNAVAILABLE when the front has too many.
        """
        if self._bytes + count > limits.TENANT_BYTES_IN_FLIGHT_MAX:
            msg = "too many bytes of this tenant are in flight; send less at once"
            raise GatewayError(ErrorCode.RATE_LIMITED, msg, retryAfterMs=RETRY_MS)
        if self._around.bytes_in_flight + count > limits.FRONT_BYTES_IN_FLIGHT_MAX:
            raise unavailable("the gateway has too many requests in flight")
        self._bytes += count
        self._around.bytes_in_flight += count

    def charge(self, count: int) -> None:
        """Count bytes that are there already; they only keep others out."""
        self._bytes += count
        self._around.bytes_in_flight += count

    def release(self, count: int) -> None:
        """Give bytes back."""
        self._bytes -= count
        self._around.bytes_in_flight -= count

    # Calls.

    def submit(self, call: Pending) -> None:
        """Send a call, or hold it until there is a worker.

        Raises:
            GatewayError: RATE_LIMITED or UNAVAILABLE, or as `Supervised.start`; nobody will answer
                this call.
        """
        if call.method in self._around.supervised.methods:
            call.credit = 0  # one answer, not a stream
            self._around.supervised.start(self.name, call)
            return
        end = self._end
        if end is not None and not end.closed:
            if end.link.calls_open >= limits.TENANT_CALLS_IN_FLIGHT_MAX:
                raise _too_many_calls()
            self._send(end, call)
        else:
            self._hold(call)

    def holds(self, call: Pending) -> bool:
        """Say whether a call waits for a worker."""
        return call in self._held

    def withdraw(self, call: Pending) -> None:
        """Forget a held call whose client has gone."""
        if self.holds(call):
            self._held.remove(call)
            self._no_more_held(call)
            self._note_holding()

    def expire_held(self, now: float) -> None:
        """Refuse the held calls whose time is over."""
        while self._held and self._held[0].held_until <= now:
            self._next_held().fail(unavailable("the tenant's worker did not start in time"))
        if not self._held:
            self._wake = None
        self._note_holding()

    def refuse_held(self, error: GatewayError) -> None:
        """Refuse every held call."""
        self._wake = None
        # Those that come while the refused hear of it are another round's.
        for _ in range(len(self._held)):
            self._next_held().fail(error)
        self._note_holding()

    def _send(self, end: LinkEnd, call: Pending) -> None:
        try:
            call_id = end.start_call(
                call.method,
                call.params,
                call.on_reply,
                scopes=call.scopes,
                credit=call.credit,
                idempotency_key=call.idempotency_key,
            )
        except LinkClosedError as error:
            raise unavailable("the tenant's worker has gone away") from error
        except LocalProtocolError as error:
            raise _too_many_calls() from error
        call.sent(end, call_id)

    def _hold(self, call: Pending) -> None:
        size = len(call.params)
        if (
            len(self._held) >= limits.HOLD_CALLS_MAX
            or self._held_bytes + size > limits.HOLD_BYTES_MAX
        ):
            raise unavailable("too many calls wait for the tenant's worker to start")
        call.held_until = self._around.now() + limits.HOLD_SECONDS
        self._held.append(call)
        self._held_bytes += size
        self._note_holding()
        if self._wake is None:
            self._ask_wake()

    def _next_held(self) -> Pending:
        call = self._held.popleft()
        self._no_more_held(call)
        return call

    def _no_more_held(self, call: Pending) -> None:
        self._held_bytes -= len(call.params)
        held_at = call.held_until - limits.HOLD_SECONDS
        self.meters.hold_seconds.observe(self.now() - held_at)

    def _note_holding(self) -> None:
        self._around.holding(self, holds=bool(self._held))

    # Events. A worker sends them only while somebody listens.

    def listen(self, listener: Listener) -> None:
        """Have a listener hear of events."""
        self._listeners[listener] = None
        if len(self._listeners) == 1:
            self._tell_listening()

    def unlisten(self, listener: Listener) -> None:
        """Have it hear of no more."""
        if listener in self._listeners:
            del self._listeners[listener]
            if not self._listeners:
                self._tell_listening()

    def publish(self, event: Event) -> None:
        """Tell every listener; not more than a tenant may cost those who share the front."""
        cost = len(self._listeners) * (1 + event.size // limits.EVENT_DELIVERY_BYTES)
        if not self._deliveries.take(self._around.now(), cost):
            self._events_missed = True
            return
        if self._events_missed:
            self._events_missed = False
            self._deliver(_EVENTS_DROPPED)
        self._deliver(event)

    def _deliver(self, event: Event) -> None:
        for listener in tuple(self._listeners):
            listener.on_event(event)

    def _tell_listening(self) -> None:
        end = self._end
        if end is not None and not end.closed:
            end.link.send(EventFrame("listen", b"true" if self._listeners else b"false"))
            end.flush()

    # The worker.

    def _ask_wake(self) -> None:
        wake = self._wake = object()

        def answered(reply: Reply) -> None:
            # An answer that comes after the link, or after another wake, says nothing any more.
            if self._wake is wake and isinstance(reply, Failure | LinkClosedError):
                self.refuse_held(_refused_wake(reply))

        params = msgspec.json.encode(WakeParams(tenant=self.name))
        try:
            self._around.ask_supervisor("worker.wake", params, answered)
        except (LinkClosedError, LocalProtocolError):
            self.refuse_held(unavailable("the gateway cannot start more workers now"))

    def link_up(self, end: LinkEnd, generation: int) -> None:
        """Send new calls to this worker from now on, those that were held first.

        A link to an earlier generation goes on with the calls that it has, then ends.
        """
        if generation < self._generation or generation <= self._detached:
            end.finish_after_calls()
            return
        if self._end is not None:
            self._end.finish_after_calls()
        is_first = self._generation < 0
        self._end, self._generation = end, generation
        self._wake = None
        if self._listeners:
            self._tell_listening()
            if not is_first:
                self._deliver(_EVENTS_MISSED)
        held, self._held = self._held, deque()
        for call in held:
            self._no_more_held(call)
            try:
                self._send(end, call)
            except GatewayError as error:
                call.fail(error)
        self._note_holding()

    def detach(self, generation: int) -> None:
        """Send nothing new to this generation; its link ends after what it has in flight."""
        # Links come another way than this word does, and may be later.
        self._detached = max(self._detached, generation)
        if self._generation == generation and self._end is not None:
            self._end.finish_after_calls()
            self._end = None

    def load(self) -> TenantLoad:
        """Give how many calls are in flight on the present link, and how many are held."""
        in_flight = self._end.link.calls_open if self._end is not None else 0
        return TenantLoad(in_flight, self.held)

    def link_down(self, end: LinkEnd) -> None:
        """Forget a link that has ended; its calls in flight have heard of it."""
        if self._end is end:
            self._end = None
            self._deliver(_EVENTS_MISSED)


def unavailable(reason: str, retry_ms: int = RETRY_MS) -> GatewayError:
    """Give the refusal of what can succeed a little later."""
    return GatewayError(ErrorCode.UNAVAILABLE, reason, retryAfterMs=retry_ms)


def _too_many_calls() -> GatewayError:
    msg = f"at most {limits.TENANT_CALLS_IN_FLIGHT_MAX} calls of a tenant can be in flight"
    return GatewayError(ErrorCode.RATE_LIMITED, msg, retryAfterMs=RETRY_MS)


def _refused_wake(reply: Failure | LinkClosedError) -> GatewayError:
    if isinstance(reply, LinkClosedError):
        return unavailable("the gateway is stopping")
    try:
        refusal = failure_error(reply)
    except RemoteProtocolError:
        return unavailable("the tenant's worker cannot start")
    if refusal.code is not ErrorCode.UNAVAILABLE:
        return unavailable("the tenant's worker cannot start")
    return GatewayError(
        refusal.code, refusal.message, **{"retryAfterMs": RETRY_MS, **refusal.details}
    )
