"""What goes over an open WebSocket when both sides keep to the rules."""

import contextlib
import json
from typing import Any

import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from protocol.errors import ErrorCode, GatewayError
from protocol.spawn import TenantsUpdate
from tests.supervisor.front.harness import (
    ACME,
    GLOBEX,
    Worker,
    access,
    request,
    rpc_body,
    running,
    soon,
)
from tests.supervisor.front.raw_socket import (
    CONT,
    PING,
    PONG,
    TEXT,
    frame,
    message,
    open_socket,
    upgrade,
)


async def ready(front: Any, tenant: str = "acme") -> Worker:
    """A worker whose link is up: nothing is held for it any more."""
    worker: Worker = await front.worker(tenant, echo=True)
    token = ACME if tenant == "acme" else GLOBEX
    assert (await front.once(request("/rpc", rpc_body(), token=token))).status == 200
    worker.echo = False
    return worker


async def test_a_call_reaches_the_worker_and_its_answer_the_client() -> None:
    async with running() as front:
        worker = await ready(front)
        client = await open_socket(front)
        await client.send(message("sessions.create", 7, params={"label": "x"}))
        call = await worker.next_call()
        assert (call.method, json.loads(call.params)) == ("sessions.create", {"label": "x"})
        assert call.credit == 0
        worker.result(call, b'{"made": [1, 2]}')
        answer = await client.receive()
        assert (answer.opcode, answer.data) == (
            TEXT,
            b'{"jsonrpc":"2.0","id":7,"result":{"made": [1, 2]}}',
        )


async def test_a_client_of_the_library() -> None:
    async with running() as front:
        worker = await ready(front)
        worker.echo = True
        address = f"ws://localhost:{front.port}/ws"
        protocols = [Subprotocol("openclaw.v1"), Subprotocol(f"bearer.{ACME}")]
        async with connect(address, subprotocols=protocols, max_size=None) as client:
            assert client.subprotocol == "openclaw.v1"
            assert client.response is not None
            assert ACME not in str(client.response.headers)
            assert "Sec-WebSocket-Extensions" not in client.response.headers
            for size in (0, 1, 200, 70_000, 3_000_000):
                text = "é" * size
                call = {"jsonrpc": "2.0", "id": size, "method": "m", "params": {"text": text}}
                await client.send(json.dumps(call, ensure_ascii=False))
                answer = json.loads(await soon(client.recv()))
                assert answer == {"jsonrpc": "2.0", "id": size, "result": {"text": text}}
            await client.send(["[" + rpc_body("echo", 1).decode(), "]"])  # two fragments
            assert len(json.loads(await soon(client.recv()))) == 1
            await soon(await client.ping())
        assert client.close_code == 1000


async def test_answers_come_as_they_are_ready() -> None:
    async with running() as front:
        worker = await ready(front)
        client = await open_socket(front)
        for number in range(3):
            await client.send(message("m", number))
        calls = [await worker.next_call() for _ in range(3)]
        for call in reversed(calls):
            worker.result(call, b"1")
        assert [(await client.receive()).json["id"] for _ in range(3)] == [2, 1, 0]


async def test_errors_are_answers_and_the_connection_goes_on() -> None:
    async with running() as front:
        worker = await ready(front)
        client = await open_socket(front)
        for data, code, request_id in (
            (b"{", -32700, None),
            (b"", -32700, None),
            (b"7", -32600, None),
            (b"[]", -32600, None),
            (b'{"jsonrpc":"2.0","method":"m","id":1,"more":1}', -32600, None),
            (b'{"jsonrpc":"2.0","method":"events.subscribe","id":4,"params":[]}', -32602, 4),
            (
                b'{"jsonrpc":"2.0","method":"events.subscribe","id":5,"params":{"events":["x"]}}',
                -32602,
                5,
            ),
        ):
            answer = await client.ask(frame(data))
            assert (answer["error"]["code"], answer["id"]) == (code, request_id), data
        await client.send(message("m", 3))
        worker.fail(await worker.next_call(), GatewayError(ErrorCode.CONFLICT, "no"))
        assert (await client.receive()).json["error"]["data"]["code"] == "CONFLICT"


async def test_notifications_and_batches() -> None:
    async with running() as front:
        worker = await ready(front)
        client = await open_socket(front)
        note = b'{"jsonrpc":"2.0","method":"note","params":{}}'
        await client.send(frame(note))
        worker.result(await worker.next_call(), b"1")
        await client.send(frame(b"[%b,%b]" % (note, note)))
        for _ in range(2):
            worker.fail(await worker.next_call(), GatewayError(ErrorCode.CONFLICT, "no"))
        subscribe = rpc_body("events.subscribe", "s")
        await client.send(frame(b"[%b,7,%b,%b]" % (note, subscribe, rpc_body("m", 3))))
        for _ in range(2):
            worker.result(await worker.next_call(), b"1")
        answers = (await client.receive()).json
        assert [answer["id"] for answer in answers] == [None, "s", 3]
        assert answers[1]["result"] == {"subscribed": True}


