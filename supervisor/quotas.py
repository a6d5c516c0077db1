"""What the supervisor keeps of quotas, for the front and each next one: requests and standings.

The front counts requests and says so about once a second; egress decides who is blocked. Both are
kept here, and in the registry, so that neither another front nor another start of the gateway opens
a window again. Killed, a front forgets what it counted in its last second, and a gateway what came
in the `KEEP_SECONDS` before as well: so much more a tenant can ask for in that window. What is
spent is egress's to count, which forgets nothing.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, Protocol

import msgspec

from protocol.errors import GatewayError
from protocol.methods.tenants import QuotaStatus
from protocol.quotas import (
    HOUR_MS,
    MINUTE_MS,
    Counted,
    CountedRequests,
    Quota,
    Standing,
    Use,
    exceeded,
    limit_of,
)
from protocol.spawn import TENANTS_PER_UPDATE_MAX, TenantsUpdate
from supervisor.disk import Disk
from supervisor.logs import Log
from supervisor.quota_status import quota_status
from supervisor.registry import Registry, Tenant

KEEP_SECONDS: Final = 2.0
"""How often what has changed is written into the registry."""


class Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the registry has of one tenant."""

    counted: Counted | None = None
    standing: Standing | None = None


class Around(Protocol):
    """What is needed of the supervisor."""

    def row(self, tenant: str) -> Tenant | None:
        """Give what the registry has of a tenant."""

    async def tell_front(self, *changes: TenantsUpdate) -> None:
        """See `supervisor.actions.Around`."""

    def forget_spending(self, tenant: str) -> None:
        """Have egress know that a tenant is gone."""

    async def spent(self, tenant: str) -> tuple[Use, ...]:
        """Ask egress what of tokens, cost and runs is used.

        Raises:
            GatewayError: UNAVAILABLE: it is being replaced.
        """


