"""The link by example: what each frame changes, what the peer may not do, what we may not do."""

from collections.abc import Callable

import pytest

from protocol import frames, limits
from protocol.codec import encode
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.link import ANSWERS, LIVENESS, REQUESTS, Link
from tests.protocol.pair import EVERYTHING, NOTHING, Pair, leftovers, snapshot


def called(credit: int = 0) -> tuple[Pair, Link, Link, int]:
    """A pair on which end 0 has one call open at end 1."""
    pair = Pair()
    call_id = pair.ends[0].call("m", b"{}", credit=credit)
    pair.deliver(1)
    return pair, *pair.ends, call_id


# --- calls


def test_a_call_and_its_result() -> None:
    pair = Pair()
    asking, serving = pair.ends
    call_id = asking.call("sessions.list", b'{"a":1}', scopes=5, idempotency_key="k")
    assert asking.calls_open == 1
    assert pair.deliver(1) == [frames.Call(call_id, "sessions.list", b'{"a":1}', 5, 0, "k")]
    assert serving.is_serving(call_id)
    assert serving.calls_serving == 1
    serving.result(call_id, b"[1]")
    assert not serving.is_serving(call_id)
    assert pair.deliver(0) == [frames.Result(call_id, b"[1]")]
    assert leftovers(asking) == leftovers(serving) == NOTHING


def test_a_refusal_is_cut_to_its_bound() -> None:
    pair, asking, serving, call_id = called()
    serving.fail(call_id, "CONFLICT", "x" * 5000, b'{"field":"key"}')
    (failure,) = pair.deliver(0)
    sentence = "x" * limits.ERROR_MESSAGE_CHARS_MAX
    assert failure == frames.Failure(call_id, "CONFLICT", sentence, b'{"field":"key"}')
    assert leftovers(asking) == leftovers(serving) == NOTHING


def test_both_sides_number_their_own_calls() -> None:
    pair = Pair()
    left, right = pair.ends
    assert left.call("a", b"{}") == right.call("b", b"{}") == 1
    assert pair.deliver(0) == [frames.Call(1, "b", b"{}")]
    assert pair.deliver(1) == [frames.Call(1, "a", b"{}")]
    left.result(1, b"to b")
    right.result(1, b"to a")
    assert pair.deliver(0) == [frames.Result(1, b"to a")]
    assert pair.deliver(1) == [frames.Result(1, b"to b")]


def test_answers_in_any_order() -> None:
    pair = Pair()
    asking, serving = pair.ends
    ids = [asking.call("m", b"{}") for _ in range(3)]
    pair.deliver(1)
    for call_id in reversed(ids):
        serving.result(call_id, b"%d" % call_id)
    assert pair.deliver(0) == [frames.Result(i, b"%d" % i) for i in reversed(ids)]
    assert asking.calls_open == serving.calls_serving == 0


def test_calls_in_flight_are_bounded() -> None:
    pair = Pair()
    asking, serving = pair.ends
    for _ in range(limits.CALLS_IN_FLIGHT_MAX):
        asking.call("m", b"{}")
    assert len(pair.deliver(1)) == limits.CALLS_IN_FLIGHT_MAX
    with pytest.raises(LocalProtocolError, match="in flight"):
        asking.call("m", b"{}")
    serving.result(1, b"1")
    pair.deliver(0)
    asking.call("m", b"{}")
    assert len(pair.deliver(1)) == 1
    with pytest.raises(RemoteProtocolError, match="in flight"):
        list(serving.receive(encode(frames.Call(5000, "m", b"{}"))))


# --- streams


def test_a_stream_waits_for_credit() -> None:
    pair, asking, serving, call_id = called(credit=2)
    assert serving.stream_credit(call_id) == 2
    serving.chunk(call_id, b"a")
    serving.chunk(call_id, b"b")
    assert serving.stream_credit(call_id) == 0
    with pytest.raises(LocalProtocolError, match="credit of 0"):
        serving.chunk(call_id, b"c")
    assert pair.deliver(0) == [frames.Chunk(call_id, b"a"), frames.Chunk(call_id, b"b")]
    asking.grant(call_id, 1)
    assert pair.deliver(1) == [frames.Credit(call_id, 1)]
    serving.chunk(call_id, b"c")
    serving.end(call_id, b"{}")
    assert pair.deliver(0) == [frames.Chunk(call_id, b"c"), frames.End(call_id, b"{}")]
    assert leftovers(asking) == leftovers(serving) == NOTHING


