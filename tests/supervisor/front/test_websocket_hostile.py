"""Frames that break the rules (RFC 6455), clients that do not read, and other tenants' ears."""

import struct

import psutil
import pytest

from protocol import limits
from tests.supervisor.front.harness import GLOBEX, Front, request, rpc_body, running, soon
from tests.supervisor.front.raw_socket import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    RawSocket,
    frame,
    message,
    open_socket,
    upgrade,
)

NOTE = b'{"jsonrpc":"2.0","method":"note"}'


def closing(code: int, reason: bytes = b"") -> bytes:
    return frame(struct.pack("!H", code) + reason, CLOSE)


HOSTILE = {
    "an unmasked frame": (frame(NOTE, masked=False), 1002),
    "a reserved bit": (frame(NOTE, reserved=4), 1002),
    "another reserved bit": (frame(NOTE, reserved=1), 1002),
    "an unknown kind of data": (frame(NOTE, 3), 1002),
    "an unknown kind of control": (frame(b"", 11), 1002),
    "a ping in fragments": (frame(b"", PING, fin=False), 1002),
    "a long ping": (frame(b"x" * 126, PING), 1002),
    "a long close": (frame(b"\x03\xe8" + b"x" * 124, CLOSE), 1002),
    "a close of one byte": (frame(b"\x03", CLOSE), 1002),
    "a close with a number that nobody may send": (closing(1005), 1002),
    "a close with a number that is none": (closing(999), 1002),
    "a close with a reason that is no text": (closing(1000, b"\xff"), 1007),
    "a continuation of nothing": (frame(NOTE, CONT), 1002),
    "a message within a message": (frame(NOTE, fin=False) + frame(NOTE), 1002),
    "a close within a message": (frame(NOTE, fin=False) + closing(1000), 1002),
    "text that is no UTF-8": (frame(b'"\xff"'), 1007),
    "text cut within a character": (frame(b'"\xc3', fin=False) + frame(b'"', CONT), 1007),
    "text with a surrogate": (frame(b'"\xed\xa0\x80"'), 1007),
    "bytes": (frame(NOTE, BINARY), 1003),
    "a message over its bound": (frame(b"", length=limits.SOCKET_MESSAGE_BYTES_MAX + 1), 1009),
    "a message over every bound": (frame(b"", length=2**63 - 1), 1009),
    "a length with its highest bit": (frame(b"", length=2**63), 1009),
    "bytes that are no frame": (b"GET / HTTP/1.1\r\n\r\n", 1002),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_what_breaks_the_rules_is_closed_with_its_number(what: str) -> None:
    data, code = HOSTILE[what]
    async with running() as front:
        worker = await front.worker()
        neighbour = await open_socket(front)
        for torn in (False, True):
            client = await open_socket(front)
            if torn:
                for index in range(len(data)):
                    await client.send(data[index : index + 1])
            else:
                await client.send(data)
            assert await client.closed_with() == code
        answer = await neighbour.ask(message("events.unsubscribe"))
        assert answer["result"] == {"subscribed": False}
        assert worker.calls.empty()


async def test_a_message_of_fragments_over_its_bound() -> None:
    async with running(limits={"SOCKET_MESSAGE_BYTES_MAX": 1000}) as front:
        client = await open_socket(front)
        await client.send(frame(b" " * 600, fin=False) + frame(b" " * 401, CONT))
        assert await client.closed_with() == 1009


async def test_a_message_of_too_many_fragments() -> None:
    async with running(limits={"SOCKET_FRAGMENTS_MAX": 4}) as front:
        await front.worker(echo=True)
        client = await open_socket(front)
        some = frame(b"", fin=False) + frame(b"", CONT, fin=False) * 2
        assert (await client.ask(some + frame(rpc_body(), CONT)))["id"] == 1
        await client.send(some + frame(b"", CONT, fin=False) * 2)
        assert await client.closed_with() == 1008


@pytest.mark.parametrize("start", [frame(NOTE, fin=False), frame(NOTE)[:-1], frame(b"", fin=False)])
async def test_a_message_has_to_arrive_in_time(start: bytes) -> None:
    async with running(limits={"SOCKET_MESSAGE_SECONDS": 0.1}) as front:
        client = await open_socket(front)
        await client.send(start)
        assert await client.closed_with() == 1008


async def test_nothing_is_answered_after_a_close() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await open_socket(front)
        await client.send(message("m", 1))
        call = await worker.next_call()
        await client.send(closing(1000, b"bye") + message("m", 2))
        received = await client.receive()
        assert (received.code, received.data[2:]) == (1000, b"bye")
        assert await client.client.at_end()
        assert await soon(worker.cancelled.get()) == call.id
        assert worker.calls.empty()


async def test_a_close_right_after_a_call_is_no_mistake_of_ours() -> None:
    async with running() as front:
        client = await open_socket(front)
        await client.send(message("events.unsubscribe") + closing(1000))
        assert await client.closed_with() == 1000


async def test_pings_between_fragments_are_answered() -> None:
    async with running() as front:
        await front.worker(echo=True)
        client = await open_socket(front)
        body = rpc_body()
        await client.send(
            frame(body[:5], fin=False)
            + frame(b"a", PING)
            + frame(b"", PONG)
            + frame(body[5:], CONT)
        )
        assert tuple(await client.receive()) == (PONG, b"a")
        assert (await client.receive()).json["id"] == 1


async def test_messages_are_heard_however_they_are_cut() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await open_socket(front)
        asked = 0
        for cut in (None, 1, 2, 5, 6, 9, -1, None):
            # What comes later looks like a whole message to who does not know what was before.
            one, other = message("m", asked), message("m", asked + 1)
            for piece in (one[:cut], one[cut:] + other if cut else other):
                await client.send(piece)
            for _ in range(2):
                call = await worker.next_call()
                worker.result(call, b"1")
                assert (await client.receive()).json["id"] == asked
                asked += 1


async def test_a_whole_message_between_fragments_breaks_the_rules() -> None:
    async with running() as front:
        client = await open_socket(front)
        await client.send(frame(b"{", fin=False))
        await client.send(message("m", 1))
        assert await client.closed_with() == 1002


async def test_frames_that_came_with_the_handshake_are_heard() -> None:
    async with running() as front:
        await front.worker(echo=True)
        client = await front.connect()
        await client.send(upgrade() + message("m", 1))
        assert (await client.head()).status == 101
        assert (await RawSocket(client).receive()).json["id"] == 1


# Slow readers.


def resident(front: Front) -> int:
    size: int = psutil.Process(front.process.pid).memory_info().rss
    return size


async def test_events_for_one_who_does_not_read_are_dropped_and_the_gap_shows() -> None:
    bounds = {"SOCKET_EVENT_BUFFER_BYTES_MAX": 100_000}
    async with running(limits=bounds) as front:
        worker = await front.worker()
        slow = await open_socket(front, receive_buffer=4096)
        quick = await open_socket(front)
        for client in (slow, quick):
            await client.subscribe()
        assert await soon(worker.listening.get())
        slow.client.stop_reading()
        count = 1000
        for number in range(count):
            worker.event("chat", {"n": number, "pad": "x" * 10_000})
            got = (await quick.receive()).json["params"]
            assert (got["seq"], got["payload"]["n"]) == (number + 1, number)
        slow.client.go_on_reading()
        seqs: list[int] = []
        while not seqs or seqs[-1] <= count:
            if len(seqs) % 50 == 1 and seqs[-1] < count:
                worker.event("chat", {"n": -1})
            received = (await slow.receive()).json["params"]
            seqs.append(received["seq"])
            if received["payload"]["n"] == -1:
                break
        assert seqs == sorted(set(seqs))
        assert seqs[-1] > count  # numbered on, whatever was dropped
        assert len(seqs) < count


async def test_many_listeners_of_one_tenant_cost_the_others_no_more_than_a_bound() -> None:
    bounds = {"EVENT_DELIVERIES_PER_SECOND": 0.001, "EVENT_DELIVERIES_BURST": 7}
    async with running(limits=bounds) as front:
        worker, other = await front.worker(), await front.worker("globex")
        clients = [await open_socket(front) for _ in range(3)]
        for client in clients:
            await client.subscribe()
        theirs = await open_socket(front, token=GLOBEX)
        await theirs.subscribe()
        for each in (worker, other):
            assert await soon(each.listening.get())
        for number in range(4):
            worker.event("chat", {"n": number})
        # Two events for three are six; the seventh is one for one after two have left.
        for client in clients:
            numbers = [(await client.receive()).json["params"]["payload"]["n"] for _ in range(2)]
            assert numbers == [0, 1]
        other.event("chat", {"own": 1})
        assert (await theirs.receive()).json["params"]["payload"] == {"own": 1}
        for client in clients[1:]:
            await client.ask(message("events.unsubscribe"))
        worker.event("chat", {"n": 5})
        events = [(await clients[0].receive()).json["params"] for _ in range(2)]
        assert [event["event"] for event in events] == ["events.reset", "chat"]


async def test_a_slow_reader_costs_bounded_memory() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await open_socket(front, receive_buffer=4096)
        await client.subscribe()
        assert await soon(worker.listening.get())
        client.client.stop_reading()
        before = resident(front)
        other = await open_socket(front)
        await other.subscribe()
        for number in range(200):
            worker.event("chat", {"n": number, "pad": "x" * 100_000})
            await other.receive()
        # 20 MB were sent; what is kept for the one is below its bound.
        assert resident(front) - before < 12 * limits.MIB


async def test_who_does_not_take_its_answers_is_closed() -> None:
    bounds = {"SOCKET_ANSWER_BUFFER_BYTES_MAX": 1_000_000}
    async with running(limits=bounds) as front:
        worker = await front.worker()
        client = await open_socket(front, receive_buffer=4096)
        client.client.stop_reading()
        for number in range(4):
            await client.send(message("m", number))
        calls = [await worker.next_call() for _ in range(4)]
        for call in calls:
            worker.result(call, b'"%b"' % (b"x" * 6_000_000))
        client.client.go_on_reading()
        answers = 0
        received = await client.receive()
        while received.opcode == TEXT:
            answers += 1
            received = await client.receive()
        assert received.code == 1008
        assert 0 < answers < 4


async def test_answers_that_are_not_taken_count_against_the_tenant() -> None:
    async with running(limits={"TENANT_BYTES_IN_FLIGHT_MAX": 10_000_000}) as front:
        worker = await front.worker()
        client = await open_socket(front, receive_buffer=4096)
        client.client.stop_reading()
        for number in range(2):
            await client.send(message("m", number))
        calls = [await worker.next_call() for _ in range(2)]
        for call in calls:
            worker.result(call, b'"%b"' % (b"x" * 7_000_000))
        worker.echo = True
        answer = await front.once(request("/rpc", rpc_body()))
        while answer.status == 200:
            answer = await front.once(request("/rpc", rpc_body()))
        assert (answer.status, answer.code) == (429, "RATE_LIMITED")
        client.client.go_on_reading()
        for _ in range(2):
            assert len((await client.receive()).data) > 7_000_000
        await client.ask(message("m", 3))


# Other tenants.


async def test_no_byte_of_one_tenant_reaches_another() -> None:
    async with running() as front:
        acme, globex = await front.worker("acme"), await front.worker("globex")
        ours, theirs = await open_socket(front), await open_socket(front, token=GLOBEX)
        for client in (ours, theirs):
            await client.subscribe()
        assert await soon(acme.listening.get())
        assert await soon(globex.listening.get())
        for number in range(50):
            acme.event("chat", {"sessionKey": "agent:main:main", "secret": number})
            assert (await ours.receive()).json["params"]["payload"]["secret"] == number
        await ours.send(message("m", 1))
        acme.result(await acme.next_call(), b'"acme"')
        assert (await ours.receive()).json["result"] == "acme"
        # The next that the other hears is its own.
        globex.event("chat", {"own": True})
        assert (await theirs.receive()).json["params"]["payload"] == {"own": True}
        assert globex.calls.empty()


async def test_events_are_chosen_by_name_and_session() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await open_socket(front)
        await client.subscribe(events=["chat"], sessionKeys=["a", "b"])
        assert await soon(worker.listening.get())
        worker.event("agent", {"sessionKey": "a"})
        worker.event("chat", {"sessionKey": "c"})
        worker.event("chat", {"n": 1})
        worker.event("chat", {"sessionKey": "b"}, cursor="7-1-9")
        assert (await client.receive()).json == {
            "jsonrpc": "2.0",
            "method": "event",
            "params": {
                "event": "chat",
                "seq": 1,
                "cursor": "7-1-9",
                "payload": {"sessionKey": "b"},
            },
        }
        await client.subscribe()
        worker.event("agent", {"sessionKey": "z"})
        assert (await client.receive()).json["params"]["seq"] == 2


async def test_a_worker_is_told_whether_anybody_listens() -> None:
    async with running() as front:
        worker = await front.worker()
        one, other = await open_socket(front), await open_socket(front)
        await one.subscribe()
        await other.subscribe()
        assert await soon(worker.listening.get()) is True
        await one.close()
        await other.ask(message("events.unsubscribe"))
        assert await soon(worker.listening.get()) is False
        await other.subscribe()
        assert await soon(worker.listening.get()) is True
        # Another worker hears of it too, and the client that it may have missed something.
        later = await front.worker()
        assert await soon(later.listening.get()) is True
        reset = (await other.receive()).json["params"]
        assert (reset["event"], reset["seq"]) == ("events.reset", 1)
        later.end.finish()
        assert (await other.receive()).json["params"]["event"] == "events.reset"
        assert worker.listening.empty()


async def test_subscribing_wakes_no_worker() -> None:
    async with running() as front:
        client = await open_socket(front)
        await client.subscribe()
        assert front.calls.empty()
