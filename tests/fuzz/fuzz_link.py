"""Fuzzes the link: two honest ends under any order of acts, and one end with a hostile peer.

Options are libFuzzer's, such as `-max_total_time=60`.
"""

import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["protocol"]):
    from protocol import frames, limits
    from protocol.codec import encode
    from protocol.errors import LocalProtocolError, RemoteProtocolError
    from protocol.link import Link

from tests.fuzz._corpus import plant
from tests.protocol.pair import EVERYTHING, NOTHING, Pair, leftovers, snapshot

ACTS: list[Callable[[Link, int, int], object]] = [
    lambda link, _, size: link.call("m", b"{}", credit=size - 8),
    lambda link, call_id, _: link.result(call_id, b"1"),
    lambda link, call_id, _: link.end(call_id, b"1"),
    lambda link, call_id, size: link.fail(call_id, "C" * (size % 80), "no"),
    lambda link, call_id, size: link.chunk(call_id, bytes(size)),
    lambda link, call_id, size: link.grant(call_id, size - 8),
    lambda link, call_id, _: link.cancel(call_id),
    lambda link, _, __: link.ping(),
    lambda link, _, size: link.send(frames.Event("t" * (size % 80), b"1")),
    lambda link, _, size: link.send(frames.Drain(size - 8.0)),
]
FORGERIES: list[Callable[[int, int], frames.Frame]] = [
    lambda call_id, size: frames.Call(call_id, "m", b"{}", credit=size),
    lambda call_id, _: frames.Result(call_id, b"1"),
    lambda call_id, _: frames.Failure(call_id, "INTERNAL", "no"),
    lambda call_id, size: frames.Chunk(call_id, bytes(size)),
    lambda call_id, _: frames.End(call_id, b"1"),
    frames.Credit,
    lambda call_id, _: frames.Cancel(call_id),
    lambda _, __: frames.Event("t", b"1"),
    lambda call_id, _: frames.Ping(call_id),
    lambda call_id, _: frames.Pong(call_id),
    lambda _, size: frames.Drain(float(size)),
    lambda _, __: frames.Drained(),
]


def act(link: Link, kind: int, call_id: int, size: int) -> None:
    """Do one thing on our side; what must not be done changes nothing."""
    before = snapshot(link)
    try:
        ACTS[kind % len(ACTS)](link, call_id, size)
    except LocalProtocolError:
        assert snapshot(link) == before


def honest(data: bytes) -> None:
    """Whatever honest ends do, and however the bytes are cut, no end faults the other."""
    pair = Pair()
    for kind, call_id, size in zip(data[::3], data[1::3], data[2::3], strict=False):
        side = kind & 1
        if kind >= 128:
            pair.deliver(side, size)
        else:
            act(pair.ends[side], kind >> 1, call_id % 16, size)
    settle(pair)
    for link in pair.ends:
        for call_id in list(link._serving):
            link.result(call_id, b"1")
    settle(pair)
    assert [leftovers(link) for link in pair.ends] == [NOTHING, NOTHING]


def settle(pair: Pair) -> None:
    """Deliver all there is."""
    while not pair.is_quiet():
        pair.deliver(0)
        pair.deliver(1)


def hostile(data: bytes) -> None:
    """Whatever a peer sends, the link's books stay right until it is refused."""
    link = Link(EVERYTHING)
    open_here: set[int] = set()
    for kind, call_id, size in zip(data[::3], data[1::3], data[2::3], strict=False):
        if kind >= 128:
            act(link, kind >> 1, call_id % 16, size)
            open_here |= link._asked.keys()
            continue
        credit = {asked: call.credit for asked, call in link._asked.items()}
        frame = FORGERIES[kind % len(FORGERIES)](call_id % 16, size)
        try:
            got = list(link.receive(encode(frame)))
        except RemoteProtocolError:
            refused_for_good(link)
            return
        for answer in got:
            match answer:
                case frames.Result() | frames.Failure() | frames.End():
                    open_here.remove(answer.id)  # each ends once
                case frames.Chunk():
                    assert credit[answer.id] > 0
        assert link.calls_open == len(open_here) <= limits.CALLS_IN_FLIGHT_MAX
        assert link.calls_serving <= limits.CALLS_IN_FLIGHT_MAX


def refused_for_good(link: Link) -> None:
    """A link that has refused its peer takes and says nothing more."""
    link.take_outgoing()
    try:
        list(link.receive(encode(frames.Drained())))
    except RemoteProtocolError:
        pass
    else:
        raise AssertionError
    link.ping()
    assert not link.outgoing_bytes
    link.abandon()
    assert link.calls_open == link.calls_serving == 0


def test_one_input(data: bytes) -> None:
    """First byte: who is at the other end; then three bytes an act."""
    (honest if data[:1] == b"\0" else hostile)(data[1:])


def seeds() -> list[bytes]:
    """A stream between honest ends, and a peer that answers what was asked and then again."""
    call, chunk, end, grant, cancel, ping = 0, 4 << 1 | 1, 2 << 1 | 1, 5 << 1, 6 << 1, 7 << 1
    there, here = 129, 128
    return [
        bytes([0, call, 0, 12, there, 0, 255, chunk, 1, 5, chunk, 1, 6, here, 0, 9]),
        bytes([0, call, 0, 10, there, 0, 255, grant, 1, 12, there, 0, 3, chunk, 1, 1, end, 1, 0]),
        bytes([0, call, 0, 9, there, 0, 255, chunk, 1, 1, cancel, 1, 0, ping, 0, 0, end, 1, 0]),
        bytes([1, 140, 0, 9, 3, 1, 4, 4, 1, 0]),
        bytes([1, 140, 0, 8, 1, 1, 0, 1, 1, 0]),
        bytes([1, 0, 3, 8, 5, 3, 2, 6, 3, 0, 134, 3, 0]),
    ]


if __name__ == "__main__":
    plant(sys.argv, seeds())
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
