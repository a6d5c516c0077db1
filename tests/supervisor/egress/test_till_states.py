"""The till against a model of it that sums everything up anew each time, with dates by datetime."""

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from protocol.egress import Settings
from protocol.errors import ErrorCode, GatewayError
from protocol.models import Spent
from protocol.quotas import Quota, Standing
from supervisor.egress.ledger_till import LedgerTill, guess, open_till
from supervisor.egress.till import Estimate, Reservation
from tests.supervisor.egress.test_ledger import checked
from tests.supervisor.egress.tilling import BILLING, MODEL, Clock, reserved, rows

TENANTS = ("acme", "globex")
LEASE_MS = 650_000
T = TypeVar("T")
limits = st.none() | st.integers(0, 200)
quotas = st.builds(
    Quota,
    tokens_per_day=limits,
    tokens_per_month=limits,
    cost_per_day_micro_usd=limits,
    cost_per_month_micro_usd=limits,
    concurrent_runs=st.none() | st.integers(0, 5),
)
steps = st.sampled_from([1, 3_600_000, 86_400_000, 20 * 86_400_000, LEASE_MS, -3_600_000])


def same(at: int, now: int, form: str) -> bool:
    """Whether two moments are in one period of UTC."""
    one, other = (datetime.fromtimestamp(each / 1000, UTC).strftime(form) for each in (at, now))
    return one == other


