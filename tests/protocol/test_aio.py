"""Link ends over real sockets, under asyncio and under uvloop."""

import asyncio
from functools import partial

import msgspec
import pytest

from protocol import frames, limits
from protocol.aio import LinkEnd, Reply, failure_error
from protocol.codec import FrameDecoder, encode
from protocol.errors import (
    ErrorCode,
    GatewayError,
    LinkClosedError,
    LocalProtocolError,
    RemoteProtocolError,
)
from protocol.link import ANSWERS, REQUESTS
from tests.protocol.ends import (
    Owner,
    join,
    join_raw,
    loop_errors,
    read_until_closed,
    turns,
    under_both_loops,
)
from tests.protocol.pair import NOTHING, leftovers


def echo(end: LinkEnd, call: frames.Call) -> None:
    end.link.result(call.id, call.params)
    end.flush()


def refuse(end: LinkEnd, call: frames.Call) -> None:
    end.fail(call.id, GatewayError(ErrorCode.CONFLICT, "It is there.", field="key", self=1))


def crash(end: LinkEnd, call: frames.Call) -> None:
    raise KeyError(call.method)


# --- calls


@under_both_loops
async def test_calls_in_both_directions_at_once() -> None:
    left, right = await join(Owner(echo=echo), Owner(echo=echo))
    answers = await asyncio.gather(
        *(end.call("echo", {"n": n}) for n in range(100) for end in (left, right))
    )
    assert answers == [b'{"n":%d}' % n for n in range(100) for _ in range(2)]
    assert leftovers(left.link) == leftovers(right.link) == NOTHING
    assert left._replies == right._replies == {}


@under_both_loops
async def test_what_a_call_carries() -> None:
    owner = Owner(echo=echo)
    left, _ = await join(Owner(), owner)
    await left.call("echo", {}, scopes=5)
    left.start_call("quiet", b"[]", lambda _: None, credit=3, idempotency_key="k")
    await owner.until(lambda: len(owner.calls) == 2)
    assert owner.calls == [
        frames.Call(1, "echo", b"{}", 5, 0, None),
        frames.Call(2, "quiet", b"[]", 0, 3, "k"),
    ]


@under_both_loops
async def test_a_refusal_becomes_the_error_it_names() -> None:
    left, _ = await join(Owner(), Owner(refuse=refuse))
    with pytest.raises(GatewayError) as caught:
        await left.call("refuse", {})
    assert caught.value.code is ErrorCode.CONFLICT
    assert caught.value.message == "It is there."
    assert caught.value.details == {"field": "key", "self": 1}


@under_both_loops
async def test_a_refusal_that_cannot_be_read_ends_the_link() -> None:
    def mumble(end: LinkEnd, call: frames.Call) -> None:
        end.link.fail(call.id, "CONFLICT", "no", b"[]")
        end.flush()

    owner = Owner()
    left, _ = await join(owner, Owner(mumble=mumble))
    with pytest.raises(LinkClosedError):
        await left.call("mumble", {})
    await owner.closed.wait()
    assert isinstance(owner.reason, RemoteProtocolError)


@under_both_loops
async def test_a_stream_waits_for_credit_and_keeps_its_order() -> None:
    sent = 0

    def go_on(end: LinkEnd, call_id: int) -> None:
        nonlocal sent
        while end.link.stream_credit(call_id) and sent < 50:
            end.link.chunk(call_id, b"%d" % sent)
            sent += 1
        if sent == 50:
            end.link.end(call_id, b"{}")
        end.flush()

    class Streamer(Owner):
        def on_credit(self, end: LinkEnd, call_id: int) -> None:
            go_on(end, call_id)

    replies: list[Reply] = []
    done = asyncio.Event()
    left, _ = await join(Owner(), Streamer(count=lambda end, call: go_on(end, call.id)))

    def on_reply(reply: Reply) -> None:
        replies.append(reply)
        if isinstance(reply, frames.Chunk):
            assert sent <= len(replies) + 4
            left.link.grant(reply.id, 1)
            left.flush()
        else:
            done.set()

    call_id = left.start_call("count", b"{}", on_reply, credit=4)
    await done.wait()
    chunks: list[Reply] = [frames.Chunk(call_id, b"%d" % n) for n in range(50)]
    assert replies == [*chunks, frames.End(call_id, b"{}")]


