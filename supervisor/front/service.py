"""What all connections of one front share, and its way from start to drained."""

import asyncio
import resource
import time
from collections import deque
from math import inf
from pathlib import Path
from typing import Final

import msgspec
from websockets.frames import CloseCode

from protocol import limits
from protocol.aio import LinkEnd, OnReply
from protocol.errors import ErrorCode, GatewayError, LinkClosedError
from protocol.frames import Event as EventFrame
from protocol.meters import LAG_INTERVAL_SECONDS, FrontMeters
from protocol.params import NAME_CHARS_SHOWN, printable
from protocol.quotas import Counted, CountedRequests
from protocol.spawn import (
    DetachParams,
    FrontSettings,
    FrontSpec,
    TenantLoad,
    TenantsUpdate,
    TerminalAttached,
)
from supervisor.front.addresses import Places, Proxies
from supervisor.front.auth import Grant, TokenTable
from supervisor.front.connection import Connection
from supervisor.front.failures import Failures
from supervisor.front.gate import Counts
from supervisor.front.head import host_name
from supervisor.front.intake import unauthorized
from supervisor.front.log import Log
from supervisor.front.routes import Routes
from supervisor.front.sockets import Socket, Sockets
from supervisor.front.supervised import Supervised
from supervisor.front.tenants import Tenant, unavailable
from supervisor.front.turns import Turns
from supervisor.tls import load, server_context

TICK_SECONDS: Final = LAG_INTERVAL_SECONDS
CUT_GRACE_SECONDS: Final = 1.0
CLIENTS_SEEN_AT_ONCE: Final = 32

IDLE: Final = TenantLoad()


