"""The till: what fits is let in, what was spent is on the disk, and it counts once."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from protocol.egress import Billing, Price, Ran
from protocol.errors import ErrorCode, GatewayError
from protocol.models import Spent
from protocol.quotas import Metric, Quota, Standing
from supervisor.egress.ledger import LedgerError, open_ledger
from supervisor.egress.ledger_till import LedgerTill
from supervisor.egress.till import Estimate, Reservation
from tests.supervisor.egress.tilling import (
    MODEL,
    Clock,
    moment,
    reserved,
    rows,
    till_over,
)

SMALL = Estimate(10, 20)


def used(till: LedgerTill) -> dict[Metric, int]:
    return {use.metric: use.used for use in till.uses("acme")}


async def test_a_call_is_reserved_settled_and_priced(tmp_path: Path) -> None:
    clock = Clock()
    purpose = MODEL._replace(run_id="run-1", session_key="agent:main:main")
    async with till_over(tmp_path, clock) as till:
        reservation = await till.reserve("acme", purpose, SMALL)
        assert reservation.estimate == SMALL
        (kept,) = reserved(tmp_path)
        assert kept[1:] == (
            "acme",
            "model",
            "fake",
            "m",
            clock.now,
            clock.now + 650_000,
            30,
            50,
        )
        clock.now += 5
        spent = Spent(input=4, cache_read=3, cache_write=2, output=6, reasoning=1)
        charge = await till.settle(reservation, spent, tool_calls=2, request_id="req-1")
        assert charge == (4 + 3 + 2 + 2 * (6 + 1), spent, False)
        assert reserved(tmp_path) == []
    (row,) = rows(tmp_path)
    assert row._replace(card_version="") == (
        1,
        clock.now,
        "acme",
        "model",
        "fake",
        "m",
        *(4, 3, 2, 6, 1),
        2,
        *(0, 0, 0),
        23,
        *(0, 0),
        "req-1",
        "run-1",
        "agent:main:main",
        "",
    )


async def test_what_a_provider_does_not_say_is_settled_by_estimate_and_marked(
    tmp_path: Path,
) -> None:
    async with till_over(tmp_path, Clock()) as till:
        for spent in (None, Spent(input=-1), Spent(output=2**70)):
            reservation = await till.reserve("acme", MODEL, Estimate(30, 5))
            charge = await till.settle(reservation, spent, answered=9)
            assert charge == (10 + 2 * 3, Spent(input=10, output=3), True)
        reservation = await till.reserve("acme", MODEL, Estimate(30, 5))
        charge = await till.settle(reservation, None, answered=1000)
        assert charge.spent == Spent(input=10, output=5)
    assert [row.estimated for row in rows(tmp_path)] == [1] * 4


@pytest.mark.parametrize(
    ("quota", "admitted"),
    [
        (Quota(tokens_per_day=100), 3),
        (Quota(tokens_per_month=90), 3),
        (Quota(tokens_per_month=89), 2),
        (Quota(cost_per_day_micro_usd=500), 10),
        (Quota(cost_per_month_micro_usd=549), 10),
        (Quota(concurrent_runs=7), 7),
        (Quota(tokens_per_day=10_000, cost_per_month_micro_usd=99), 1),
        (Quota(tokens_per_day=0), 0),
        (Quota(cost_per_day_micro_usd=0), 0),
        (Quota(concurrent_runs=0), 0),
        (Quota(), 64),
    ],
)
async def test_of_calls_at_once_exactly_those_that_fit_are_let_in(
    tmp_path: Path, quota: Quota, admitted: int
) -> None:
    async with till_over(tmp_path, Clock(), quota=quota) as till:
        answers = await asyncio.gather(
            *(till.reserve("acme", MODEL, SMALL) for _ in range(200)), return_exceptions=True
        )
        let_in = [each for each in answers if isinstance(each, Reservation)]
        refused = [each for each in answers if isinstance(each, GatewayError)]
        assert (len(let_in), len(refused)) == (admitted, 200 - admitted)
        code = ErrorCode.RATE_LIMITED if quota == Quota() else ErrorCode.QUOTA_EXCEEDED
        assert {error.code for error in refused} == {code}
        assert len(reserved(tmp_path)) == admitted
        # Another tenant's do not count.
        if quota != Quota() and admitted:
            await till.reserve("globex", MODEL, SMALL)
        # What is given back is there for the next.
        if let_in:
            await till.release(let_in[0])
            await till.reserve("acme", MODEL, SMALL)


async def test_a_refusal_says_what_was_reached_and_when_to_come_back(tmp_path: Path) -> None:
    clock = Clock("2026-11-30T23:59:00")
    quota = Quota(tokens_per_day=50, cost_per_month_micro_usd=1000)
    async with till_over(tmp_path, clock, quota=quota) as till:
        await till.reserve("acme", MODEL, SMALL)
        with pytest.raises(GatewayError) as caught:
            await till.reserve("acme", MODEL, SMALL)
    assert caught.value.code is ErrorCode.QUOTA_EXCEEDED
    assert caught.value.details == {
        "metric": "tokensPerDay",
        "limit": 50,
        "used": 30,
        "nextWindowAt": "2026-12-01T00:00:00.000Z",
        "retryAfterMs": 60_000,
    }


async def test_an_answer_may_become_shorter_where_its_caller_has_not_said_how_long(
    tmp_path: Path,
) -> None:
    async with till_over(tmp_path, Clock(), quota=Quota(tokens_per_day=100)) as till:
        first = await till.reserve("acme", MODEL, Estimate(10, 4096, 16))
        assert first.estimate.output_tokens == 90
        await till.settle(first, Spent(input=10, output=40))
        second = await till.reserve("acme", MODEL, Estimate(34, 4096, 16))
        assert second.estimate.output_tokens == 16
        await till.release(second)
        with pytest.raises(GatewayError):
            await till.reserve("acme", MODEL, Estimate(35, 4096, 16))
    async with till_over(tmp_path, Clock(), quota=Quota(cost_per_day_micro_usd=191)) as till:
        # 90 of it are spent; 101 are left, 10 for the prompt, and two for each token of an answer.
        shorter = await till.reserve("acme", MODEL, Estimate(10, 4096, 16))
        assert shorter.estimate.output_tokens == 45


async def test_a_tenants_own_key_costs_nothing_and_its_tokens_count(tmp_path: Path) -> None:
    own = MODEL._replace(own_key=True, model_id="unpriced")
    quota = Quota(tokens_per_day=100, cost_per_day_micro_usd=1)
    async with till_over(tmp_path, Clock(), quota=quota) as till:
        charge = await till.settle(await till.reserve("acme", own, SMALL), Spent(input=90))
        assert charge.cost_micro_usd == 0
        with pytest.raises(GatewayError, match="tokensPerDay is 100, used 90"):
            await till.reserve("acme", own, SMALL)
    (row,) = rows(tmp_path)
    assert (row.own_key, row.cost_micro_usd, row.input_tokens) == (1, 0, 90)


async def test_a_model_without_a_price_reserves_nothing(tmp_path: Path) -> None:
    async with till_over(tmp_path, Clock()) as till:
        with pytest.raises(GatewayError, match="has no price"):
            await till.reserve("acme", MODEL._replace(model_id="dear"), SMALL)
        assert reserved(tmp_path) == []
        assert used(till)["concurrentRuns"] == 0


async def test_a_tenant_that_is_not_known_may_spend_nothing(tmp_path: Path) -> None:
    async with till_over(tmp_path, Clock()) as till:
        till.forget("acme")
        for tenant in ("acme", "nobody"):
            with pytest.raises(GatewayError) as caught:
                await till.reserve(tenant, MODEL, SMALL)
            assert caught.value.code is ErrorCode.UNAVAILABLE


async def test_a_call_is_priced_by_the_card_that_it_was_let_in_with(tmp_path: Path) -> None:
    dearer = Billing(rate_card={"m": Price(input=9_000_000, output=9_000_000)})
    async with till_over(tmp_path, Clock()) as till:
        before = await till.reserve("acme", MODEL, SMALL)
        till.configure(till._settings.__class__(ledger_directory=str(tmp_path), billing=dearer))
        after = await till.reserve("acme", MODEL, SMALL)
        assert (await till.settle(before, Spent(input=10))).cost_micro_usd == 10
        assert (await till.settle(after, Spent(input=10))).cost_micro_usd == 90
    one, other = rows(tmp_path)
    assert one.card_version != other.card_version


@pytest.mark.parametrize(
    ("before", "after", "quota"),
    [
        ("2026-11-14T23:59:59.999", "2026-11-15T00:00:00", Quota(tokens_per_day=100)),
        ("2026-11-30T23:59:59.999", "2026-12-01T00:00:00", Quota(tokens_per_month=100)),
        ("2026-12-31T23:59:59.999", "2027-01-01T00:00:00", Quota(tokens_per_month=100)),
        ("2028-02-28T23:59:59.999", "2028-02-29T00:00:00", Quota(tokens_per_day=100)),
    ],
)
async def test_a_call_over_the_windows_end_counts_in_both_and_is_charged_to_the_next(
    tmp_path: Path, before: str, after: str, quota: Quota
) -> None:
    clock = Clock(before)
    metric: Metric = "tokensPerDay" if quota.tokens_per_day else "tokensPerMonth"
    async with till_over(tmp_path, clock, quota=quota) as till:
        await till.settle(await till.reserve("acme", MODEL, SMALL), Spent(input=30))
        over = await till.reserve("acme", MODEL, Estimate(0, 70))
        with pytest.raises(GatewayError):
            await till.reserve("acme", MODEL, Estimate(1, 0))
        clock.set(after)
        # What was settled is over; what is under way might still use all of it.
        assert used(till)[metric] == 70
        with pytest.raises(GatewayError):
            await till.reserve("acme", MODEL, Estimate(1, 30))
        await till.settle(over, Spent(output=60))
        assert used(till)[metric] == 60
        await till.reserve("acme", MODEL, Estimate(10, 30))
    first, second = rows(tmp_path)
    assert (first.at, second.at) == (moment(before), moment(after))
    # A new start has the same windows, without what was under way.
    async with till_over(tmp_path, clock, quota=quota) as till:
        assert used(till)[metric] == 60
        clock.set(before)
        assert used(till)[metric] == 30


async def test_standings_are_told_when_they_change_and_end_with_their_window(
    tmp_path: Path,
) -> None:
    clock, told = Clock(), list[Standing]()
    quota = Quota(tokens_per_day=100, soft_percent=50)
    async with till_over(tmp_path, clock, told, quota=quota) as till:

        async def spend(tokens: int) -> None:
            await till.settle(
                await till.reserve("acme", MODEL, Estimate(tokens, 0)), Spent(input=tokens)
            )

        await spend(49)
        assert told == []
        await spend(1)
        (soft,) = told
        assert (soft.blocked, [each.metric for each in soft.warned]) == (None, ["tokensPerDay"])
        await spend(49)  # warned once a window
        assert len(told) == 1
        await spend(1)
        assert told[1].blocked is not None
        assert (told[1].blocked.used, told[1].blocked.limit) == (100, 100)
        assert told[1].blocked.resets_at_ms == moment("2026-11-15T00:00:00")
        till.look()
        assert len(told) == 2
        assert till.standings(["acme", "globex"]) == (till._standings.of("acme", clock.now),)
        # A limit that is raised opens it at once, and one that is lowered closes it.
        till.limit("acme", Quota(tokens_per_day=1000))
        assert (told[2].blocked, told[2].warned) == (None, ())
        till.limit("acme", quota)
        assert told[3].blocked is not None
        # So does the window's end, by the clock alone.
        clock.set("2026-11-15T00:00:00")
        till.look()
        assert told[4] == Standing(tenant="acme")
        assert till.standings(["acme", "globex"]) == ()
    told.clear()
    clock.set("2026-11-14T23:00:00")
    async with till_over(tmp_path, clock, told, quota=quota):
        assert [standing.tenant for standing in told if standing.blocked] == ["acme"]


@pytest.mark.parametrize(
    ("quota", "metric"),
    [
        (Quota(tokens_per_day=80_000), "tokensPerDay"),
        (Quota(cost_per_month_micro_usd=80_000), "costPerMonthMicroUsd"),
    ],
)
async def test_a_window_is_over_when_a_call_does_not_fit_and_hardly_one_could(
    tmp_path: Path, quota: Quota, metric: Metric
) -> None:
    clock, told = Clock(), list[Standing]()
    async with till_over(tmp_path, clock, told, quota=quota) as till:

        async def refused(tokens: int) -> None:
            with pytest.raises(GatewayError) as raised:
                await till.reserve("acme", MODEL, Estimate(tokens, 0))
            assert raised.value.code is ErrorCode.QUOTA_EXCEEDED

        await till.settle(
            await till.reserve("acme", MODEL, Estimate(40_000, 0)), Spent(input=40_000)
        )
        await refused(40_001)  # a smaller one would fit
        held = await till.reserve("acme", MODEL, Estimate(36_000, 0))
        await refused(8_000)  # what is set aside may come back
        assert told == []
        await till.settle(held, Spent(input=36_000))
        told.clear()
        await refused(4_001)
        (over,) = told
        assert over.blocked is not None
        assert (over.blocked.metric, over.blocked.used, over.blocked.limit) == (
            metric,
            76_000,
            80_000,
        )
        assert till.standings(["acme"]) == (over,)
        # What fits is let in all the same; another limit opens it, and so does another window.
        await till.release(await till.reserve("acme", MODEL, Estimate(3_999, 0)))
        till.limit("acme", msgspec.structs.replace(quota, soft_percent=99))
        assert told[1] == Standing(tenant="acme")
        await refused(4_001)
        clock.set("2026-12-01T00:00:00")
        till.look()
        assert told[3] == Standing(tenant="acme")


async def test_nothing_at_all_is_blocked_from_the_beginning(tmp_path: Path) -> None:
    told: list[Standing] = []
    async with till_over(tmp_path, Clock(), told, quota=Quota(cost_per_month_micro_usd=0)):
        assert [(each.tenant, each.blocked is not None) for each in told] == [
            ("acme", True),
            ("globex", True),
        ]


async def test_a_reservation_ends_with_its_lease_and_what_comes_later_still_counts(
    tmp_path: Path,
) -> None:
    clock = Clock()
    quota = Quota(tokens_per_day=30)
    async with till_over(tmp_path, clock, quota=quota, total_seconds=10) as till:
        lost = await till.reserve("acme", MODEL, SMALL)
        clock.now += 70_000
        till.look()
        next_one = await till.reserve("acme", MODEL, SMALL)
        assert [row[0] for row in reserved(tmp_path)] == [next_one.id]
        await till.release(next_one)
        charge = await till.settle(lost, Spent(input=3))
        assert charge.cost_micro_usd == 3
        assert till.uses("acme")[0].used == 3
    assert len(rows(tmp_path)) == 1


async def test_what_a_process_left_is_released_by_the_next(tmp_path: Path) -> None:
    clock = Clock()
    async with till_over(tmp_path, clock, quota=Quota(tokens_per_day=30)) as till:
        left = await till.reserve("acme", MODEL, SMALL)
    ledger = await open_ledger(tmp_path)
    assert ledger.left == (1, 30, 50)
    assert ledger.next_reservation == left.id + 1
    ledger.close()
    assert reserved(tmp_path) == []
    ledger = await open_ledger(tmp_path)
    assert ledger.left == (0, 0, 0)
    ledger.close()


async def test_one_process_has_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.egress.ledger.LOCK_SECONDS", 0.0)
    async with till_over(tmp_path, Clock()):
        with pytest.raises(LedgerError, match="another process"):
            await open_ledger(tmp_path)


async def test_seconds_and_bytes_are_charged(tmp_path: Path) -> None:
    billing = Billing(sandbox_second_nano_usd=2_500, egress_gib_micro_usd=2**21)
    quota = Quota(cost_per_day_micro_usd=10)
    async with till_over(tmp_path, Clock(), quota=quota, billing=billing) as till:
        till.ran(Ran(tenant="acme", sandbox_id="s-1", mode="bubblewrap", wall_ms=1500, cpu_ms=700))
        till.moved("acme", "fetch", 3 * 2**9, run_id="run-1")
        assert till.uses("acme")[2].used == 4 + 3
    ran, moved = rows(tmp_path)
    assert (ran.kind, ran.provider, ran.request_id, ran.wall_ms, ran.cpu_ms) == (
        "sandbox",
        "bubblewrap",
        "s-1",
        1500,
        700,
    )
    assert (moved.kind, moved.provider, moved.bytes, moved.run_id) == (
        "egress",
        "fetch",
        1536,
        "run-1",
    )
    assert (ran.cost_micro_usd, moved.cost_micro_usd) == (4, 3)


async def test_whoever_waits_may_go_and_the_row_stays(tmp_path: Path) -> None:
    async with till_over(tmp_path, Clock()) as till:
        reservation = await till.reserve("acme", MODEL, SMALL)
        settling = asyncio.ensure_future(till.settle(reservation, Spent(input=1)))
        await asyncio.sleep(0)
        settling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await settling
        reserving = asyncio.ensure_future(till.reserve("acme", MODEL, SMALL))
        await asyncio.sleep(0)
        reserving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reserving
        assert till.uses("acme")[0].used == 1
    assert [row.input_tokens for row in rows(tmp_path)] == [1]
    assert reserved(tmp_path) == []


async def test_a_providers_request_id_is_kept_as_far_as_it_is_one(tmp_path: Path) -> None:
    async with till_over(tmp_path, Clock()) as till:
        for told in ("req-1\ud800\n\x00\x1b[2J", "x" * 10_000):
            reservation = await till.reserve("acme", MODEL, SMALL)
            await till.settle(reservation, Spent(), request_id=told)
    assert [row.request_id for row in rows(tmp_path)] == ["req-1[2J", "x" * 200]


async def test_settled_twice_is_a_mistake_and_counts_once(tmp_path: Path) -> None:
    async with till_over(tmp_path, Clock()) as till:
        reservation = await till.reserve("acme", MODEL, SMALL)
        await till.settle(reservation, Spent(input=1))
        await till.release(reservation)
        with pytest.raises(KeyError):
            await till.settle(reservation, Spent(input=1))
        assert till.uses("acme")[0].used == 1
    assert len(rows(tmp_path)) == 1