async def test_a_stream_is_events_and_then_the_answer() -> None:
    async with running() as front:
        worker = await ready(front)
        client = await open_socket(front)
        await client.send(message("sessions.send", "x", stream=True))
        call = await worker.next_call()
        assert call.credit > 0
        for number in range(40):
            while not worker.end.link.stream_credit(call.id):
                await soon(worker.credited.get())
            worker.chunk(call, b'{"n":%d}' % number)
        worker.stop(call, b'"done"')
        for number in range(40):
            assert (await client.receive()).json == {
                "jsonrpc": "2.0",
                "method": "event",
                "params": {"event": "chat", "seq": number + 1, "id": "x", "payload": {"n": number}},
            }
        assert (await client.receive()).json == {"jsonrpc": "2.0", "id": "x", "result": "done"}


async def test_a_client_that_goes_away_becomes_a_cancel() -> None:
    async with running() as front:
        worker = await ready(front)
        client = await open_socket(front)
        await client.send(message("m", 1) + message("n", 2))
        calls = [await worker.next_call() for _ in range(2)]
        await client.close()
        assert {await soon(worker.cancelled.get()) for _ in calls} == {c.id for c in calls}
        for call in calls:
            worker.result(call, b"1")


async def test_calls_of_one_connection_and_of_a_tenant_are_bounded() -> None:
    bounds = {"SOCKET_CALLS_MAX": 2, "TENANT_CALLS_IN_FLIGHT_MAX": 3}
    async with running(limits=bounds) as front:
        worker = await ready(front)
        one, other = await open_socket(front), await open_socket(front)
        for number in range(3):
            await one.send(message("m", number))
        answer = (await one.receive()).json
        assert (answer["id"], answer["error"]["data"]["code"]) == (2, "RATE_LIMITED")
        await other.send(message("m", 8) + message("m", 9))
        answer = (await other.receive()).json
        assert (answer["id"], answer["error"]["data"]["code"]) == (9, "RATE_LIMITED")
        for _ in range(3):
            worker.result(await worker.next_call(), b"1")
        assert {(await one.receive()).json["id"] for _ in range(2)} == {0, 1}
        assert (await other.receive()).json["id"] == 8


async def test_bytes_of_a_tenant_are_bounded_before_a_message_is_complete() -> None:
    async with running(limits={"TENANT_BYTES_IN_FLIGHT_MAX": 60_000}) as front:
        worker = await ready(front)
        worker.echo = True
        one, other = await open_socket(front), await open_socket(front)
        text = rpc_body("m", 1, text="x" * 40_000)
        await one.send(frame(text[:-1], fin=False) + frame(b"", PING))
        assert (await one.receive()).opcode == PONG
        await other.send(frame(text)[:-1])
        assert await other.closed_with() == 1013
        await one.send(frame(text[-1:], CONT))
        assert (await one.receive()).json["result"] == {"text": "x" * 40_000}
        third = await open_socket(front)
        assert (await third.ask(frame(text)))["id"] == 1


async def test_a_message_that_is_refused_for_its_bytes_is_answered_by_its_id() -> None:
    async with running(limits={"TENANT_BYTES_IN_FLIGHT_MAX": 10_000}) as front:
        await ready(front)
        client = await open_socket(front)
        await client.send(message("m", 1, params={"text": "x" * 4000}))
        await client.send(message("m", 2, params={"text": "x" * 3500}))
        answer = await client.ask(message("m", 3, params={"text": "x" * 3500}))
        assert (answer["id"], answer["error"]["data"]["code"]) == (3, "RATE_LIMITED")


async def test_a_call_that_takes_too_long_is_refused() -> None:
    async with running(limits={"CALL_SECONDS_MAX": 0.2}) as front:
        worker = await ready(front)
        client = await open_socket(front)
        answer = await client.ask(message("m", 1))
        assert answer["error"]["data"]["code"] == "TIMEOUT"
        assert await soon(worker.cancelled.get()) == (await worker.next_call()).id


async def test_pings_are_answered_and_who_answers_none_is_closed() -> None:
    bounds = {"SOCKET_PING_SECONDS": 0.1, "SOCKET_PONG_SECONDS": 0.1}
    async with running(limits=bounds) as front:
        client = await open_socket(front)
        await client.send(frame(b"hello", PING))
        assert tuple(await client.receive()) == (PONG, b"hello")
        assert (await client.receive()).opcode == PING
        await client.send(frame(b"", PONG))
        assert (await client.receive()).opcode == PING
        assert await client.closed_with() == 1011


