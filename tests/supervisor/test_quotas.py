"""What the supervisor keeps of quotas, for the next front and for its own next start."""

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from protocol.methods.tenants import QuotaStatus, QuotaWindow
from protocol.moments import rfc3339
from protocol.quotas import (
    HOUR_MS,
    MINUTE_MS,
    Counted,
    CountedRequests,
    Quota,
    Reached,
    Standing,
    Use,
    window_end,
)
from protocol.spawn import TenantsUpdate
from supervisor.disk import Disk
from supervisor.quotas import Quotas
from supervisor.registry import Registry, Tenant

NOW = 1000 * HOUR_MS + 90_000
QUOTA = Quota(requests_per_minute=5, requests_per_hour=50, tokens_per_day=100)
BLOCKED = Standing(
    tenant="acme",
    blocked=Reached(metric="tokensPerDay", limit=100, used=101, resets_at_ms=NOW + HOUR_MS),
)
COUNTED = Counted("acme", NOW // MINUTE_MS, 3, NOW // HOUR_MS, 30)


class Supervisor:
    """The part of the supervisor that `Quotas` sees, on a registry that is real."""

    def __init__(self, path: Path) -> None:
        self.registry = Registry(path)
        self.disk = Disk("disk")
        self.told: list[TenantsUpdate] = []
        self.spent_by: dict[str, tuple[Use, ...]] = {}
        self.now_ms = NOW
        self.quotas = self.start()

    def start(self) -> Quotas:
        self.told.clear()
        return Quotas(
            self.registry, self.disk, self, self._spawn, lambda: self.now_ms, structlog.get_logger()
        )

    async def restarted(self) -> Quotas:
        quotas = self.start()
        await quotas.load()
        return quotas

    def row(self, tenant: str) -> Tenant | None:
        return self.registry.find(tenant)

    async def tell_front(self, *changes: TenantsUpdate) -> None:
        self.told += changes

    def forget_spending(self, tenant: str) -> None:
        """Egress hears of it."""

    async def spent(self, tenant: str) -> tuple[Use, ...]:
        return self.spent_by.get(tenant, ())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.get_running_loop().create_task(work)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path / "registry.sqlite")
    for tenant in ("acme", "globex"):
        supervisor.registry.create(
            tenant, uid_first=None, uid_count=0, display_name=None, quota=QUOTA, now_ms=0
        )
    yield supervisor
    supervisor.disk.close()
    supervisor.registry.close()


def known(quotas: Quotas) -> tuple[tuple[Counted, ...], tuple[Standing, ...]]:
    (update,) = quotas.known()
    return update.counts, update.standings


async def test_the_next_front_and_the_next_start_know_what_there_was(
    supervisor: Supervisor,
) -> None:
    quotas = supervisor.quotas
    quotas.on_counted(CountedRequests((COUNTED,)))
    quotas.on_standing(BLOCKED)
    await asyncio.sleep(0)
    assert supervisor.told == [TenantsUpdate(standings=(BLOCKED,))]
    assert known(quotas) == ((COUNTED,), (BLOCKED,))
    await quotas.write()
    again = await supervisor.restarted()
    assert known(again) == ((COUNTED,), (BLOCKED,))
    assert again.standing("acme") == BLOCKED
    assert again.standing("globex") == Standing(tenant="globex")


async def test_a_standing_that_cannot_be_any_more_is_not_taken_up(supervisor: Supervisor) -> None:
    supervisor.quotas.on_standing(BLOCKED)
    await supervisor.quotas.write()
    supervisor.now_ms = NOW + HOUR_MS
    assert known(await supervisor.restarted()) == ((), ())
    supervisor.now_ms = NOW
    assert known(await supervisor.restarted()) == ((), (BLOCKED,))
    supervisor.registry.update(
        "acme",
        display_name=None,
        quota=Quota(tokens_per_day=200),
        limits=supervisor.registry.get("acme").limits,
    )
    assert known(await supervisor.restarted()) == ((), ())


