"""The link under any order of acts and any cutting of the bytes between its ends."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol import frames, limits
from tests.protocol.pair import NOTHING, Pair, leftovers

sides = st.integers(0, 1)
picks = st.integers(0, 2**16)


@dataclass
class Asked:
    """What is known of one call: at the asking end, and at the end that serves it."""

    asker: int
    id: int
    credit: int
    granted: int = 0
    cancelled: bool = False
    received: list[bytes] = field(default_factory=list)
    ended: list[frames.Frame] = field(default_factory=list)
    # At the serving end.
    arrived: bool = False
    credit_there: int = 0
    told_to_cancel: int = 0
    sent: list[bytes] = field(default_factory=list)
    answer: frames.Frame | None = None


class LinkMachine(RuleBasedStateMachine):
    """Both ends call, stream, grant, cancel, ping and tell, while the bytes come piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.calls: list[Asked] = []
        self.notices: tuple[list[frames.Frame], list[frames.Frame]] = ([], [])
        self.pings_sent = [0, 0]
        self.pongs_seen = [0, 0]

    # What the ends do.

    @rule(side=sides, credit=st.just(0) | st.integers(1, limits.STREAM_CREDIT_MAX))
    def call(self, side: int, credit: int) -> None:
        call_id = self.pair.ends[side].call("m", b"{}", credit=credit)
        self.calls.append(Asked(side, call_id, credit, granted=credit))

    @precondition(lambda self: self.being_served())
    @rule(pick=picks, count=st.integers(1, 4))
    def chunk(self, pick: int, count: int) -> None:
        call = self.choose(self.being_served(), pick)
        link = self.pair.ends[1 - call.asker]
        for _ in range(min(count, link.stream_credit(call.id))):
            data = b"%d" % len(call.sent)
            link.chunk(call.id, data)
            call.sent.append(data)
            call.credit_there -= 1

    @precondition(lambda self: self.being_served())
    @rule(pick=picks, how=st.sampled_from(["result", "end", "fail"]))
    def answer(self, pick: int, how: str) -> None:
        self.finish(self.choose(self.being_served(), pick), how)

    @precondition(lambda self: self.calls)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        call = self.choose(self.calls, pick)
        self.pair.ends[call.asker].cancel(call.id)
        call.cancelled = call.cancelled or not call.ended

    @precondition(lambda self: self.streams())
    @rule(pick=picks, count=st.integers(1, limits.STREAM_CREDIT_MAX))
    def grant(self, pick: int, count: int) -> None:
        call = self.choose(self.streams(), pick)
        link = self.pair.ends[call.asker]
        open_here = link._asked.get(call.id)
        if open_here is not None:
            count = min(count, limits.STREAM_CREDIT_MAX - open_here.credit)
            call.granted += count
        if count:
            link.grant(call.id, count)

    @rule(side=sides)
    def ping(self, side: int) -> None:
        missed = self.pair.ends[side].ping()
        assert missed == self.pings_sent[side] - self.pongs_seen[side]
        self.pings_sent[side] += 1

    @rule(
        side=sides,
        notice=st.builds(frames.Event, st.just("t"), st.binary(max_size=4))
        | st.builds(frames.Drain, st.floats(0, 10))
        | st.just(frames.Drained()),
    )
    def tell(self, side: int, notice: frames.Event | frames.Drain | frames.Drained) -> None:
        self.pair.ends[side].send(notice)
        self.notices[1 - side].append(notice)

    @rule(to=sides, count=st.integers(0, 64))
    def deliver(self, to: int, count: int) -> None:
        self.take(to, count)

    @rule(to=sides)
    def deliver_all(self, to: int) -> None:
        self.take(to, None)

    # What must hold.

    @invariant()
    def books_agree(self) -> None:
        for side, link in enumerate(self.pair.ends):
            mine = [call for call in self.calls if call.asker == side and not call.ended]
            theirs = [call for call in self.being_served() if call.asker != side]
            assert link.calls_open == len(mine)
            assert link.calls_serving == len(theirs)
            for call in theirs:
                assert link.is_serving(call.id)
                assert link.stream_credit(call.id) == call.credit_there >= 0
        for call in self.calls:
            assert len(call.ended) <= 1
            assert len(call.received) <= len(call.sent) <= call.granted

    def teardown(self) -> None:
        while not self.pair.is_quiet():
            self.take(0, None)
            self.take(1, None)
        for call in self.being_served():
            self.finish(call, "end" if call.credit else "result")
        while not self.pair.is_quiet():
            self.take(0, None)
            self.take(1, None)
        for call in self.calls:
            assert call.ended == [call.answer]
            assert call.received == call.sent[: len(call.received)]
            assert call.cancelled or call.received == call.sent
            assert call.told_to_cancel <= call.cancelled
        assert self.notices == ([], [])
        assert self.pongs_seen == self.pings_sent
        assert [leftovers(link) for link in self.pair.ends] == [NOTHING, NOTHING]

    # Inside.

    def being_served(self) -> list[Asked]:
        return [call for call in self.calls if call.arrived and call.answer is None]

    def streams(self) -> list[Asked]:
        return [call for call in self.calls if call.credit]

    @staticmethod
    def choose(calls: list[Asked], pick: int) -> Asked:
        return calls[pick % len(calls)]

    def known(self, asker: int, call_id: int) -> Asked:
        (call,) = [call for call in self.calls if (call.asker, call.id) == (asker, call_id)]
        return call

    def finish(self, call: Asked, how: str) -> None:
        link = self.pair.ends[1 - call.asker]
        body = b"%d" % call.id
        if how == "end" and call.credit:
            link.end(call.id, body)
            call.answer = frames.End(call.id, body)
        elif how == "fail":
            link.fail(call.id, "CONFLICT", "No.")
            call.answer = frames.Failure(call.id, "CONFLICT", "No.")
        else:
            link.result(call.id, body)
            call.answer = frames.Result(call.id, body)

    def take(self, target: int, count: int | None) -> None:
        for frame in self.pair.deliver(target, count):
            self.see(target, frame)

    def see(self, target: int, frame: frames.Frame) -> None:
        asked: Callable[[int], Asked] = partial(self.known, target)
        serving: Callable[[int], Asked] = partial(self.known, 1 - target)
        match frame:
            case frames.Call():
                call = serving(frame.id)
                assert not call.arrived
                call.arrived, call.credit_there = True, frame.credit
            case frames.Credit():
                serving(frame.id).credit_there += frame.count
            case frames.Cancel():
                assert serving(frame.id).answer is None
                serving(frame.id).told_to_cancel += 1
            case frames.Chunk():
                call = asked(frame.id)
                assert not call.cancelled
                assert frame.data == b"%d" % len(call.received)
                call.received.append(frame.data)
            case frames.Result() | frames.Failure() | frames.End():
                asked(frame.id).ended.append(frame)
            case frames.Pong():
                assert frame.nonce == self.pongs_seen[target] + 1
                self.pongs_seen[target] += 1
            case _:
                assert frame == self.notices[target].pop(0)


TestLinkMachine = LinkMachine.TestCase
TestLinkMachine.settings = settings(max_examples=100, stateful_step_count=50)
