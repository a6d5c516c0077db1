"""Who has sent much waits for the turn of its tenant."""

import asyncio
from functools import partial

from protocol import limits
from supervisor.front.turns import Reading, Turns


class Socket(asyncio.Transport):
    """Knows whether it is read from."""

    def __init__(self) -> None:
        super().__init__()
        self.read = True
        self.closing = False

    def reads(self) -> bool:
        return self.read

    def pause_reading(self) -> None:
        self.read = False

    def resume_reading(self) -> None:
        assert not self.closing, "the event loop would raise"
        self.read = True

    def is_closing(self) -> bool:
        return self.closing


async def test_one_of_each_payer_has_its_turn() -> None:
    turns = Turns()
    served: list[str] = []
    for payer, name in (("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3"), (None, "n1")):
        turns.wait(payer, partial(served.append, name))
    rounds = []
    while len(served) < 5:
        before = len(served)
        await asyncio.sleep(0)
        rounds.append(served[before:])
    assert rounds == [["a1", "b1", "n1"], ["a2"], ["a3"]]


async def test_a_turn_of_the_loop_has_few_tenants_turns_and_each_comes() -> None:
    turns = Turns()
    served: list[int] = []
    tenants = 3 * limits.TURNS_AT_ONCE
    for tenant in [*range(tenants)] * 2:
        turns.wait(tenant, partial(served.append, tenant))
    for _ in range(6):
        before = len(served)
        await asyncio.sleep(0)
        assert len(served) - before == limits.TURNS_AT_ONCE
    assert served == [*range(tenants)] * 2


async def test_a_small_read_waits_for_nothing_and_a_big_one_for_its_turn() -> None:
    socket = Socket()
    reading = Reading(socket, Turns())
    reading.took(limits.BIG_READ_BYTES - 1, None)
    assert socket.reads()
    reading.took(limits.BIG_READ_BYTES, None)
    assert not socket.reads()
    await asyncio.sleep(0)
    assert socket.reads()


async def test_its_turn_does_not_have_a_socket_read_that_its_owner_does_not_want_read() -> None:
    socket = Socket()
    reading = Reading(socket, Turns())
    reading.took(limits.BIG_READ_BYTES, None)
    reading.stop()
    await asyncio.sleep(0)
    assert not socket.reads()
    reading.took(limits.BIG_READ_BYTES, None)
    reading.go_on()
    assert not socket.reads(), "it is not its turn yet"
    await asyncio.sleep(0)
    assert socket.reads()


async def test_who_takes_a_socket_over_waits_for_nothing_of_its_former_owner() -> None:
    socket = Socket()
    reading = Reading(socket, Turns())
    reading.took(limits.BIG_READ_BYTES, None)
    reading.hand_over()
    assert socket.reads()
    socket.read = False
    await asyncio.sleep(0)
    assert not socket.reads()


async def test_the_turn_of_one_that_is_closed_passes() -> None:
    socket = Socket()
    Reading(socket, Turns()).took(limits.BIG_READ_BYTES, None)
    socket.closing = True
    await asyncio.sleep(0)
