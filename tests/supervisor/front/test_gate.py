"""What a gate admits, against counting everything there was."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import GatewayError
from protocol.quotas import HOUR_MS, MINUTE_MS, SPENDING, Counted, Metric, Quota, Reached, Standing
from supervisor.front.gate import Counts, Gate

DAY: int = 24 * HOUR_MS
BLOCKED = Standing(
    tenant="acme",
    blocked=Reached(metric="tokensPerDay", limit=10, used=12, resets_at_ms=DAY),
)


class Watched:
    """A gate with a clock, and all that it says."""

    def __init__(self, quota: Quota, now_ms: int = 0) -> None:
        self.now_ms = now_ms
        self.warnings: list[Reached] = []
        self.told: list[Counted] = []
        self.counts = Counts(self.told.extend)
        self.gate = Gate("acme", lambda: self.now_ms, self.counts.add, self.warnings.append)
        self.gate.limit(quota)

    def admits(self, method: str = "health") -> bool:
        try:
            self.gate.admit(method)
        except GatewayError as error:
            self.refusal = error
            return False
        return True


LIMITS = st.none() | st.integers(0, 6)
STEPS = st.lists(st.sampled_from([0, 0, 1, 900, 20_000, MINUTE_MS, HOUR_MS // 2]), max_size=60)


@given(LIMITS, LIMITS, STEPS, st.integers(0, 2 * HOUR_MS), st.integers(1, 100))
def test_it_admits_what_counting_everything_admits(
    minute: int | None, hour: int | None, steps: list[int], begin: int, percent: int
) -> None:
    quota = Quota(requests_per_minute=minute, requests_per_hour=hour, soft_percent=percent)
    watched = Watched(quota, begin)
    lengths = {MINUTE_MS: minute, HOUR_MS: hour}
    admitted: list[int] = []
    for step in steps:
        watched.now_ms += step
        now = watched.now_ms
        may = all(
            limit is None or sum(at // length == now // length for at in admitted) < limit
            for length, limit in lengths.items()
        )
        assert watched.admits() == may
        if may:
            admitted.append(now)
        else:
            assert watched.refusal.details["used"] == watched.refusal.details["limit"]
    windows: Counter[tuple[str, int]] = Counter()
    for metric, (length, limit) in zip(
        ("requestsPerMinute", "requestsPerHour"), lengths.items(), strict=True
    ):
        for number, count in Counter(at // length for at in admitted).items():
            if limit is not None and count * 100 >= limit * percent:
                windows[metric, (number + 1) * length] += 1
    warned = Counter((reached.metric, reached.resets_at_ms) for reached in watched.warnings)
    assert warned == windows


def test_zero_is_nothing_and_absent_is_everything() -> None:
    watched = Watched(Quota(requests_per_minute=0), 90_000)
    assert not watched.admits()
    assert watched.refusal.details == {
        "metric": "requestsPerMinute",
        "limit": 0,
        "used": 0,
        "nextWindowAt": "1970-01-01T00:02:00.000Z",
        "retryAfterMs": 30_000,
    }
    assert watched.warnings == []
    watched.gate.limit(Quota(cost_per_day_micro_usd=1))
    assert watched.gate.is_open
    assert all(watched.admits() for _ in range(1000))


@pytest.mark.parametrize("metric", [*SPENDING, "concurrentRuns"])
def test_of_nothing_nothing_can_be_spent_whatever_egress_says(metric: Metric) -> None:
    watched = Watched(msgspec.convert({metric: 0}, Quota), DAY - 1)
    assert not watched.admits("chat.send")
    assert watched.refusal.details["metric"] == metric
    assert watched.refusal.details["limit"] == 0
    assert watched.admits("chat.history")
    watched.gate.stand(Standing(tenant="acme"), known=False)
    assert not watched.admits("chat.send")
    watched.gate.limit(msgspec.convert({metric: 1}, Quota))
    assert watched.gate.is_open


def test_who_is_refused_is_not_counted() -> None:
    watched = Watched(Quota(requests_per_minute=1, requests_per_hour=3))
    assert [watched.admits() for _ in range(5)] == [True, False, False, False, False]
    for _ in range(2):
        watched.now_ms += MINUTE_MS
        assert watched.admits()
    watched.now_ms += MINUTE_MS
    assert not watched.admits()
    assert watched.refusal.details["metric"] == "requestsPerHour"


def test_another_limit_counts_what_there_was() -> None:
    watched = Watched(Quota(requests_per_minute=5))
    assert [watched.admits() for _ in range(3)] == [True] * 3
    watched.gate.limit(Quota(requests_per_minute=3))
    assert not watched.admits()
    watched.gate.limit(Quota(requests_per_minute=4))
    assert [watched.admits() for _ in range(2)] == [True, False]
    assert len(watched.warnings) == 1


def test_what_is_told_is_what_the_next_one_goes_on_with() -> None:
    quota = Quota(requests_per_minute=5, requests_per_hour=9)
    before = Watched(quota, HOUR_MS - 1)
    assert [before.admits() for _ in range(4)] == [True] * 4
    before.counts.tick(10.0)
    before.counts.tick(10.0)
    assert before.told == [Counted("acme", 59, 4, 0, 4)]
    assert len(before.warnings) == 1
    after = Watched(quota, HOUR_MS - 1)
    after.gate.restore(before.told[0])
    assert [after.admits() for _ in range(2)] == [True, False]
    assert after.warnings == []
    after.now_ms += 1
    assert [after.admits() for _ in range(6)] == [True] * 5 + [False]


def test_counts_are_told_once_a_second() -> None:
    watched = Watched(Quota(requests_per_minute=100))
    for tenth in range(100):
        assert watched.admits()
        watched.counts.tick(tenth / 10)
    assert [counted.in_minute for counted in watched.told] == [1 + 10 * n for n in range(10)]
    watched.counts.report()
    watched.counts.report()
    assert [counted.in_minute for counted in watched.told[10:]] == [100]


def test_blocked_spends_nothing_until_its_window_is_over() -> None:
    watched = Watched(Quota(), DAY - 1)
    watched.gate.stand(BLOCKED, known=False)
    for method in ("chat.send", "agent", "sessions.send", "sessions.create", "channels.inbound"):
        assert not watched.admits(method)
        assert watched.refusal.details["metric"] == "tokensPerDay"
        assert watched.refusal.details["retryAfterMs"] == 1
    assert watched.admits("chat.history")
    assert watched.admits("tenants.quota.status")
    watched.now_ms += 1
    assert watched.admits("chat.send")


def test_at_ease_again_opens_it() -> None:
    watched = Watched(Quota())
    for standing, is_open in ((BLOCKED, False), (Standing(tenant="acme"), True)):
        watched.gate.stand(standing, known=False)
        assert watched.gate.is_open == is_open
        assert watched.admits("chat.send") == is_open


@pytest.mark.parametrize("known", [False, True])
def test_egress_warns_once_a_window(known: bool) -> None:
    watched = Watched(Quota())
    today = Reached(metric="costPerDayMicroUsd", limit=10, used=8, resets_at_ms=DAY)
    later = Reached(metric="costPerDayMicroUsd", limit=10, used=9, resets_at_ms=DAY)
    tomorrow = Reached(metric="costPerDayMicroUsd", limit=10, used=8, resets_at_ms=2 * DAY)
    for reached in (today, later, tomorrow, tomorrow):
        watched.gate.stand(
            Standing(tenant="acme", warned=(reached,)), known=known and reached is today
        )
    assert watched.warnings == [today, tomorrow][known:]
    lines = watched.gate.notice.decode().removesuffix("\r\n").split(": ", 1)
    assert lines[0] == "OpenClaw-Quota-Warning"
    assert lines[1].split(", ")[-1] == (
        "metric=costPerDayMicroUsd; used=8; limit=10; resets=1970-01-03T00:00:00.000Z"
    )