@under_both_loops
async def test_a_call_given_up_is_cancelled_and_its_answer_dropped() -> None:
    owner = Owner(echo=echo)
    left, right = await join(Owner(), owner)
    waiting = asyncio.create_task(left.call("slow", {}))
    await owner.until(lambda: len(owner.calls) == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await owner.until(lambda: owner.cancelled == [1])
    assert left.link.calls_open == 1
    right.link.result(1, b"late")
    right.flush()
    assert await left.call("echo", {}) == b"{}"
    assert leftovers(left.link) == NOTHING
    assert left._replies == {}


@under_both_loops
async def test_a_call_over_a_bound_is_not_sent() -> None:
    left, _ = await join(Owner(), Owner(echo=echo))
    with pytest.raises(LocalProtocolError):
        await left.call("m" * 65, {})
    with pytest.raises(LocalProtocolError):
        left.start_call("echo", bytes(limits.FRAME_BYTES_MAX), lambda _: None)
    assert left._replies == {}
    assert await left.call("echo", {}) == b"{}"


@under_both_loops
async def test_notices_and_signs_of_life() -> None:
    owner, peer = Owner(), Owner()
    left, right = await join(owner, peer)
    assert left.link.ping() == 0
    left.flush()
    assert await owner.notices.get() == frames.Pong(1)
    sent: list[frames.Frame] = [frames.Event("t", b"1"), frames.Drain(1.5), frames.Drained()]
    for frame in sent:
        right.link.send(frame)  # type: ignore[arg-type]
    right.flush()
    assert [await owner.notices.get() for _ in sent] == sent


@under_both_loops
async def test_what_is_said_in_one_turn_of_the_loop_leaves_in_one_write() -> None:
    end, sock = await join_raw(Owner())
    for n in range(20):
        end.link.send(frames.Event("t", b"%d" % n))
        end.flush()
    data = await asyncio.get_running_loop().sock_recv(sock, 2**18)
    assert len(list(FrameDecoder().feed(data))) == 20


# --- the end of a link


@under_both_loops
async def test_a_peer_that_goes_ends_every_open_call() -> None:
    owner, peer = Owner(), Owner()
    left, right = await join(owner, peer)
    waiting = [asyncio.create_task(left.call("slow", {})) for _ in range(3)]
    await peer.until(lambda: len(peer.calls) == 3)
    right.close()
    await owner.closed.wait()
    for task in waiting:
        with pytest.raises(LinkClosedError):
            await task
    assert left.closed
    with pytest.raises(LinkClosedError):
        left.start_call("more", b"{}", lambda _: None)
    with pytest.raises(LinkClosedError):
        await left.call("more", {})
    assert leftovers(left.link) == NOTHING
    assert left._replies == {}
    assert right.closed
    await peer.closed.wait()


@under_both_loops
async def test_a_peer_that_closes_between_frames_gives_no_reason() -> None:
    owner = Owner()
    end, sock = await join_raw(owner)
    sock.close()
    await owner.closed.wait()
    assert owner.reason is None
    await end.writable()


@under_both_loops
async def test_closing_keeps_the_first_reason() -> None:
    owner, peer = Owner(), Owner()
    left, _ = await join(owner, peer)
    first = ValueError("first")
    left.close(first)
    left.close(ValueError("second"))
    await owner.closed.wait()
    assert owner.reason is first
    await peer.closed.wait()


@under_both_loops
async def test_every_open_call_hears_of_the_end_though_one_fails_at_it() -> None:
    owner = Owner()
    left, _ = await join(owner, Owner())
    heard: list[Reply] = []

    def fail(reply: Reply) -> None:
        msg = "an owner's bug"
        raise ValueError(msg)

    left.start_call("a", b"{}", fail)
    left.start_call("b", b"{}", heard.append)
    with loop_errors() as errors:
        left.close()
        await owner.closed.wait()
    assert [type(reply) for reply in heard] == [LinkClosedError]
    assert errors == ["""ValueError("an owner's bug")"""]


@under_both_loops
async def test_finishing_sends_what_was_said_first() -> None:
    owner, peer = Owner(), Owner()
    left, _ = await join(owner, peer)
    body = bytes(limits.FRAME_BYTES_MAX - 64)
    for _ in range(3):
        left.link.send(frames.Event("t", body))
    left.finish()
    left.link.send(frames.Event("too late", b""))
    left.flush()
    await asyncio.gather(owner.closed.wait(), peer.closed.wait())
    assert owner.reason is peer.reason is None
    assert [peer.notices.get_nowait() for _ in range(3)] == [frames.Event("t", body)] * 3
    assert peer.notices.empty()


# --- a handler that fails, a peer that breaks the contract


@under_both_loops
async def test_a_handler_that_raises_ends_only_its_own_link() -> None:
    owner, peer, other = Owner(), Owner(crash=crash), Owner(echo=echo)
    left, right = await join(owner, peer)
    healthy, _ = await join(Owner(), other)
    waiting = asyncio.create_task(left.call("crash", {}))
    with pytest.raises(LinkClosedError):
        await waiting
    await peer.closed.wait()
    assert isinstance(peer.reason, KeyError)
    assert right.closed
    assert await healthy.call("echo", {}) == b"{}"


@under_both_loops
async def test_an_owner_of_a_call_that_raises_ends_the_link() -> None:
    owner = Owner()
    left, _ = await join(owner, Owner(echo=echo))
    left.start_call("echo", b"{}", partial(crash, left))
    await owner.closed.wait()
    assert isinstance(owner.reason, AttributeError)


@under_both_loops
async def test_nothing_is_acted_on_after_closing() -> None:
    owner = Owner(stop=lambda end, _: end.close())
    _, sock = await join_raw(owner)
    calls = [frames.Call(1, "a", b""), frames.Call(2, "stop", b""), frames.Call(3, "b", b"")]
    await asyncio.get_running_loop().sock_sendall(sock, b"".join(map(encode, calls)))
    await owner.closed.wait()
    assert [call.id for call in owner.calls] == [1, 2]


@under_both_loops
async def test_broken_contracts_end_the_link_with_the_reason() -> None:
    for data in (
        encode(frames.Result(1, b"never asked")),
        b"\x07\0\0\0\x93\x08\xa2\xff\xfe\xc4\x00",
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ):
        owner = Owner()
        end, sock = await join_raw(owner)
        end.link.ping()
        await asyncio.get_running_loop().sock_sendall(sock, encode(frames.Pong(1)) + data)
        await owner.closed.wait()
        assert owner.notices.get_nowait() == frames.Pong(1)
        assert isinstance(owner.reason, RemoteProtocolError)
        assert leftovers(end.link)["pending"] == 0
        await read_until_closed(sock)


@under_both_loops
async def test_a_link_takes_only_the_kinds_it_was_made_for() -> None:
    owner = Owner()
    _, right = await join(owner, Owner(), accepts=ANSWERS | REQUESTS)
    right.link.ping()
    right.flush()
    await owner.closed.wait()
    assert isinstance(owner.reason, RemoteProtocolError)


@under_both_loops
async def test_torn_frames() -> None:
    owner = Owner(echo=echo)
    _, sock = await join_raw(owner)
    loop = asyncio.get_running_loop()
    wire = b"".join(encode(frames.Call(n, "echo", b"%d" % n)) for n in (1, 2))
    for start in range(len(wire)):
        await loop.sock_sendall(sock, wire[start : start + 1])
    decoder, answers = FrameDecoder(), list[frames.Frame]()
    while len(answers) < 2:
        answers += decoder.feed(await loop.sock_recv(sock, 4096))
    assert answers == [frames.Result(1, b"1"), frames.Result(2, b"2")]
    await loop.sock_sendall(sock, wire[:-1])
    sock.close()
    await owner.closed.wait()


@under_both_loops
async def test_huge_frames() -> None:
    left, _ = await join(Owner(), Owner(echo=echo))
    text = "x" * (limits.FRAME_BYTES_MAX - 64)
    answers = await asyncio.gather(*(left.call("echo", text) for _ in range(3)))
    assert all(answer == b'"%b"' % text.encode() for answer in answers)


# --- a peer that does not read


@under_both_loops
async def test_a_peer_that_does_not_read_is_cut_off_at_the_bound() -> None:
    owner = Owner()
    end, _ = await join_raw(owner)
    waiting: list[Reply] = []
    end.start_call("m", b"{}", waiting.append)
    event = frames.Event("t", bytes(limits.FRAME_BYTES_MAX - 64))
    said = 0
    while not end.closed:
        end.link.send(event)
        end.flush()
        said += limits.FRAME_BYTES_MAX
        await turns(1)
        assert end.congested or end.closed
        assert said <= limits.LINK_WRITE_BUFFER_MAX + 2 * limits.FRAME_BYTES_MAX
    assert said > limits.LINK_WRITE_BUFFER_MAX
    await owner.closed.wait()
    assert "does not read" in str(owner.reason)
    assert [type(reply) for reply in waiting] == [LinkClosedError]


@under_both_loops
async def test_congestion_is_told_and_passes() -> None:
    event = frames.Event("t", bytes(4 * limits.MIB))
    end, sock = await join_raw(Owner())
    await end.writable()
    told = [end.congested]
    end.link.send(event)
    end.flush()
    told.append(end.congested)  # so much is written at once
    await turns(2)
    told.append(end.congested)
    reading = asyncio.create_task(read_until_closed(sock))
    await end.writable()
    told.append(end.congested)
    assert told == [False, True, True, False]
    end.finish()
    assert await reading == encode(event)


@under_both_loops
async def test_who_waits_for_room_is_woken_by_the_end() -> None:
    owner = Owner()
    end, _ = await join_raw(owner)
    end.link.send(frames.Event("t", bytes(4 * limits.MIB)))
    end.flush()
    await turns(2)
    waiting = asyncio.create_task(end.writable())
    end.close()
    await waiting


# --- refusals


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.name)
def test_every_code_is_told_apart(code: ErrorCode) -> None:
    error = failure_error(frames.Failure(1, code.name, "Because.", b'{"code":"FORGED","a":[1]}'))
    assert error.code is code
    assert error.message == "Because."
    assert error.details["a"] == [1]
    assert error.body().data["code"] == code.name