async def test_the_same_again_is_no_news(supervisor: Supervisor) -> None:
    quotas = supervisor.quotas
    for standing in (Standing(tenant="acme"), BLOCKED, BLOCKED, Standing(tenant="acme")):
        quotas.on_standing(standing)
    await asyncio.sleep(0)
    assert [update.standings for update in supervisor.told] == [
        (BLOCKED,),
        (Standing(tenant="acme"),),
    ]


async def test_a_new_egress_says_who_is_blocked_and_the_others_are_not(
    supervisor: Supervisor,
) -> None:
    quotas = supervisor.quotas
    other = Standing(tenant="globex", blocked=BLOCKED.blocked)
    await quotas.settle(["acme", "globex"], [BLOCKED])
    await quotas.settle(["acme", "globex"], [other, Standing(tenant="nobody", blocked=None)])
    assert [set(update.standings) for update in supervisor.told] == [
        {BLOCKED},
        {Standing(tenant="acme"), other},
    ]
    await quotas.settle(["acme"], [])
    assert len(supervisor.told) == 2
    assert quotas.standing("globex") == other


async def test_a_window_that_is_over_with_a_rest_left_stays_so_when_egress_is_another(
    supervisor: Supervisor,
) -> None:
    quotas = supervisor.quotas
    rest = Standing(
        tenant="acme",
        blocked=Reached(metric="tokensPerDay", limit=100, used=90, resets_at_ms=NOW + HOUR_MS),
    )
    quotas.on_standing(rest)
    await quotas.settle(["acme", "globex"], [])
    assert quotas.standing("acme") == rest
    supervisor.registry.update(
        "acme",
        display_name=None,
        quota=Quota(tokens_per_day=200),
        limits=supervisor.registry.get("acme").limits,
    )
    await quotas.settle(["acme"], [])
    assert quotas.standing("acme") == Standing(tenant="acme")


async def test_of_tenants_that_are_not_there_nothing_is_taken_or_kept(
    supervisor: Supervisor,
) -> None:
    quotas = supervisor.quotas
    quotas.on_counted(CountedRequests((Counted("nobody", 1, 1, 1, 1),)))
    quotas.on_standing(Standing(tenant="nobody", blocked=BLOCKED.blocked))
    assert list(quotas.known()) == []
    quotas.on_counted(CountedRequests((COUNTED,)))
    await quotas.write()
    quotas.on_counted(CountedRequests((COUNTED,)))
    quotas.forget("acme")
    supervisor.registry.finish_delete("acme")
    await quotas.write()
    assert supervisor.registry.kept_quotas() == []
    quotas.on_standing(BLOCKED)
    assert list(quotas.known()) == []


async def test_requests_of_the_present_windows(supervisor: Supervisor) -> None:
    quotas = supervisor.quotas
    minute_end, hour_end = NOW + 30_000, 1001 * HOUR_MS

    def uses(minute: int, hour: int, at: int = minute_end) -> tuple[Use, ...]:
        return (
            Use(metric="requestsPerMinute", used=minute, limit=5, resets_at_ms=at),
            Use(metric="requestsPerHour", used=hour, limit=50, resets_at_ms=hour_end),
        )

    assert quotas.requests("acme", QUOTA) == uses(0, 0)
    quotas.on_counted(CountedRequests((COUNTED,)))
    assert quotas.requests("acme", QUOTA) == uses(3, 30)
    assert quotas.requests("acme", Quota()) == ()
    assert quotas.requests("acme", Quota(requests_per_hour=50)) == uses(3, 30)[1:]
    supervisor.now_ms += MINUTE_MS
    assert quotas.requests("acme", QUOTA) == uses(0, 30, minute_end + MINUTE_MS)


