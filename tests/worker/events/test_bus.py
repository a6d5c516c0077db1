"""What is kept for those who poll, and that nothing is missed without a word."""

import asyncio

import pytest

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.methods.events import PollResult
from tests.worker.harness import ManualClock
from worker.events.bus import Events


class Listener:
    """Where events are sent on to; full when told so."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.full = False

    def push(self, name: str, body: bytes) -> bool:
        if not self.full:
            self.got.append((name, body))
        return not self.full


def numbers(result: PollResult) -> list[int]:
    return [int(bytes(event.payload)) for event in result.events]


async def test_nothing_is_made_or_kept_while_nobody_listens() -> None:
    events = Events(ManualClock(), 1)
    assert not events.wanted
    events.publish("chat", 1)
    first = await events.poll(None, 10, 0)
    assert (numbers(first), first.reset) == ([], False)
    assert events.wanted


async def test_a_poll_goes_on_where_the_last_one_ended() -> None:
    events = Events(ManualClock(), 7)
    cursor = (await events.poll(None, 10, 0)).cursor
    for number in range(5):
        events.publish("chat", number)
    some = await events.poll(cursor, 3, 0)
    assert (numbers(some), some.more, some.reset) == ([0, 1, 2], True, False)
    assert some.cursor == some.events[-1].cursor
    rest = await events.poll(some.cursor, 3, 0)
    assert (numbers(rest), rest.more) == ([3, 4], False)
    again = await events.poll(some.events[0].cursor, 10, 0)
    assert numbers(again) == [1, 2, 3, 4]
    none = await events.poll(rest.cursor, 3, 0)
    assert (numbers(none), none.cursor) == ([], rest.cursor)


async def test_a_poll_waits_for_something() -> None:
    events = Events(ManualClock(), 1)
    cursor = (await events.poll(None, 10, 0)).cursor
    waiting = [asyncio.create_task(events.poll(c, 10, 20)) for c in (cursor, None)]
    await asyncio.sleep(0)
    events.publish("chat", 1)
    for task in waiting:
        assert numbers(await task) == [1]
    nothing = await events.poll(None, 10, 0.01)
    assert numbers(nothing) == []


async def test_a_cursor_of_another_generation_or_stretch_is_told_to_begin_anew() -> None:
    clock = ManualClock()
    events = Events(clock, 2)
    cursor = (await events.poll(None, 10, 0)).cursor
    other = Events(clock, 3)
    reset = await other.poll(cursor, 10, 0)
    assert (reset.reset, reset.events) == (True, [])
    assert not (await other.poll(reset.cursor, 10, 0)).reset
    clock.advance(limits.EVENTS_KEPT_SECONDS + 1)
    assert not events.wanted
    events.publish("chat", 1)
    assert (await events.poll(cursor, 10, 0)).reset
    assert (await events.poll("2-99-0", 10, 0)).reset
    ahead = (await events.poll(None, 10, 0)).cursor
    stretch = ahead.rpartition("-")[0]
    assert (await events.poll(f"{stretch}-5", 10, 0)).reset


async def test_a_cursor_that_is_too_old_is_told_to_begin_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "EVENTS_KEPT_MAX", 3)
    events = Events(ManualClock(), 1)
    cursor = (await events.poll(None, 10, 0)).cursor
    for number in range(3):
        events.publish("chat", number)
    assert numbers(await events.poll(cursor, 10, 0)) == [0, 1, 2]
    events.publish("chat", 3)
    late = await events.poll(cursor, 10, 0)
    assert (late.reset, late.events) == (True, [])
    assert numbers(await events.poll(late.cursor, 10, 0)) == []


async def test_what_is_kept_is_bounded_in_bytes() -> None:
    events = Events(ManualClock(), 1)
    cursor = (await events.poll(None, 10, 0)).cursor
    text = "x" * 200_000
    count = limits.EVENTS_KEPT_BYTES_MAX // len(text) + 5
    for _ in range(count):
        events.publish("chat", text)
    assert events._kept_bytes <= limits.EVENTS_KEPT_BYTES_MAX
    assert (await events.poll(cursor, 1000, 0)).reset


async def test_an_event_over_its_bound_leaves_a_gap_that_shows() -> None:
    events, listener = Events(ManualClock(), 1), Listener()
    events.listen(listener.push)
    cursor = (await events.poll(None, 10, 0)).cursor
    events.publish("chat", "x" * limits.EVENT_BYTES_MAX)
    assert (await events.poll(cursor, 10, 0)).reset
    events.publish("chat", 1)
    assert [name for name, _ in listener.got] == ["events.reset", "chat"]


async def test_what_a_listener_has_no_room_for_is_said_when_it_has() -> None:
    events, listener = Events(ManualClock(), 1), Listener()
    events.listen(listener.push)
    events.publish("chat", 1)
    listener.full = True
    events.publish("chat", 2)
    listener.full = False
    events.publish("chat", 3)
    assert listener.got == [
        ("chat", b'{"cursor":"1-1-1","payload":1}'),
        ("events.reset", b'{"payload":{"reason":"events were dropped"}}'),
        ("chat", b'{"cursor":"1-1-3","payload":3}'),
    ]


async def test_no_more_is_sent_on_than_the_front_takes() -> None:
    clock, listener = ManualClock(), Listener()
    events = Events(clock, 1)
    events.listen(listener.push)
    for number in range(limits.EVENTS_BURST * 2):
        events.publish("chat", number)
    assert len(listener.got) == limits.EVENTS_BURST
    clock.advance(1)
    events.publish("chat", -1)
    assert [name for name, _ in listener.got[-2:]] == ["events.reset", "chat"]


async def test_what_was_pushed_can_be_polled_after_it() -> None:
    events, listener = Events(ManualClock(), 1), Listener()
    events.listen(listener.push)
    events.publish("chat", 1)
    events.unlisten(Listener().push)
    events.unlisten(listener.push)
    assert events.wanted
    events.publish("chat", 2)
    assert len(listener.got) == 1
    assert numbers(await events.poll("1-1-1", 10, 0)) == [2]


async def test_the_end_of_the_worker_ends_waiting() -> None:
    events = Events(ManualClock(), 1)
    waiting = asyncio.create_task(events.poll(None, 10, 20))
    await asyncio.sleep(0)
    events.close()
    assert numbers(await waiting) == []
    assert numbers(await events.poll(None, 10, 20)) == []


@pytest.mark.parametrize("cursor", ["", "1-2", "a-b-c", "1-2-3-4"])
async def test_a_cursor_that_is_none_is_refused(cursor: str) -> None:
    with pytest.raises(GatewayError) as caught:
        await Events(ManualClock(), 1).poll(cursor, 10, 0)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.details == {"field": "cursor"}