def test_a_streaming_call_may_get_a_plain_result() -> None:
    pair, asking, serving, call_id = called(credit=16)
    serving.result(call_id, b"1")
    assert pair.deliver(0) == [frames.Result(call_id, b"1")]
    assert leftovers(asking) == NOTHING


def test_a_chunk_at_its_bound() -> None:
    pair, _, serving, call_id = called(credit=2)
    serving.chunk(call_id, bytes(limits.CHUNK_BYTES_MAX))
    assert pair.deliver(0) == [frames.Chunk(call_id, bytes(limits.CHUNK_BYTES_MAX))]
    with pytest.raises(LocalProtocolError):
        serving.chunk(call_id, bytes(limits.CHUNK_BYTES_MAX + 1))


def test_credit_that_crosses_the_end_is_dropped() -> None:
    pair, asking, serving, call_id = called(credit=2)
    serving.end(call_id, b"{}")
    asking.grant(call_id, 5)
    assert pair.deliver(1) == []
    assert pair.deliver(0) == [frames.End(call_id, b"{}")]
    asking.grant(call_id, 5)
    assert pair.is_quiet()
    assert leftovers(asking) == leftovers(serving) == NOTHING


# --- cancelling


def test_late_chunks_of_a_cancelled_call_are_swallowed_and_its_end_is_not() -> None:
    pair, asking, serving, call_id = called(credit=4)
    serving.chunk(call_id, b"on its way")
    asking.cancel(call_id)
    asking.cancel(call_id)
    assert pair.deliver(1) == [frames.Cancel(call_id)]
    serving.chunk(call_id, b"late")
    assert pair.deliver(0) == []
    assert asking.calls_open == 1
    serving.fail(call_id, "CANCELLED", "Nobody waits.")
    assert pair.deliver(0) == [frames.Failure(call_id, "CANCELLED", "Nobody waits.")]
    assert leftovers(asking) == leftovers(serving) == NOTHING


def test_swallowed_chunks_still_need_credit() -> None:
    _, asking, _, call_id = called(credit=1)
    asking.cancel(call_id)
    chunk = encode(frames.Chunk(call_id, b"late"))
    assert list(asking.receive(chunk)) == []
    with pytest.raises(RemoteProtocolError, match="without credit"):
        list(asking.receive(chunk))


def test_a_cancel_that_crosses_the_answer_is_dropped() -> None:
    pair, asking, serving, call_id = called()
    serving.result(call_id, b"1")
    asking.cancel(call_id)
    assert pair.deliver(1) == []
    assert pair.deliver(0) == [frames.Result(call_id, b"1")]
    asking.cancel(call_id)
    assert pair.is_quiet()
    assert leftovers(asking) == leftovers(serving) == NOTHING


# --- signs of life, notices


def test_pings_are_answered_by_the_link_itself() -> None:
    pair = Pair()
    left, right = pair.ends
    assert [left.ping(), left.ping()] == [0, 1]
    assert pair.deliver(1) == []
    assert right.outgoing_bytes
    assert right.outgoing_bytes == len(encode(frames.Pong(1)) + encode(frames.Pong(2)))
    assert pair.deliver(0) == [frames.Pong(1), frames.Pong(2)]
    assert left.ping() == 0


def test_a_pong_speaks_for_the_pings_before_it() -> None:
    left = Link(EVERYTHING)
    for _ in range(5):
        left.ping()
    assert list(left.receive(encode(frames.Pong(4)))) == [frames.Pong(4)]
    assert left.ping() == 1
    with pytest.raises(RemoteProtocolError):
        list(left.receive(encode(frames.Pong(3))))


def test_notices_come_as_they_were_sent() -> None:
    pair = Pair()
    sent = [frames.Event("tenants", b"{}"), frames.Drain(30.0), frames.Drained()]
    for frame in sent:
        pair.ends[0].send(frame)  # type: ignore[arg-type]
    assert pair.deliver(1) == sent


def test_taking_what_is_to_be_sent_takes_it_once() -> None:
    link = Link(EVERYTHING)
    link.ping()
    assert b"".join(link.take_outgoing()) == encode(frames.Ping(1))
    assert b"".join(link.take_outgoing()) == b""
    assert not link.outgoing_bytes


# --- what the peer must not do


def asking(credit: int = 0) -> Link:
    link = Link(EVERYTHING)
    link.call("m", b"{}", credit=credit)
    return link


def serving(credit: int = 0) -> Link:
    link = Link(EVERYTHING)
    list(link.receive(encode(frames.Call(3, "m", b"{}", credit=credit))))
    return link


