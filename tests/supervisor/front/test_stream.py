import asyncio
import json
from typing import Any

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.frames import Call
from tests.supervisor.front.harness import (
    Client,
    Worker,
    request,
    rpc,
    rpc_body,
    running,
    soon,
)

EVENTS = "Accept: text/event-stream"


def _stream(method: str = "sessions.send", request_id: Any = 1) -> bytes:
    return rpc(method, request_id, EVENTS)


async def test_chunks_become_events_and_the_end_the_last_one() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(_stream(request_id="s"))
        call = await worker.next_call()
        assert call.credit == limits.STREAM_CREDIT_INITIAL
        worker.chunk(call, b'{"deltaText":"a"}')
        head = await client.head()
        assert head.status == 200
        assert head.headers["content-type"] == "text/event-stream"
        assert head.headers["x-content-type-options"] == "nosniff"
        assert await client.chunk() == b'event: chat\ndata: {"deltaText":"a"}\n\n'
        worker.chunk(call, b'{"deltaText":\n\r"b"}')
        assert await client.chunk() == b'event: chat\ndata: {"deltaText":  "b"}\n\n'
        worker.stop(call, b'{"status":"ok"}')
        last = await client.chunk()
        assert last.startswith(b"event: result\ndata: ")
        assert json.loads(last.split(b"data: ")[1]) == {
            "jsonrpc": "2.0",
            "id": "s",
            "result": {"status": "ok"},
        }
        assert await client.chunk() == b""
        worker.echo = True
        assert (await client.ask(rpc())).status == 200


async def test_a_method_that_does_not_stream_still_ends_in_an_event() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(_stream())
        worker.result(await worker.next_call(), b"5")
        answer = await client.response()
        assert answer.events == [("result", {"jsonrpc": "2.0", "id": 1, "result": 5})]


async def test_a_refusal_before_the_first_chunk_is_a_plain_one() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(_stream())
        worker.fail(await worker.next_call(), GatewayError(ErrorCode.NOT_FOUND, "no session"))
        answer = await client.response()
        assert (answer.status, answer.code) == (404, "NOT_FOUND")
        assert answer.headers["content-type"] == "application/json"


async def test_a_refusal_or_the_workers_end_after_it_is_the_last_event() -> None:
    async with running() as front:
        worker = await front.worker()
        client, other = await front.connect(), await front.connect()
        await client.send(_stream())
        call = await worker.next_call()
        worker.chunk(call, b"{}")
        worker.fail(call, GatewayError(ErrorCode.QUOTA_EXCEEDED, "no more"))
        (_, (kind, data)) = (await client.response()).events
        assert kind == "result"
        assert data["error"]["data"]["code"] == "QUOTA_EXCEEDED"
        await other.send(_stream())
        worker.chunk(await worker.next_call(), b"{}")
        await other.head()
        await other.chunk()
        worker.end.close()
        last = await other.chunk()
        assert json.loads(last.split(b"data: ")[1])["error"]["data"]["code"] == "UNAVAILABLE"
        assert await other.chunk() == b""


async def _pour(worker: Worker, call: Call, chunks: list[bytes]) -> None:
    """Send chunks as a worker does: no more than there is credit for."""
    for chunk in chunks:
        while worker.end.link.stream_credit(call.id) == 0:
            await soon(worker.credited.get())
        worker.chunk(call, chunk)
    worker.stop(call, b'"done"')


async def test_a_long_stream_reaches_its_end() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(_stream())
        call = await worker.next_call()
        chunks = [json.dumps({"n": n, "pad": "x" * 30_000}).encode() for n in range(200)]
        pouring = asyncio.create_task(_pour(worker, call, chunks))
        events = (await client.response()).events
        await pouring
        assert [data.get("n") for _, data in events[:-1]] == list(range(200))
        assert events[-1][1]["result"] == "done"


async def _pour_until_cancelled(worker: Worker, call: Call) -> int:
    """Send as much as credit allows until nobody wants it; gives the bytes sent."""
    chunk = b'"' + b"x" * (limits.CHUNK_BYTES_MAX - 2) + b'"'
    sent = 0
    while worker.cancelled.empty():
        if worker.end.link.stream_credit(call.id):
            worker.chunk(call, chunk)
            sent += len(chunk)
        else:
            await _next_of(worker)
    return sent


async def _next_of(worker: Worker) -> None:
    """Wait for credit or a cancel."""
    waits = [asyncio.ensure_future(queue.get()) for queue in (worker.credited, worker.cancelled)]
    done, _ = await asyncio.wait(waits, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    assert done
    if waits[1].done():
        worker.cancelled.put_nowait(waits[1].result())
    for wait in waits:
        wait.cancel()


async def _stalled_client(front: Any) -> Client:
    client: Client = await front.connect(receive_buffer=4096)
    client.stop_reading()
    await client.send(_stream())
    return client


async def test_a_client_that_does_not_read_holds_up_its_own_stream_alone() -> None:
    async with running(limits={"HTTP_WRITE_SECONDS": 0.5}) as front:
        worker = await front.worker()
        await _stalled_client(front)
        call = await worker.next_call()
        sent = await _pour_until_cancelled(worker, call)
        # What the kernel's two buffers take on loopback, and what the front may hold.
        held = (
            limits.HTTP_WRITE_BUFFER_HIGH
            + (limits.STREAM_CREDIT_INITIAL + 1) * limits.CHUNK_BYTES_MAX
        )
        assert sent < 8 * limits.MIB + held
        worker.stop(call, b"0")
        worker.echo = True
        assert (await front.once(rpc())).status == 200


async def test_a_client_that_leaves_a_stream_becomes_a_cancel() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(_stream())
        call = await worker.next_call()
        worker.chunk(call, b"{}")
        await client.head()
        await client.close()
        assert await soon(worker.cancelled.get()) == call.id
        # The worker may have more on its way: it is not counted against it.
        worker.chunk(call, b"{}")
        worker.stop(call, b"{}")
        worker.echo = True
        assert (await front.once(rpc())).status == 200


async def test_an_old_client_gets_its_stream_without_chunks() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/rpc", rpc_body(), EVENTS).replace(b"HTTP/1.1", b"HTTP/1.0"))
        call = await worker.next_call()
        worker.chunk(call, b"{}")
        worker.stop(call, b"1")
        answer = await client.response()
        assert "transfer-encoding" not in answer.headers
        assert answer.headers["connection"] == "close"
        assert [kind for kind, _ in answer.events] == ["chat", "result"]
