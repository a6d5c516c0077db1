from protocol import frames
from tests.supervisor.front.harness import GLOBEX, Front, request, rpc, rpc_body, running, soon


async def _drained(front: Front) -> None:
    """The front has said so, and then ended well."""
    while not isinstance(await soon(front.notices.get()), frames.Drained):
        pass
    assert await front.exit_code() == 0


async def test_a_front_with_nothing_to_do_drains_at_once() -> None:
    async with running() as front:
        idle = await front.connect()
        assert (await idle.ask(request("/healthz", token=None))).status == 200
        front.drain(60)
        assert await idle.at_end()
        await _drained(front)


async def test_what_is_in_flight_is_finished() -> None:
    async with running() as front:
        worker = await front.worker()
        plain, stream, partial = [await front.connect() for _ in range(3)]
        await plain.send(rpc("plain"))
        call = await worker.next_call()
        await stream.send(rpc("stream", 1, "Accept: text/event-stream"))
        streaming = await worker.next_call()
        worker.chunk(streaming, b"{}")
        await stream.head()
        await stream.chunk()
        await partial.send(rpc("partial")[:-3])
        await front.once(request("/healthz", token=None))
        front.drain(60)
        worker.chunk(streaming, b"{}")
        await stream.chunk()
        worker.result(call, b"1")
        answer = await plain.response()
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert await plain.at_end()
        worker.stop(streaming, b"2")
        assert b"result" in await stream.chunk()
        assert await stream.chunk() == b""
        assert await stream.at_end()
        await partial.send(rpc("partial")[-3:])
        worker.result(await worker.next_call(), b"3")
        assert (await partial.response()).json["result"] == 3
        await _drained(front)


async def test_what_takes_longer_is_refused() -> None:
    async with running() as front:
        worker = await front.worker()
        plain, stream, held, partial = [await front.connect() for _ in range(4)]
        await plain.send(rpc("plain"))
        call = await worker.next_call()
        await stream.send(rpc("stream", 1, "Accept: text/event-stream"))
        streaming = await worker.next_call()
        worker.chunk(streaming, b"{}")
        await held.send(request("/rpc", rpc_body(), token=GLOBEX))
        await partial.send(b"GET /hea")
        await front.once(request("/healthz", token=None))
        front.drain(0.3)
        answer = await plain.response()
        assert (answer.status, answer.code) == (503, "UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["connection"] == "close"
        (_, (kind, data)) = (await stream.response()).events
        assert kind == "result"
        assert data["error"]["data"]["code"] == "UNAVAILABLE"
        assert {await soon(worker.cancelled.get()) for _ in range(2)} == {call.id, streaming.id}
        assert (await held.response()).status == 503
        assert await partial.at_end()
        await _drained(front)


async def test_no_connection_is_refused_while_fronts_are_exchanged() -> None:
    async with running() as front:
        front.drain(60)
        await _drained(front)
        # The listening socket is the supervisor's: its next front takes who has come meanwhile.
        late = await front.connect()
        await late.send(b"here I am")
        assert await front.next_in_the_queue() == b"here I am"
