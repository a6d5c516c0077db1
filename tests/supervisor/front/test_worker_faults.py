import asyncio
import socket

import pytest

from protocol import codec, frames, limits
from protocol.errors import ErrorCode, GatewayError
from tests.supervisor.front.harness import (
    GLOBEX,
    Client,
    Front,
    Worker,
    request,
    rpc,
    rpc_body,
    running,
    soon,
)


async def _with_a_call_in_flight(front: Front) -> tuple[Worker, Client, frames.Call]:
    """A neighbour whose call waits while something goes wrong elsewhere."""
    worker = await front.worker("globex")
    client = await front.connect()
    await client.send(request("/rpc", rpc_body("neighbour"), token=GLOBEX))
    return worker, client, await worker.next_call()


async def _undisturbed(worker: Worker, client: Client, call: frames.Call) -> None:
    worker.result(call, b'"fine"')
    assert (await client.response()).json["result"] == "fine"
    worker.echo = True
    assert (await client.ask(request("/rpc", rpc_body(), token=GLOBEX))).status == 200


HUGE = (limits.FRAME_BYTES_MAX + 1).to_bytes(4, "little")
FAULTS = {
    "nothing that is a frame": b"\x05\0\0\0hello",
    "a frame of an unknown tag": b"\x03\0\0\0\x92\x63\x01",
    "a frame over its bound": HUGE + b"x" * 1000,
    "a call": codec.encode(frames.Call(1, "tenants.update", b"{}")),
    "a drain": codec.encode(frames.Drain(1.0)),
    "an answer never asked for": codec.encode(frames.Result(77, b"{}")),
    "a chunk without credit": codec.encode(frames.Chunk(1, b"{}")),
    "the end of no stream": codec.encode(frames.End(1, b"{}")),
    "a cancel": codec.encode(frames.Cancel(1)),
    "an event that is no object": codec.encode(frames.Event("chat", b"[]")),
    "an event over its bound": codec.encode(
        frames.Event("chat", b"{%b}" % (b" " * limits.EVENT_BYTES_MAX))
    ),
    "a flood of events": codec.encode(frames.Event("chat", b"{}")) * limits.EVENTS_BURST * 3,
    "a ping": codec.encode(frames.Ping(1)),
    "an answer twice": codec.encode(frames.Result(1, b'"ok"')) * 2,
    "details that are no object": codec.encode(frames.Failure(1, "NOT_FOUND", "x", b"[]")),
    "deep details": codec.encode(frames.Failure(1, "NOT_FOUND", "x", b"[" * 5000)),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_worker_that_breaks_the_contract_loses_its_link_and_nobody_else(
    fault: str,
) -> None:
    async with running() as front:
        neighbour = await _with_a_call_in_flight(front)
        with front.give_link("acme") as worker:
            client = await front.connect()
            await client.send(rpc("m", 5))
            await _read_one_frame(worker)
            worker.sendall(FAULTS[fault])
            lost = await front.next_lost_link()
            assert (lost.tenant, lost.generation) == ("acme", 2)
            assert lost.reason
            answer = await client.response()
            if fault == "an answer twice":
                assert answer.json["result"] == "ok"
            else:
                assert (answer.status, answer.code) == (503, "UNAVAILABLE")
                assert answer.json["error"]["data"]["retryable"] is True
                assert answer.json["id"] == 5
                assert answer.headers["retry-after"] == "1"
        await _undisturbed(*neighbour)
        await front.worker("acme", echo=True)
        assert (await client.ask(rpc())).status == 200


async def _read_one_frame(sock: socket.socket) -> None:
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    decoder = codec.FrameDecoder()
    while not list(decoder.feed(await soon(loop.sock_recv(sock, 65536)))):
        pass
    sock.setblocking(True)


async def test_a_torn_frame_and_an_end() -> None:
    async with running() as front:
        neighbour = await _with_a_call_in_flight(front)
        with front.give_link("acme") as worker:
            client = await front.connect()
            await client.send(rpc())
            await _read_one_frame(worker)
            worker.sendall(codec.encode(frames.Result(1, b'"never complete"'))[:-3])
        answer = await client.response()
        assert (answer.status, answer.code) == (503, "UNAVAILABLE")
        lost = await front.next_lost_link()
        assert (lost.tenant, lost.reason) == ("acme", None)
        await _undisturbed(*neighbour)


async def test_calls_in_flight_end_with_the_link_and_later_ones_wake_a_worker() -> None:
    async with running() as front:
        worker = await front.worker("acme")
        clients = [await front.connect() for _ in range(3)]
        for client in clients:
            await client.send(rpc("one") + rpc("two"))
            await worker.next_call()
        worker.end.close()
        for client in clients:
            answer = await client.response()
            assert (answer.status, answer.code) == (503, "UNAVAILABLE")
            assert answer.json["error"]["data"]["retryable"] is True
        assert (await front.next_wake())[1] == "acme"
        await front.worker("acme", echo=True)
        for client in clients:
            assert (await client.response()).status == 200


async def test_a_worker_cannot_write_headers_or_statuses_of_its_own() -> None:
    async with running() as front:
        worker = await front.worker("acme")
        client = await front.connect()
        await client.send(rpc())
        call = await worker.next_call()
        details = {"allowed": ["GET\r\nSet-Cookie: a=b"], "retryAfterMs": "9\r\nX: y"}
        worker.fail(call, GatewayError(ErrorCode.METHOD_NOT_ALLOWED, "a\r\n\r\nb", **details))
        answer = await client.response()
        assert answer.status == 405
        assert "set-cookie" not in answer.headers
        await client.send(rpc())
        call = await worker.next_call()
        worker.end.link.fail(call.id, "NO_SUCH_CODE", "odd")
        worker.end.flush()
        answer = await client.response()
        assert (answer.status, answer.code) == (500, "INTERNAL")


async def test_a_message_that_is_no_link_is_left_alone() -> None:
    async with running() as front:
        front.send_on_channel(b"nonsense")
        front.send_on_channel(b"\xc1", descriptor=0)
        await front.worker("acme", echo=True)
        assert (await front.once(rpc())).status == 200
        faults = [line for line in front.log if line["event"] == "descriptor channel"]
        assert len(faults) == 2
        front.log.clear()
