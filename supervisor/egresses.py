"""Keeps egress: each one knows settings and quotas, and workers get links to the present one."""

import asyncio
import contextlib
import functools
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from protocol import egress
from protocol.errors import ErrorCode, GatewayError, LinkClosedError
from protocol.quotas import Standing, Use, UseAsked
from supervisor.config import Config
from supervisor.egress import confinement
from supervisor.egress_process import EgressProcess
from supervisor.isolation import Report
from supervisor.keeper import Keeper
from supervisor.logs import Log
from supervisor.quotas import Quotas
from supervisor.registry import Tenant
from supervisor.workers import Workers

QUOTAS_PER_CALL: Final = 1000
UNCHARGED_MAX: Final = 10_000
"""Sandboxes that may end while there is no egress; of more, the oldest cost nothing."""
ANSWER_SECONDS: Final = 5.0


class Around(Protocol):
    """What is needed of the supervisor."""

    @property
    def config(self) -> Config:
        """What is in force."""

    @property
    def rows(self) -> dict[str, Tenant]:
        """The tenants."""

    @property
    def workers(self) -> Workers:
        """Whose links it tells of."""

    @property
    def quotas(self) -> Quotas:
        """Who is told what tenants have come to."""


class Egresses(Keeper[EgressProcess]):
    """See the module.

    Args:
        ledger: The directory of what it keeps.
        isolation: As whom it runs, and whether system calls can be filtered.
        around: The supervisor.
        then: See `Keeper`, like the others.
    """

    def __init__(
        self,
        ledger: Path,
        isolation: Report,
        around: Around,
        then: Callable[[], None],
        run: Callable[[Coroutine[Any, Any, None]], None],
        log: Log,
        respawns: Counter[str],
    ) -> None:
        super().__init__("egress", self._started, then, run, log, respawns)
        self._ledger: Final = ledger
        self._isolation: Final = isolation
        self._around: Final = around
        self.on_started: Callable[[EgressProcess], None] = lambda _: None
        """Called with each new one."""
        self._uncharged: Final[deque[egress.Ran]] = deque(maxlen=UNCHARGED_MAX)

    async def _started(self) -> EgressProcess:
        process = EgressProcess(
            functools.partial(self._around.workers.shared_lost_link, "egress"),
            self._around.quotas.on_standing,
            self.ended,
            self._log.bind(source="egress"),
        )
        settings = self._settings(self._around.config)
        await process.start(settings)
        self.on_started(process)
        while self._uncharged:
            process.charge(self._uncharged.popleft())
        self._run(self._tell_all(process, settings))
        return process

    async def _tell_all(self, process: EgressProcess, begun_with: egress.Settings) -> None:
        config = self._around.config
        if self._settings(config) != begun_with:  # a reload came before it was the present one
            with contextlib.suppress(GatewayError):
                await self.configure(config)
        await self._tell_quotas(process, self._around.rows)

    async def _tell_quotas(self, process: EgressProcess, tenants: Iterable[str]) -> None:
        known = self._around.rows
        rows = [known[tenant] for tenant in tenants if tenant in known]
        with contextlib.suppress(GatewayError, LinkClosedError, TimeoutError):
            for first in range(0, len(rows), QUOTAS_PER_CALL):
                part = rows[first : first + QUOTAS_PER_CALL]
                quotas = tuple(egress.QuotaOf(tenant=row.id, quota=row.quota) for row in part)
                async with asyncio.timeout(ANSWER_SECONDS):
                    body = await process.call("quotas", egress.Quotas(quotas=quotas))
                told = msgspec.json.decode(body, type=tuple[Standing, ...])
                await self._around.quotas.settle((row.id for row in part), told)

    async def configure(self, config: Config) -> None:
        """Have the present one go by this configuration.

        One that does not answer is replaced by one that knows it.
        """
        if self.present is not None:
            with contextlib.suppress(LinkClosedError, TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self.present.configure(self._settings(config))

    async def limit(self, *tenants: str) -> None:
        """Have quotas be in force as the registry has them, and who is blocked by them be known.

        One that does not answer is replaced by one that knows all.
        """
        if self.present is not None:
            await self._tell_quotas(self.present, tenants)

    def charge(self, ran: egress.Ran) -> None:
        """Have a sandbox be charged that has ended; while there is no egress, by the next one."""
        if self.present is None:
            self._uncharged.append(ran)
        else:
            self.present.charge(ran)

    def forget(self, tenant: str) -> None:
        """A tenant is gone."""
        if self.present is not None:
            self.present.forget(tenant)

    async def spent(self, tenant: str) -> tuple[Use, ...]:
        """Say what of tokens, cost and runs is used.

        Raises:
            GatewayError: UNAVAILABLE: it is being replaced.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                process = await self.get()
                body = await process.call("quota.use", UseAsked(tenant=tenant))
        except (LinkClosedError, TimeoutError):
            message = "what is used is not known just now; try again"
            raise GatewayError(ErrorCode.UNAVAILABLE, message, retryAfterMs=1000) from None
        return msgspec.json.decode(body, type=tuple[Use, ...])

    def _settings(self, config: Config) -> egress.Settings:
        section = config.egress
        return egress.Settings(
            ledger_directory=str(self._ledger),
            uid=self._isolation.egress_uid,
            policy=b"" if self._isolation.found.seccomp else confinement.policy(),
            providers={
                name: egress.Provider(type=each.type, base_url=each.base_url.rstrip("/"))
                for name, each in config.providers.items()
            },
            billing=config.billing.billing(),
            models={
                name: egress.Model(
                    provider=each.provider,
                    upstream_model=each.upstream_model or name,
                    context_window=each.context_window,
                    max_output_tokens=each.max_output_tokens,
                    input=each.input,
                    embeds=each.embeds,
                    fallbacks=each.fallbacks,
                )
                for name, each in config.models.items()
            },
            allow_hosts=section.allow_hosts,
            fetch_hosts=section.fetch_hosts,
            sandbox_hosts=config.sandbox.network,
            concurrent=section.concurrent,
            connect_seconds=section.connect_seconds,
            first_byte_seconds=section.first_byte_seconds,
            idle_seconds=section.idle_seconds,
            total_seconds=section.total_seconds,
            retries=section.retries,
            own_keys=section.own_keys,
            keys={
                name: each.api_key.text()
                for name, each in config.providers.items()
                if each.api_key is not None
            },
        )