def test_a_code_that_is_not_in_the_table_is_internal() -> None:
    for name in ("", "internal", "NO_SUCH", "__class__", "rpc_code"):
        assert failure_error(frames.Failure(1, name, "x")).code is ErrorCode.INTERNAL


@pytest.mark.parametrize(
    "details", [b"", b"[]", b"1", b"null", b"{", b'{"a":"\xff"}', b'{"a":' + b"[" * 5000]
)
def test_details_that_are_no_object_are_the_peers_fault(details: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        failure_error(frames.Failure(1, "CONFLICT", "x", details))


def test_details_of_any_name() -> None:
    names = ["self", "code", "message", "args", "with blanks", "", "\x00", "ключ"]
    details = dict.fromkeys(names, 1)
    error = failure_error(frames.Failure(1, "CONFLICT", "x", msgspec.json.encode(details)))
    assert error.body().data == {**details, "code": "CONFLICT"}


@under_both_loops
async def test_a_link_ends_after_the_last_answer_to_its_owner() -> None:
    waiting: list[frames.Call] = []
    peer = Owner(later=lambda _, call: waiting.append(call))
    left, right = await join(Owner(), peer)
    answers = [asyncio.create_task(left.call("later", {})) for _ in range(2)]
    while len(waiting) < 2:
        await turns(1)
    left.finish_after_calls()
    right.link.result(waiting[0].id, b"1")
    right.flush()
    assert await answers[0] == b"1"
    await turns(1)
    assert not right.closed
    right.link.result(waiting[1].id, b"2")
    right.flush()
    assert await answers[1] == b"2"
    while not (left.closed and right.closed):
        await turns(1)


@under_both_loops
async def test_a_link_without_calls_ends_at_once() -> None:
    left, right = await join(Owner(), Owner())
    left.finish_after_calls()
    while not (left.closed and right.closed):
        await turns(1)