async def test_what_the_disk_does_not_take_is_written_later(supervisor: Supervisor) -> None:
    quotas = supervisor.quotas
    quotas.on_counted(CountedRequests((COUNTED,)))
    supervisor.registry._db.execute("ALTER TABLE kept_quotas RENAME TO away")
    await quotas.write()
    supervisor.registry._db.execute("ALTER TABLE away RENAME TO kept_quotas")
    assert supervisor.registry.kept_quotas() == []
    await quotas.write()
    assert [tenant for tenant, _ in supervisor.registry.kept_quotas()] == ["acme"]


async def test_the_status_says_what_is_used_and_what_follows(supervisor: Supervisor) -> None:
    quotas = supervisor.quotas
    row = supervisor.registry.get("acme")
    calm = await quotas.status(row, None)
    assert (calm.is_blocked, calm.is_at_soft_limit, calm.is_over_disk_limit) == (False,) * 3
    assert [window.metric for window in calm.windows] == ["requestsPerMinute", "requestsPerHour"]
    midnight = window_end("tokensPerDay", NOW)
    month_end = window_end("costPerMonthMicroUsd", NOW)
    supervisor.spent_by["acme"] = (
        Use(metric="tokensPerDay", used=101, limit=100, resets_at_ms=midnight),
        Use(metric="costPerMonthMicroUsd", used=3, resets_at_ms=month_end),
        Use(metric="concurrentRuns", used=1, limit=1, resets_at_ms=NOW),
    )
    quotas.on_standing(BLOCKED)
    quotas.on_counted(CountedRequests((COUNTED,)))
    status = await quotas.status(row, (50, 200))
    assert status == QuotaStatus(
        tenant_id="acme",
        quotas=QUOTA,
        windows=[
            QuotaWindow(
                metric="tokensPerDay",
                used=101,
                limit=100,
                percent=101.0,
                is_over=True,
                is_at_soft_limit=True,
                next_window_at=rfc3339(midnight),
            ),
            QuotaWindow(metric="costPerMonthMicroUsd", used=3, next_window_at=rfc3339(month_end)),
            QuotaWindow(
                metric="concurrentRuns",
                used=1,
                limit=1,
                percent=100.0,
                is_over=True,
                is_at_soft_limit=True,
            ),
            QuotaWindow(
                metric="requestsPerMinute",
                used=3,
                limit=5,
                percent=60.0,
                next_window_at=rfc3339(NOW + 30_000),
            ),
            QuotaWindow(
                metric="requestsPerHour",
                used=30,
                limit=50,
                percent=60.0,
                next_window_at=rfc3339(1001 * HOUR_MS),
            ),
        ],
        token_usage_percent=101.0,
        disk_usage_percent=25.0,
        is_over_token_limit=True,
        is_over_cost_limit=False,
        is_over_disk_limit=False,
        is_at_soft_limit=True,
        is_blocked=True,
        blocked_by="tokensPerDay",
        next_window_at=rfc3339(NOW + HOUR_MS),
    )
    supervisor.now_ms += HOUR_MS  # egress has not said anything, and the window is over
    supervisor.spent_by.clear()
    assert not (await quotas.status(row, (200, 200))).is_blocked
    assert (await quotas.status(row, (200, 200))).is_over_disk_limit


@pytest.mark.parametrize(("used", "blocked"), [(0, True), (4, False)])
async def test_of_nothing_all_is_used(supervisor: Supervisor, used: int, blocked: bool) -> None:
    limit = 0 if blocked else 5
    row = msgspec.structs.replace(
        supervisor.registry.get("acme"), quota=Quota(requests_per_minute=limit)
    )
    supervisor.quotas.on_counted(
        CountedRequests((Counted("acme", NOW // MINUTE_MS, used, NOW // HOUR_MS, used),))
    )
    status = await supervisor.quotas.status(row, None)
    assert status.windows[0].percent == (100.0 if blocked else 80.0)
    assert (status.is_blocked, status.is_at_soft_limit) == (blocked, True)
    assert status.blocked_by == ("requestsPerMinute" if blocked else None)
