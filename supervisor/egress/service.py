"""What egress is asked: by the supervisor to know workers, by workers for models.

What a worker may ask is the table `Egress.methods`: a name, and what answers it: a coroutine that
is given the `Caller` and the parameters as they came, and gives the result as JSON. A part of
egress that answers more adds its line there. What else a worker sends ends its link, and counts as
its crash.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from protocol import aio, egress, frames, limits
from protocol.errors import ErrorCode, GatewayError, RemoteProtocolError
from protocol.link import LIVENESS, REQUESTS
from protocol.models import EmbedRequest, ModelRequest
from protocol.moments import unix_ms
from protocol.pace import Pace
from protocol.quotas import UseAsked, exceeded
from protocol.spawn import LinkLost
from protocol.usage import Question
from supervisor.answering import answer, breach
from supervisor.egress import asking
from supervisor.egress.caller import Caller, Tenant, decoded
from supervisor.egress.keys import OwnKeys
from supervisor.egress.ledger_till import LedgerTill
from supervisor.egress.outward import Outward, Traffic
from supervisor.egress.proxies import Proxies
from supervisor.egress.usage import UsageDesk
from supervisor.front.log import Log
from supervisor.handed import Handed

FROM_SUPERVISOR: Final = LIVENESS | REQUESTS | {frames.Event}
FROM_WORKER: Final = REQUESTS
_DESCRIPTORS: Final = dict.fromkeys((egress.Place, egress.Proxies), 1)

Method = Callable[[Caller, bytes], Awaitable[bytes]]
_encode: Final = msgspec.json.Encoder().encode


class WorkerLink:
    """One generation of a tenant's worker; a `LinkHandler`.

    Args:
        owner: Where it is one of many.
        tenant: Whose it is.
        generation: Which.
    """

    def __init__(self, owner: "Egress", tenant: Tenant, generation: int) -> None:
        self._owner: Final = owner
        self.tenant: Final = tenant
        self.generation: Final = generation
        self._loop: Final = asyncio.get_running_loop()
        self._open: Final[dict[int, tuple[asyncio.Task[bytes], Caller]]] = {}
        self._pace: Final = Pace(limits.EGRESS_CALLS_PER_SECOND * 2, limits.EGRESS_CALLS_BURST * 2)

    # protocol.aio.LinkHandler

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        """See `LinkHandler`.

        Raises:
            RemoteProtocolError: no worker of ours asks for this.
        """
        if not self._pace.take(self._loop.time()):
            reason = "more calls than a worker may make"
            raise RemoteProtocolError(reason)
        method = self._owner.methods.get(call.method)
        if method is None:
            reason = f"a call of {call.method[:64]!r}, which egress does not have"
            raise RemoteProtocolError(reason)
        caller = Caller(self.tenant, end, call)
        task = self._loop.create_task(_called(method, caller, call.params))
        self._open[call.id] = task, caller
        task.add_done_callback(partial(self._on_done, end, call.id))

    def _on_done(self, end: aio.LinkEnd, call_id: int, task: "asyncio.Task[bytes]") -> None:
        _, caller = self._open.pop(call_id)
        answer(end, call_id, task, "egress", self._owner.log, streams=caller.streams)

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`."""
        opened = self._open.get(call_id)
        if opened is not None:
            opened[0].cancel()

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`."""
        opened = self._open.get(call_id)
        if opened is not None:
            opened[1].on_credit()

    def on_notice(self, end: aio.LinkEnd, frame: object) -> NoReturn:
        """See `LinkHandler`. The link takes none."""
        raise TypeError(type(frame).__name__)

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`. Its calls end with it; the supervisor hears why."""
        for task, _ in self._open.values():
            task.cancel()
        self._owner.lost(self, breach(reason))


async def _called(method: Method, caller: Caller, params: bytes) -> bytes:
    with caller.tenant.holding(len(params)):
        return await method(caller, params)


class Egress:
    """All tenants.

    Args:
        settings: What the operator has decided.
        channel: Where the supervisor hands over links; non-blocking.
        till: Where every call is paid.
        outward: What asks somebody outside.
        log: For what only an operator must know.
    """

    def __init__(
        self,
        settings: egress.Settings,
        channel: socket.socket,
        till: LedgerTill,
        outward: Outward,
        own_keys: OwnKeys,
        log: Log,
    ) -> None:
        self.till: Final = till
        self.log: Final = log
        self.supervisor: aio.LinkEnd | None = None
        self._outward: Final = outward
        self.own_keys: Final = own_keys
        self.providers = asking.Providers(settings, outward.configured(settings), own_keys)
        self.usage: Final = UsageDesk(Path(settings.ledger_directory), own_keys.providers)
        self._tenants: Final[dict[str, Tenant]] = {}
        self._proxies: Final = Proxies(
            lambda: self.providers.settings, till.moved, self._check_spends, log
        )
        self._handed: Final = Handed(channel, egress.Handed, _DESCRIPTORS, self._take, log)
        self.methods: Final[dict[str, Method]] = {
            "model": self._model,
            "embed": self._embed,
            "models": self._models,
            "fetch": self._fetch,
            "usage": self._usage,
            "key.set": self._key_set,
            "keys": self._keys,
        }
        """What workers may ask; see the module."""
        self.asked: Final[dict[str, Callable[[bytes], Awaitable[bytes]]]] = {
            "configure": self._configure,
            "quotas": self._quotas,
            "quota.use": self._use,
        }
        """What the supervisor may ask."""
        self.told: Final[dict[str, Callable[[bytes], None]]] = {
            "gone": self._on_gone,
            "sandbox.ran": self._on_ran,
        }
        """What the supervisor tells, by topic."""

    def close(self) -> None:
        """Take no more workers."""
        self._handed.close()
        self.usage.close()
        self.own_keys.close()
        self._proxies.close()

    async def _take(self, message: egress.Handed, ends: list[socket.socket]) -> None:
        (end,) = ends
        match message:
            case egress.Place():
                tenant = self._tenants.get(message.tenant)
                if tenant is None:
                    tenant = self._tenants[message.tenant] = Tenant(message.tenant)
                tenant.links += 1
                tenant.since_ms = message.since_ms
                self.till.limit(message.tenant, message.quota)
                await aio.attach(end, FROM_WORKER, WorkerLink(self, tenant, message.generation))
            case egress.Proxies():
                self._proxies.use(end)

    def lost(self, link: WorkerLink, reason: str | None) -> None:
        """Forget a worker, and tell the supervisor."""
        tenant = link.tenant
        tenant.links -= 1
        if not tenant.links and self._tenants.get(tenant.name) is tenant:
            del self._tenants[tenant.name]
        told = LinkLost(tenant=tenant.name, generation=link.generation, reason=reason)
        self.tell("worker.link_lost", told)

    def tell(self, topic: str, message: msgspec.Struct) -> None:
        """Tell the supervisor something."""
        if self.supervisor is not None and not self.supervisor.closed:
            self.supervisor.link.send(frames.Event(topic, _encode(message)))
            self.supervisor.flush()

    def _check_spends(self, tenant: str) -> None:
        """Let pass a tenant that may spend.

        Raises:
            GatewayError: QUOTA_EXCEEDED.
        """
        for standing in self.till.standings((tenant,)):
            if standing.blocked is not None:
                raise exceeded(standing.blocked, unix_ms())

    # What workers ask.

    async def _model(self, caller: Caller, params: bytes) -> bytes:
        request = decoded("model", params, ModelRequest)
        async with caller.tenant.going_out(self.providers.settings.concurrent):
            return _encode(await asking.ask(self.providers, self.till, caller, request))

    async def _embed(self, caller: Caller, params: bytes) -> bytes:
        request = decoded("embed", params, EmbedRequest)
        async with caller.tenant.going_out(self.providers.settings.concurrent):
            return _encode(await asking.embed(self.providers, self.till, caller, request))

    async def _models(self, caller: Caller, _params: bytes) -> bytes:
        return _encode(self.providers.shown(caller.tenant.name))

    async def _usage(self, caller: Caller, params: bytes) -> bytes:
        question = decoded("usage", params, Question)
        return await self.usage.answer(caller.tenant.name, question.asked, caller.tenant.since_ms)

    async def _key_set(self, caller: Caller, params: bytes) -> bytes:
        asked = decoded("key.set", params, egress.OwnKey)
        tenant, provider = caller.tenant.name, asked.provider
        if asked.key is None:
            return _encode(self.own_keys.delete(tenant, provider))
        self.providers.check_own_key(provider)
        self.own_keys.set(tenant, provider, asked.key, unix_ms())
        return b"true"

    async def _keys(self, caller: Caller, _params: bytes) -> bytes:
        return _encode(self.own_keys.known(caller.tenant.name))

    async def _fetch(self, caller: Caller, params: bytes) -> bytes:
        request = decoded("fetch", params, egress.FetchRequest)
        tenant, traffic = caller.tenant.name, Traffic()
        if self._outward.fetcher is None:
            msg = "url: egress.fetch_hosts names no host"
            raise GatewayError(ErrorCode.FORBIDDEN, msg, field="url")
        self._check_spends(tenant)
        try:
            async with caller.tenant.going_out(self.providers.settings.concurrent):
                return _encode(await self._outward.fetcher.fetch(tenant, request, traffic))
        finally:
            if traffic.moved:
                self.till.moved(tenant, "fetch", traffic.moved, run_id=request.run_id)

    # What the supervisor says.

    async def _configure(self, params: bytes) -> bytes:
        settings = msgspec.json.decode(params, type=egress.Settings)
        upstreams = self._outward.configured(settings)
        self.providers = asking.Providers(settings, upstreams, self.own_keys)
        self.till.configure(settings)
        return b"{}"

    async def _quotas(self, params: bytes) -> bytes:
        quotas = msgspec.json.decode(params, type=egress.Quotas).quotas
        for each in quotas:
            self.till.limit(each.tenant, each.quota)
        return _encode(self.till.standings(each.tenant for each in quotas))

    async def _use(self, params: bytes) -> bytes:
        return _encode(self.till.uses(msgspec.json.decode(params, type=UseAsked).tenant))

    def _on_gone(self, body: bytes) -> None:
        told = msgspec.json.decode(body, type=egress.Gone)
        self.till.forget(told.tenant)
        try:
            self.own_keys.forget(told.tenant)
        except GatewayError as error:
            self.log.broken("keys of a tenant that is gone", error)

    def _on_ran(self, body: bytes) -> None:
        self.till.ran(msgspec.json.decode(body, type=egress.Ran))