async def test_a_revoked_token_s_connections_are_cut_and_no_others() -> None:
    second = "tk_acme_" + "c3" * 16
    both = access("acme", ACME, second)
    async with running(tenants=[both, access("globex", GLOBEX)]) as front:
        worker = await ready(front)
        gone = await open_socket(front)
        kept, foreign = (
            await open_socket(front, token=second),
            await open_socket(front, token=GLOBEX),
        )
        await gone.subscribe()
        await gone.send(message("m", 1))
        call = await worker.next_call()
        await front.update(TenantsUpdate(known=[access("acme", second)]))
        assert await gone.closed_with() == 1008
        assert await soon(worker.cancelled.get()) == call.id
        await front.update(TenantsUpdate(known=[access("acme", second)]))
        for client in (kept, foreign):
            answer = await client.ask(message("events.unsubscribe", 1))
            assert answer["result"] == {"subscribed": False}
        await front.update(TenantsUpdate(known=[access("acme", second, enabled=False)]))
        assert await kept.closed_with() == 1008
        await front.update(TenantsUpdate(gone=["globex"]))
        assert await foreign.closed_with() == 1008


async def test_what_was_begun_before_the_end_of_its_token_is_answered() -> None:
    async with running() as front:
        worker = await ready(front)
        client = await open_socket(front)
        await client.subscribe()
        await client.send(message("m", 1))
        await client.send(message("events.poll", 2))
        call, waits = await worker.next_call(), await worker.next_call()
        await front.update(TenantsUpdate(gone=["acme"]))
        # What only waits ends at once, and what still comes is not heard.
        assert (await client.receive()).json["error"]["data"]["code"] == "UNAUTHORIZED"
        assert await soon(worker.cancelled.get()) == waits.id
        await client.send(message("m", 3))
        worker.result(call, b"1")
        assert (await client.receive()).json == {"jsonrpc": "2.0", "id": 1, "result": 1}
        assert await client.closed_with() == 1008
        assert worker.calls.empty()


async def test_one_that_does_not_read_is_cut_too() -> None:
    async with running() as front:
        worker = await ready(front)
        client = await open_socket(front, receive_buffer=4096)
        client.client.stop_reading()
        await client.send(message())
        worker.result(await worker.next_call(), b'"%b"' % (b"x" * 7_000_000))
        await front.update(TenantsUpdate(known=[access("acme", ACME, enabled=False)]))
        process = psutil.Process(front.process.pid)
        port = client.client.writer.get_extra_info("sockname")[1]
        while port in {getattr(c.raddr, "port", 0) for c in process.net_connections("tcp")}:
            assert (await front.once(request("/healthz", token=None))).status == 200
        client.client.go_on_reading()
        assert len(await soon(client.client.reader.read())) < 7_000_000


async def test_a_drain_closes_idle_connections_and_lets_calls_end() -> None:
    async with running() as front:
        worker = await ready(front)
        idle, busy = await open_socket(front), await open_socket(front)
        await busy.send(message("m", 1))
        call = await worker.next_call()
        front.drain(20)
        assert await idle.closed_with() == 1001
        answer = await busy.ask(message("m", 2))
        assert answer["error"]["data"]["code"] == "UNAVAILABLE"
        worker.result(call, b"1")
        assert (await busy.receive()).json["id"] == 1
        assert await busy.closed_with() == 1001
        assert await front.exit_code() == 0


async def test_a_drain_ends_in_time() -> None:
    async with running() as front:
        worker = await ready(front)
        client = await open_socket(front)
        await client.send(message("m", 1))
        await worker.next_call()
        front.drain(0.1)
        assert await client.closed_with() == 1001
        assert await front.exit_code() == 0


async def test_connections_are_bounded_for_each_tenant() -> None:
    async with running(limits={"SOCKETS_PER_TENANT_MAX": 2}) as front:
        first, _ = await open_socket(front), await open_socket(front)
        refused = await front.once(upgrade())
        assert (refused.status, refused.code) == (429, "RATE_LIMITED")
        await open_socket(front, token=GLOBEX)
        await first.send(frame(b"", 8))
        await soon(first.client.reader.read())
        await first.close()
        await until_open(front)


async def drain(client: ClientConnection) -> None:
    async for _ in client:
        pass


async def until_open(front: Any) -> None:
    async def attempt() -> None:
        while True:
            try:
                await open_socket(front)
            except AssertionError:
                continue
            return

    await soon(attempt())


@pytest.mark.parametrize("text", ["", "x" * 200_000])
async def test_the_library_s_close_is_answered(text: str) -> None:
    async with running() as front:
        worker = await ready(front)
        worker.echo = True
        headers = {"Authorization": f"Bearer {ACME}"}
        async with connect(f"ws://localhost:{front.port}/ws", additional_headers=headers) as client:
            assert client.subprotocol is None
            await client.send(rpc_body("echo", 1, text=text).decode())
            await client.close(1000, "bye")
            with contextlib.suppress(ConnectionClosed):
                await soon(drain(client))
        assert client.close_code == 1000