class Modelled(RuleBasedStateMachine):
    """What is known of the till by what it was told."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="till-", dir="/dev/shm"))
        self.loop = asyncio.new_event_loop()
        self.clock = Clock("2026-11-29T22:30:00")
        self.quotas = dict.fromkeys(TENANTS, Quota())
        self.open: dict[int, tuple[str, int, int, int]] = {}
        self.rows: list[tuple[str, int, int, int]] = []
        self.standings = {tenant: Standing(tenant=tenant) for tenant in TENANTS}
        self.lives = itertools.count()
        self.life = -1
        self.till = self.run(self.started())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def started(self) -> LedgerTill:
        self.life = next(self.lives)
        self.open.clear()
        self.over = {tenant: dict[int, int]() for tenant in TENANTS}
        decided = Settings(ledger_directory=str(self.directory), billing=BILLING)
        self.standings = {tenant: Standing(tenant=tenant) for tenant in TENANTS}
        till = await open_till(decided, self.told, self.clock)
        for tenant, quota in self.quotas.items():
            till.limit(tenant, quota)
        return till

    def told(self, standing: Standing) -> None:
        assert standing != self.standings[standing.tenant]
        self.standings[standing.tenant] = standing

    def teardown(self) -> None:
        self.till.close()
        self.loop.close()
        shutil.rmtree(self.directory)

    def settled(self, tenant: str, form: str) -> tuple[int, int]:
        mine = [row for row in self.rows if row[0] == tenant and same(row[3], self.clock(), form)]
        return sum(row[1] for row in mine), sum(row[2] for row in mine)

    def held(self, tenant: str) -> tuple[int, int, int]:
        mine = [call for call in self.open.values() if call[0] == tenant]
        return sum(call[1] for call in mine), sum(call[2] for call in mine), len(mine)

    def windows(self, tenant: str) -> list[tuple[int | None, int, bool]]:
        """Limit, what is used, and whether of cost, in the order of `SPENDING`."""
        quota = self.quotas[tenant]
        held = self.held(tenant)
        day, month = self.settled(tenant, "%Y-%m-%d"), self.settled(tenant, "%Y-%m")
        return [
            (quota.tokens_per_day, day[0] + held[0], False),
            (quota.tokens_per_month, month[0] + held[0], False),
            (quota.cost_per_day_micro_usd, day[1] + held[1], True),
            (quota.cost_per_month_micro_usd, month[1] + held[1], True),
        ]

    def fits(self, tenant: str, inside: int, out: int) -> bool:
        running = self.quotas[tenant].concurrent_runs
        if running is not None and self.held(tenant)[2] >= running:
            return False
        return all(
            limit is None or (used < limit and used + inside + (2 if is_cost else 1) * out <= limit)
            for limit, used, is_cost in self.windows(tenant)
        )

    def note_over(self, tenant: str, inside: int, fewest: int) -> None:
        """Windows into which a call does not fit whatever comes back: so little is always left."""
        held = self.held(tenant)
        for number, (limit, used, is_cost) in enumerate(self.windows(tenant)):
            needs = inside + (2 if is_cost else 1) * fewest
            if limit is not None and limit - (used - held[is_cost]) < needs:
                self.over[tenant][number] = self.clock()

    def is_over(self, tenant: str, number: int) -> bool:
        at = self.over[tenant].get(number)
        form = "%Y-%m" if number % 2 else "%Y-%m-%d"
        return at is not None and same(at, self.clock(), form)

    @rule(
        target=calls,
        tenant=st.sampled_from(TENANTS),
        inside=st.integers(0, 60),
        out=st.integers(0, 60),
        least=st.none() | st.integers(0, 60),
    )
    def reserve(
        self, tenant: str, inside: int, out: int, least: int | None
    ) -> tuple[int, Reservation] | None:
        fewest = out if least is None else min(least, out)
        granted = next(
            (each for each in range(out, fewest - 1, -1) if self.fits(tenant, inside, each)), None
        )
        asked = self.till.reserve(tenant, MODEL, Estimate(inside, out, least))
        if granted is None:
            self.note_over(tenant, inside, fewest)
            with pytest.raises(GatewayError) as caught:
                self.run(asked)
            assert caught.value.code is ErrorCode.QUOTA_EXCEEDED
            return None
        reservation = self.run(asked)
        assert reservation.estimate.output_tokens == granted
        self.open[reservation.id] = (
            tenant,
            inside + granted,
            inside + 2 * granted,
            self.clock() + LEASE_MS,
        )
        return self.life, reservation

    @rule(call=consumes(calls), share=st.integers(0, 100), over=st.sampled_from([0, 0, 0, 7]))
    def settle(self, call: tuple[int, Reservation] | None, share: int, over: int) -> None:
        if call is None or call[0] != self.life:
            return
        reservation = call[1]
        inside, out, _ = reservation.estimate
        spent = Spent(input=inside * share // 100, output=out * share // 100 + over)
        charge = self.run(self.till.settle(reservation, spent))
        if not spent.total:  # nothing is reported
            spent = guess(reservation.estimate, 0)
        assert charge.cost_micro_usd == spent.input + 2 * spent.output
        self.open.pop(reservation.id, None)
        self.rows.append((reservation.tenant, spent.total, charge.cost_micro_usd, self.clock()))

    @rule(call=consumes(calls))
    def release(self, call: tuple[int, Reservation] | None) -> None:
        if call is not None and call[0] == self.life:
            self.run(self.till.release(call[1]))
            self.open.pop(call[1].id, None)

    @rule(step=steps)
    def wait(self, step: int) -> None:
        self.clock.now += step
        self.till.look()
        for number, call in list(self.open.items()):
            if call[3] <= self.clock():
                del self.open[number]

    @rule(tenant=st.sampled_from(TENANTS), quota=quotas)
    def limit(self, tenant: str, quota: Quota) -> None:
        self.quotas[tenant] = quota
        self.over[tenant].clear()
        self.till.limit(tenant, quota)

    @rule()
    def crash(self) -> None:
        self.till.close()  # what is reserved stays in the file, as it does when it is killed
        assert checked(self.directory, self.clock()).found == 0
        assert len(reserved(self.directory)) == len(self.open)
        self.till = self.run(self.started())

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        for tenant in TENANTS:
            uses = self.till.uses(tenant)
            assert [use.used for use in uses[:4]] == [used for _, used, _ in self.windows(tenant)]
            assert uses[4].used == self.held(tenant)[2]
            held = self.held(tenant)
            full = [
                limit is not None
                and (used - held[is_cost] >= limit or self.is_over(tenant, number))
                for number, (limit, used, is_cost) in enumerate(self.windows(tenant))
            ]
            assert (self.standings[tenant].blocked is not None) is any(full)

    @invariant()
    def the_ledger_is_right(self) -> None:
        kept = [
            (row.tenant, row.input_tokens + row.output_tokens, row.cost_micro_usd, row.at)
            for row in rows(self.directory)
        ]
        assert kept == self.rows


Modelled.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestModelled = Modelled.TestCase
