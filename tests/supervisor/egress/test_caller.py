"""How much a tenant may have going out of egress at a time."""

import asyncio

import pytest

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from supervisor.egress.caller import Tenant

MOST = 2


class Calls:
    """Calls of a tenant that go out until they are ended."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self.out: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, name: str, most: int = MOST) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._go(name, most))
        await settled()

    async def _go(self, name: str, most: int) -> None:
        async with self._tenant.going_out(most):
            self.out.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.out.remove(name)

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await settled()


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_so_many_go_out_and_the_others_in_the_order_they_came() -> None:
    calls = Calls(Tenant("acme"))
    for name in "abcde":
        await calls.begin(name)
    assert calls.out == ["a", "b"]
    await calls.end("b")
    assert calls.out == ["a", "c"]
    await calls.begin("f")  # who comes now does not pass those that wait
    await calls.end("a")
    await calls.end("c")
    assert calls.out == ["d", "e"]
    await calls.end("d")
    assert calls.out == ["e", "f"]


async def test_who_goes_away_while_it_waits_takes_no_turn() -> None:
    calls = Calls(Tenant("acme"))
    for name in "abcd":
        await calls.begin(name)
    calls.tasks["c"].cancel()
    await settled()
    await calls.end("a")
    assert calls.out == ["b", "d"]


async def test_who_goes_away_as_its_turn_comes_hands_it_on() -> None:
    calls = Calls(Tenant("acme"))
    for name in "abcd":
        await calls.begin(name)
    calls._ends["a"].set()
    await asyncio.sleep(0)  # it has left, and `c` has not run
    calls.tasks["c"].cancel()
    await settled()
    assert calls.out == ["b", "d"]


async def test_who_is_cut_off_makes_room() -> None:
    calls = Calls(Tenant("acme"))
    for name in "abc":
        await calls.begin(name)
    calls.tasks["a"].cancel()
    await settled()
    assert calls.out == ["b", "c"]


async def test_another_bound_holds_from_the_next_on() -> None:
    calls = Calls(Tenant("acme"))
    for name in "abc":
        await calls.begin(name)
    await calls.begin("d", most=4)  # not past who waits
    assert calls.out == ["a", "b"]
    await calls.end("a")
    await calls.end("b")
    assert calls.out == ["c", "d"]


def test_so_many_bytes_wait_together() -> None:
    tenant, half = Tenant("acme"), limits.EGRESS_BYTES_IN_FLIGHT_MAX // 2
    with tenant.holding(half), tenant.holding(half):
        with pytest.raises(GatewayError) as refusal, tenant.holding(1):
            pass
        assert refusal.value.code is ErrorCode.RATE_LIMITED
        with Tenant("globex").holding(half):
            pass
    with tenant.holding(2 * half):
        pass