class Front:
    """Implements what `connection.House`, `tenants.Surroundings` and `routes.State` ask for."""

    now = staticmethod(time.monotonic)

    def __init__(self, spec: FrontSpec, log: Log) -> None:
        self.log = log
        self.meters = FrontMeters()
        self.notices: Final = spec.notices
        self.version: Final = spec.version
        self.hosts: frozenset[str] = frozenset()
        self.origins: frozenset[str] = frozenset()
        self.tls: Final = server_context() if spec.settings.tls_directory else None
        self._places: Final = Places()
        self.tokens = TokenTable()
        self._apply(spec.settings)
        self.turns = Turns()
        self.incoming = memoryview(bytearray(limits.READ_BYTES_MAX))
        self.failures: Final = Failures(log, lambda: self._places.proxies)
        self.routes = Routes(self)
        self.counts = Counts(self._tell_counts)
        self.supervised = Supervised(spec.supervised, self.ask_supervisor, self.now)
        self.loaded = False
        self.draining = False
        self.bytes_in_flight = 0
        self.control_calls = 0
        self.supervisor: LinkEnd | None = None
        self.ready: Final = asyncio.Event()
        self.drain_begun: Final = asyncio.Event()
        self.drained: Final = asyncio.Event()
        self._tenants: dict[str, Tenant] = {}
        self._holding: set[Tenant] = set()
        # The other half of the descriptors is for links to workers.
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._connections_max: Final = min(limits.HTTP_CONNECTIONS_MAX, descriptors // 2)
        self.sockets: Final = Sockets(limits.SOCKETS_MAX, self._socket_left)
        self._connections: set[Connection] = set()
        self._expected: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._unseen: deque[Connection | Socket] = deque()
        self._drain_deadline = inf
        self._was_cut = False
        self._loop: Final = asyncio.get_running_loop()
        self._tick_due = self.now()
        self._tick()

    @property
    def condition(self) -> str:
        """See `routes.State`."""
        if self.draining:
            return "draining"
        return "ready" if self.loaded else "starting"

    # connection.House

    def enter(self, connection: Connection, address: str) -> bool:
        """See `House`."""
        if connection in self._expected:
            self._expected.remove(connection)
        elif not self._take_place(address):
            return False
        self._connections.add(connection)
        return True

    def _take_place(self, address: str) -> bool:
        taken = len(self._connections) + len(self._expected) + len(self.sockets)
        has_room = not self.draining and taken < self._connections_max
        if has_room and self._places.take(address):
            return True
        self.meters.refused_connections += 1
        return False

    def see_off(self, connection: Connection) -> bool:
        """See `House`."""
        if len(self._refused) >= limits.HTTP_REFUSED_CONNECTIONS_MAX:
            return False
        self._refused.add(connection)
        return True

    def leave(self, connection: Connection, address: str) -> None:
        """See `House`."""
        self._refused.discard(connection)
        if connection in self._connections:
            self._connections.remove(connection)
            self._places.give_back(address)
        self._check_drained()

    def pass_on(self, connection: Connection) -> None:
        """See `House`."""
        self._connections.remove(connection)

    # socket_end.Hall

    def note_attached(self, grant: Grant, terminal_id: str, address: str) -> None:
        """See `Hall`. Not more lines than one tenant may fill the audit with."""
        if self.supervisor is None or not grant.tenant.attachments.take(self.now()):
            return
        told = TerminalAttached(
            tenant=grant.tenant.name,
            token_id=grant.token_id,
            terminal_id=printable(terminal_id, NAME_CHARS_SHOWN - 1),
            address=address,
        )
        self.supervisor.link.send(EventFrame("terminal.attached", msgspec.json.encode(told)))
        self.supervisor.flush()

    def _socket_left(self, address: str) -> None:
        self._places.give_back(address)
        self._check_drained()

    # handshake.Hall

    def expect(self, connection: Connection, address: str) -> bool:
        """See `Hall`."""
        if not self._take_place(address):
            return False
        self._expected.add(connection)
        return True

    def expect_no_more(self, connection: Connection, address: str) -> None:
        """See `Hall`."""
        if connection in self._expected:
            self._expected.remove(connection)
            self._places.give_back(address)
            self._check_drained()

    # tenants.Surroundings

    def ask_supervisor(self, method: str, params: bytes, on_reply: OnReply) -> None:
        """See `Surroundings`."""
        if self.supervisor is None:
            msg = "the supervisor is not there yet"
            raise LinkClosedError(msg)
        self.counts.report()  # what is asked may be about them
        self.supervisor.start_call(method, params, on_reply)

    def _tell_counts(self, counts: tuple[Counted, ...]) -> None:
        supervisor = self.supervisor
        if supervisor is not None and not supervisor.closed:
            body = msgspec.json.encode(CountedRequests(counts))
            supervisor.link.send(EventFrame("quota.counted", body))
            supervisor.flush()

    def holding(self, tenant: Tenant, *, holds: bool) -> None:
        """See `Surroundings`."""
        if holds:
            self._holding.add(tenant)
        else:
            self._holding.discard(tenant)

    # For the supervisor's messages.

    def tenant(self, name: str) -> Tenant:
        """Give the tenant of this name, made when it is first heard of."""
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = Tenant(name, self)
        return tenant

    def forget_unknown(self, tenant: Tenant) -> None:
        """Let go of a tenant that is gone and has no link any more."""
        if not self.tokens.knows(tenant.name) and not tenant.has_link and not tenant.held:
            self._tenants.pop(tenant.name, None)

    def update(self, params: bytes) -> bytes:
        """Take a change of tenants and tokens; it is in force when this returns.

        Raises:
            GatewayError: INVALID_REQUEST: it cannot be read. What came before the fault holds.
        """
        try:
            change = msgspec.json.decode(params, type=TenantsUpdate)
            for access in change.known:
                tenant = self.tenant(access.tenant)
                self._cut(self.tokens.put(tenant, access))
                tenant.limit(access.quota)
                if not access.enabled:
                    tenant.refuse_held(unavailable("the tenant is not enabled"))
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            msg = f"tenants.update: {error}"
            raise GatewayError(ErrorCode.INVALID_REQUEST, msg) from error
        for counted in change.counts:
            if counted.tenant in self._tenants:
                self._tenants[counted.tenant].restore(counted)
        for standing in change.standings:
            if standing.tenant in self._tenants:
                self._tenants[standing.tenant].stand(standing, known=not self.loaded)
        self._cut(self.tokens.remove(change.gone))
        for name in change.gone:
            gone = self._tenants.get(name)
            if gone is not None:
                gone.lift()
                gone.refuse_held(unavailable("the tenant is gone"))
                self.forget_unknown(gone)
        if change.complete:
            self.loaded = True
            self.ready.set()
        return b"{}"

    def configure(self, params: bytes) -> bytes:
        """Take what the operator has decided anew; it is in force when this returns.

        Raises:
            GatewayError: INVALID_REQUEST: it cannot be used, and changes nothing.
        """
        try:
            self._apply(msgspec.json.decode(params, type=FrontSettings))
        except (msgspec.DecodeError, RecursionError, ValueError, OSError) as error:
            msg = f"front.configure: {error}"
            raise GatewayError(ErrorCode.INVALID_REQUEST, msg) from error
        return b"{}"

    def _apply(self, settings: FrontSettings) -> None:
        proxies = Proxies(settings.trusted_proxies)
        if self.tls is not None and settings.tls_directory is not None:
            load(self.tls, Path(settings.tls_directory))
        self._places.proxies = proxies
        self._places.each_max = settings.connections_per_address_max
        self.origins = frozenset(settings.allowed_origins)
        self.hosts = frozenset(
            name
            for host in settings.allowed_hosts
            if (name := host_name(host.encode())) is not None
        )
        # What was found good under the old settings is judged again.
        self.tokens.version += 1

    def detach(self, params: bytes) -> bytes:
        """Send nothing new to a generation of a tenant's worker; in force when this returns.

        Raises:
            GatewayError: INVALID_REQUEST: it cannot be read.
        """
        try:
            what = msgspec.json.decode(params, type=DetachParams)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            msg = f"worker.detach: {error}"
            raise GatewayError(ErrorCode.INVALID_REQUEST, msg) from error
        tenant = self._tenants.get(what.tenant)
        if tenant is not None:
            tenant.detach(what.generation)
        return b"{}"

    def load(self, _params: bytes) -> bytes:
        """Give what is in flight and held, by tenant; tenants without either are left out."""
        found = {name: tenant.load() for name, tenant in self._tenants.items()}
        return msgspec.json.encode({name: load for name, load in found.items() if load != IDLE})

    def count(self, _params: bytes) -> bytes:
        """Give what has been counted, and how many of everything there are now."""
        meters = self.meters
        loads = [tenant.load() for tenant in self._tenants.values()]
        meters.connections, meters.websockets = len(self._connections), len(self.sockets)
        meters.held = sum(load.held for load in loads)
        meters.in_flight = sum(load.in_flight for load in loads)
        return msgspec.json.encode(meters)

    def drain(self, seconds: float) -> None:
        """Begin no new work; `drained` is set when all that was begun is done or refused."""
        if self.draining:
            return
        self.draining = True
        self.drain_begun.set()
        self._drain_deadline = self.now() + seconds
        self.log.info("drain", seconds=seconds, connections=len(self._connections))
        for connection in list(self._connections):
            connection.drain()
        for socket in self.sockets:
            socket.drain()
        self._check_drained()

    # Inside.

    def _check_drained(self) -> None:
        if self.draining and not (self._connections or self._expected or self.sockets):
            self.drained.set()

    def _cut(self, digests: frozenset[bytes]) -> None:
        """End whatever these tokens have opened: they are good no more."""
        if digests:
            error = unauthorized()
            for connection in list(self._connections):
                connection.revoke(digests, error)
            self.sockets.revoke(digests, error)

    def _look(self) -> None:
        """Look at the deadlines of some clients, then at what else is to be done, then go on."""
        now, unseen = self.now(), self._unseen
        for _ in range(min(len(unseen), CLIENTS_SEEN_AT_ONCE)):
            unseen.popleft().tick(now)
        if unseen:
            self._loop.call_soon(self._look)

    def _tick(self) -> None:
        """Look at every deadline there is: one timer instead of one for each request."""
        now = self.now()
        self.meters.loop_lag.observe(max(0.0, now - self._tick_due))
        self._tick_due = now + TICK_SECONDS
        self._loop.call_later(TICK_SECONDS, self._tick)
        self._cut(self.tokens.expire())
        self.counts.tick(now)
        if not self._unseen:
            self._unseen += (*self._connections, *self._refused, *self.sockets.due(now))
            self._look()
        for tenant in list(self._holding):
            tenant.expire_held(now)
        if now >= self._drain_deadline:
            self._drain_deadline = now + CUT_GRACE_SECONDS
            error = unavailable("the gateway is stopping")
            for connection in list(self._connections):
                if self._was_cut:
                    connection.abort()
                else:
                    connection.cut(error)
            for socket in self.sockets:
                if self._was_cut:
                    socket.abort()
                else:
                    socket.close(CloseCode.GOING_AWAY, error.message, cut=True)
            self._was_cut = True
