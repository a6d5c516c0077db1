from protocol import limits
from supervisor.front.throttle import Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_first_failures_are_free_and_the_rest_grow_to_the_bound() -> None:
    throttle = Throttle(Clock())
    delays = [throttle.failed("10.0.0.1", None) for _ in range(limits.AUTH_FAILURES_FREE + 40)]
    assert delays[: limits.AUTH_FAILURES_FREE] == [0.0] * limits.AUTH_FAILURES_FREE
    slowed = delays[limits.AUTH_FAILURES_FREE :]
    assert slowed[0] > 0
    assert slowed == sorted(slowed)
    assert slowed[-1] == limits.AUTH_FAILURE_DELAY_SECONDS_MAX


def test_a_tenant_is_counted_across_addresses() -> None:
    throttle = Throttle(Clock())
    delays = [throttle.failed(f"10.0.0.{host}", "acme") for host in range(20)]
    assert delays[0] == 0
    assert delays[-1] > 0
    assert throttle.failed("10.0.0.99", "globex") == 0


def test_an_address_is_counted_across_tenants() -> None:
    throttle = Throttle(Clock())
    delays = [throttle.failed("10.0.0.1", f"t{number}") for number in range(20)]
    assert delays[-1] > 0


def test_a_window_ends() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(20):
        throttle.failed("10.0.0.1", "acme")
    clock.now += limits.AUTH_FAILURE_WINDOW_SECONDS + 1
    assert throttle.failed("10.0.0.1", "acme") == 0


def test_the_tables_are_bounded_and_inventions_do_not_push_the_guesser_out() -> None:
    throttle = Throttle(Clock())
    for number in range(limits.AUTH_FAILURE_KEYS_MAX + 100):
        throttle.failed("10.0.0.1", f"tenant-{number}")
    assert len(throttle._tenants) == limits.AUTH_FAILURE_KEYS_MAX
    assert throttle.failed("10.0.0.1", "one-more") == limits.AUTH_FAILURE_DELAY_SECONDS_MAX


def test_waiting_places_are_bounded() -> None:
    throttle = Throttle(Clock())
    assert all(throttle.begin_wait() for _ in range(limits.AUTH_FAILURES_WAITING_MAX))
    assert not throttle.begin_wait()
    throttle.end_wait()
    assert throttle.begin_wait()