def pinging() -> Link:
    link = Link(EVERYTHING)
    link.ping()
    list(link.receive(encode(frames.Pong(1))))
    return link


def answered() -> Link:
    link = asking(credit=1)
    list(link.receive(encode(frames.Result(1, b"1"))))
    return link


VIOLATIONS: dict[str, tuple[Callable[[], Link], bytes]] = {
    "result never asked": (asking, encode(frames.Result(2, b"1"))),
    "failure never asked": (asking, encode(frames.Failure(2, "INTERNAL", "no"))),
    "chunk never asked": (asking, encode(frames.Chunk(2, b""))),
    "end never asked": (asking, encode(frames.End(2, b"1"))),
    "second result": (answered, encode(frames.Result(1, b"1"))),
    "chunk after the result": (answered, encode(frames.Chunk(1, b""))),
    "end after the result": (answered, encode(frames.End(1, b"1"))),
    "chunk on a plain call": (asking, encode(frames.Chunk(1, b""))),
    "end on a plain call": (asking, encode(frames.End(1, b"1"))),
    "chunks beyond credit": (lambda: asking(1), encode(frames.Chunk(1, b"")) * 2),
    "call id again": (serving, encode(frames.Call(3, "m", b"{}"))),
    "call id of the past": (serving, encode(frames.Call(2, "m", b"{}"))),
    "cancel never called": (serving, encode(frames.Cancel(4))),
    "credit never called": (serving, encode(frames.Credit(4, 1))),
    "credit on a plain call": (serving, encode(frames.Credit(3, 1))),
    "credit over its bound": (
        lambda: serving(1),
        encode(frames.Credit(3, limits.STREAM_CREDIT_MAX)),
    ),
    "pong never asked": (pinging, encode(frames.Pong(2))),
    "second pong": (pinging, encode(frames.Pong(1))),
    "unknown tag": (asking, b"\x02\0\0\0\x91\x0d"),
    "no frame": (asking, b"\x01\0\0\0\xc0"),
    "length over the bound": (asking, (limits.FRAME_BYTES_MAX + 1).to_bytes(4, "little")),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_ends_the_link(name: str) -> None:
    make, data = VIOLATIONS[name]
    link = make()
    with pytest.raises(RemoteProtocolError):
        list(link.receive(data))
    link.take_outgoing()
    for later in (b"", encode(frames.Ping(1)), encode(frames.Event("t", b"1"))):
        with pytest.raises(RemoteProtocolError, match="ended"):
            list(link.receive(later))
    is_dead(link)


def is_dead(link: Link) -> None:
    """A link that has ended calls nobody, says nothing and keeps nothing."""
    with pytest.raises(LocalProtocolError, match="ended"):
        link.call("m", b"{}")
    link.ping()
    link.send(frames.Event("t", b"1"))
    assert not link.outgoing_bytes
    assert link.abandon() in ([], [1])
    assert link.calls_open == link.calls_serving == link.outgoing_bytes == 0
    assert leftovers(link)["pending"] == 0


def test_abandoning_names_the_open_calls_and_forgets_everything() -> None:
    _, asking, serving, call_id = called(credit=1)
    asking.call("m", b"{}")
    list(asking.receive(b"\x10\0\0\0half"))
    assert asking.abandon() == [call_id, call_id + 1]
    is_dead(asking)
    serving.chunk(call_id, b"x")
    assert serving.abandon() == []
    is_dead(serving)


SAMPLES: tuple[frames.Frame, ...] = (
    frames.Call(4, "m", b"{}"),
    frames.Result(1, b"1"),
    frames.Failure(1, "INTERNAL", "no"),
    frames.Chunk(1, b""),
    frames.End(1, b"1"),
    frames.Credit(3, 1),
    frames.Cancel(3),
    frames.Event("t", b"1"),
    frames.Ping(1),
    frames.Pong(1),
    frames.Drain(1.0),
    frames.Drained(),
)


@pytest.mark.parametrize(
    "accepts",
    [
        *(frozenset(), REQUESTS, ANSWERS, LIVENESS),
        *(REQUESTS | LIVENESS | {frames.Drain}, LIVENESS | {frames.Event, frames.Drained}),
    ],
)
def test_an_end_takes_only_the_kinds_it_was_made_for(accepts: frozenset[type]) -> None:
    for frame in SAMPLES:
        link = Link(accepts)
        link.call("m", b"{}", credit=4)
        link.ping()
        if frames.Call in accepts:
            list(link.receive(encode(frames.Call(3, "m", b"{}", credit=1))))
        if type(frame) in accepts:
            list(link.receive(encode(frame)))
        else:
            with pytest.raises(RemoteProtocolError, match="does not take"):
                list(link.receive(encode(frame)))


# --- what we must not do


def busy() -> Link:
    """A link with a plain call (1) and a stream (2) of ours, and the same (3, 4) of the peer's."""
    link = Link(EVERYTHING)
    link.call("m", b"{}")
    link.call("m", b"{}", credit=limits.STREAM_CREDIT_MAX)
    link.ping()
    calls = encode(frames.Call(3, "m", b"{}")) + encode(frames.Call(4, "m", b"{}", credit=1))
    list(link.receive(calls))
    return link


TOO_BIG = bytes(limits.FRAME_BYTES_MAX)
MISUSES: dict[str, Callable[[Link], object]] = {
    "method too long": lambda link: link.call("m" * 65, b"{}"),
    "method of no wire form": lambda link: link.call("\ud800", b"{}"),
    "params too big": lambda link: link.call("m", TOO_BIG),
    "scopes below": lambda link: link.call("m", b"{}", scopes=-1),
    "scopes above": lambda link: link.call("m", b"{}", scopes=256),
    "credit below": lambda link: link.call("m", b"{}", credit=-1),
    "credit above": lambda link: link.call("m", b"{}", credit=257),
    "key too long": lambda link: link.call("m", b"{}", idempotency_key="k" * 201),
    "grant on a plain call": lambda link: link.grant(1, 1),
    "grant over the bound": lambda link: link.grant(2, 1),
    "grant of nothing": lambda link: link.grant(2, 0),
    "grant taken back": lambda link: link.grant(2, -1),
    "result of no call": lambda link: link.result(5, b"1"),
    "result of our own call": lambda link: link.result(1, b"1"),
    "result too big": lambda link: link.result(3, TOO_BIG),
    "end of no call": lambda link: link.end(5, b"1"),
    "end of a plain call": lambda link: link.end(3, b"1"),
    "end too big": lambda link: link.end(4, TOO_BIG),
    "failure of no call": lambda link: link.fail(5, "INTERNAL", "no"),
    "failure with a long code": lambda link: link.fail(3, "C" * 65, "no"),
    "failure of no wire form": lambda link: link.fail(3, "INTERNAL", "\udcff"),
    "failure too big": lambda link: link.fail(3, "INTERNAL", "no", TOO_BIG),
    "chunk of no call": lambda link: link.chunk(5, b""),
    "chunk of a plain call": lambda link: link.chunk(3, b""),
    "chunk too big": lambda link: link.chunk(4, bytes(limits.CHUNK_BYTES_MAX + 1)),
    "event with a long topic": lambda link: link.send(frames.Event("t" * 65, b"")),
    "event too big": lambda link: link.send(frames.Event("t", TOO_BIG)),
    "drain below": lambda link: link.send(frames.Drain(-1.0)),
    "drain above": lambda link: link.send(frames.Drain(3601.0)),
    "drain of no time": lambda link: link.send(frames.Drain(float("nan"))),
}


@pytest.mark.parametrize("name", MISUSES)
def test_a_misuse_raises_and_changes_nothing(name: str) -> None:
    link = busy()
    before = snapshot(link)
    with pytest.raises(LocalProtocolError):
        MISUSES[name](link)
    assert snapshot(link) == before


@pytest.mark.parametrize("credit", [1, limits.STREAM_CREDIT_MAX])
def test_what_is_at_the_bound_is_taken_by_the_peer(credit: int) -> None:
    pair = Pair()
    asking, serving = pair.ends
    call_id = asking.call("m" * 64, b"", scopes=255, credit=credit, idempotency_key="k" * 200)
    pair.deliver(1)
    for _ in range(credit):
        serving.chunk(call_id, b"")
    assert len(pair.deliver(0)) == credit
    asking.grant(call_id, limits.STREAM_CREDIT_MAX)
    pair.deliver(1)
    assert serving.stream_credit(call_id) == limits.STREAM_CREDIT_MAX
    serving.fail(call_id, "C" * 64, "é" * 5000)
    asking.send(frames.Event("t" * 64, b""))
    asking.send(frames.Drain(0.0))
    asking.send(frames.Drain(limits.DRAIN_SECONDS_MAX))
    assert len(pair.deliver(0)) == 1
    assert len(pair.deliver(1)) == 3