class Quotas:
    """See the module.

    Args:
        registry: Where it is kept; used on `disk`.
        disk: Its thread.
        around: The supervisor.
        spawn: Has something done in the background.
        now_ms: The time of day, in Unix ms.
        log: For a disk that does not take it.
    """

    def __init__(
        self,
        registry: Registry,
        disk: Disk,
        around: Around,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        now_ms: Callable[[], int],
        log: Log,
    ) -> None:
        self._registry: Final = registry
        self._disk: Final = disk
        self._around: Final = around
        self._spawn: Final = spawn
        self._now_ms: Final = now_ms
        self._log: Final = log
        self._kept: Final[dict[str, Kept]] = {}
        self._changed: Final[dict[str, None]] = {}

    async def load(self) -> None:
        """Take up what was kept; after the rows of tenants, and before there is a front."""
        for tenant, text in await self._disk(self._registry.kept_quotas):
            row = self._around.row(tenant)
            kept = msgspec.json.decode(text, type=Kept)
            if row is None:
                continue
            if kept.standing is not None and not _holds(kept.standing, row.quota, self._now_ms()):
                kept = msgspec.structs.replace(kept, standing=None)
            self._kept[tenant] = kept

    def known(self) -> Iterable[TenantsUpdate]:
        """Give what a new front is to know."""
        kept = list(self._kept.values())
        for first in range(0, len(kept), TENANTS_PER_UPDATE_MAX):
            part = kept[first : first + TENANTS_PER_UPDATE_MAX]
            yield TenantsUpdate(
                counts=tuple(each.counted for each in part if each.counted is not None),
                standings=tuple(each.standing for each in part if each.standing is not None),
            )

    # What front and egress say.

    def on_counted(self, told: CountedRequests) -> None:
        """Take the front's word on requests; of tenants that it should not know it is not taken."""
        for counted in told.counts:
            if self._around.row(counted.tenant) is not None:
                self._keep(counted.tenant, counted=counted)

    def on_standing(self, standing: Standing) -> None:
        """Take egress's word on a tenant, and have the front know."""
        if self._take(standing):
            self._spawn(self._around.tell_front(TenantsUpdate(standings=(standing,))))

    async def settle(self, asked: Iterable[str], told: Iterable[Standing]) -> None:
        """Take what a new egress says of the tenants it was asked about: the others are at ease."""
        at_ease = {
            tenant: Standing(tenant=tenant) for tenant in asked if not self._is_nearly_used(tenant)
        }
        standings = at_ease | {standing.tenant: standing for standing in told}
        news = tuple(standing for standing in standings.values() if self._take(standing))
        if news:
            await self._around.tell_front(TenantsUpdate(standings=news))

    def _is_nearly_used(self, tenant: str) -> bool:
        """Say whether a window is over with a rest left in it, which another egress cannot know."""
        row, standing = self._around.row(tenant), self.standing(tenant)
        blocked = standing.blocked
        return (
            row is not None
            and blocked is not None
            and blocked.used < blocked.limit
            and _holds(standing, row.quota, self._now_ms())
        )

    def forget(self, tenant: str) -> None:
        """A tenant is being deleted."""
        self._kept.pop(tenant, None)
        self._changed.pop(tenant, None)
        self._around.forget_spending(tenant)

    def _take(self, standing: Standing) -> bool:
        """Say whether it is news."""
        tenant = standing.tenant
        if self._around.row(tenant) is None:
            return False
        before = self._kept.get(tenant, Kept()).standing or Standing(tenant=tenant)
        if before != standing:
            self._keep(tenant, standing=standing)
        return before != standing

    def _keep(self, tenant: str, **what: Counted | Standing) -> None:
        self._kept[tenant] = msgspec.structs.replace(self._kept.get(tenant, Kept()), **what)
        self._changed[tenant] = None

    # What is asked.

    async def status(self, tenant: Tenant, disk: tuple[int, int] | None) -> QuotaStatus:
        """Say what a tenant's quota has come to.

        Args:
            tenant: Whose.
            disk: Bytes that it has and may have, where both are known.

        Raises:
            GatewayError: UNAVAILABLE: egress is being replaced.
        """
        uses = (*await self._around.spent(tenant.id), *self.requests(tenant.id, tenant.quota))
        return quota_status(tenant.quota, uses, self.standing(tenant.id), disk)

    def standing(self, tenant: str) -> Standing:
        """Say how a tenant stands with egress, in the window that goes on."""
        standing = self._kept.get(tenant, Kept()).standing
        if standing is None or (
            standing.blocked is not None and standing.blocked.resets_at_ms <= self._now_ms()
        ):
            return Standing(tenant=tenant)
        return standing

    def blocked(self, tenant: str) -> str | None:
        """Say why a tenant may not spend, if it may not."""
        reached = self.standing(tenant).blocked
        return None if reached is None else exceeded(reached, self._now_ms()).message

    def requests(self, tenant: str, quota: Quota) -> tuple[Use, ...]:
        """Give the requests of the present windows that are limited."""
        now_ms = self._now_ms()
        minute, hour = now_ms // MINUTE_MS, now_ms // HOUR_MS
        counted = self._kept.get(tenant, Kept()).counted
        if counted is None:
            counted = Counted(tenant, minute, 0, hour, 0)
        uses = (
            Use(
                metric="requestsPerMinute",
                used=counted.in_minute if counted.minute == minute else 0,
                limit=quota.requests_per_minute,
                resets_at_ms=(minute + 1) * MINUTE_MS,
            ),
            Use(
                metric="requestsPerHour",
                used=counted.in_hour if counted.hour == hour else 0,
                limit=quota.requests_per_hour,
                resets_at_ms=(hour + 1) * HOUR_MS,
            ),
        )
        return tuple(use for use in uses if use.limit is not None)

    # The registry.

    async def keep_writing(self) -> None:
        """Write what has changed, again and again."""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write what has changed; what the disk does not take is written the next time."""
        changed = list(self._changed)
        if not changed:
            return
        self._changed.clear()
        texts = [(tenant, msgspec.json.encode(self._kept[tenant])) for tenant in changed]
        try:
            await self._disk(self._registry.keep_quotas, texts)
        except GatewayError as error:
            self._changed.update((tenant, None) for tenant in changed if tenant in self._kept)
            self._log.warning("requests cannot be written", error=error.message)


def _holds(standing: Standing, quota: Quota, now_ms: int) -> bool:
    """Say whether a standing can still be: its window goes on, and the limit is the same."""
    blocked = standing.blocked
    return blocked is None or (
        blocked.resets_at_ms > now_ms and limit_of(quota, blocked.metric) == blocked.limit
    )
