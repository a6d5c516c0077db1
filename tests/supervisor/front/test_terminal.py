"""`/terminal` on one WebSocket, with the test as the tenant's worker."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from protocol import frames
from protocol.errors import ErrorCode, GatewayError
from protocol.spawn import TenantsUpdate
from tests.supervisor.front.harness import (
    ACME,
    Front,
    Worker,
    access,
    request,
    rpc_body,
    running,
    soon,
)
from tests.supervisor.front.raw_socket import BINARY, CLOSE, CONT, TEXT, UPGRADE, RawSocket, frame

PATH = "/terminal"
PROTOCOL = "Sec-WebSocket-Protocol: openclaw.terminal.v1"


def opening(query: str = "", token: str | None = ACME) -> bytes:
    return request(f"{PATH}{query}", None, *UPGRADE, PROTOCOL, token=token, host="localhost")


async def opened(front: Front, query: str = "", *, receive_buffer: int = 0) -> RawSocket:
    client = await front.connect(receive_buffer=receive_buffer)
    await client.send(opening(query))
    head = await client.head()
    assert head.status == 101, head
    assert head.headers["sec-websocket-protocol"] == "openclaw.terminal.v1"
    return RawSocket(client)


def piece(number: int, data: bytes) -> bytes:
    body = {"type": "output", "fromByte": number, "dataBase64": base64.b64encode(data).decode()}
    return json.dumps(body).encode()


def attached(number: int = 0) -> bytes:
    told = {"type": "attached", "terminalId": "t1", "fromByte": number}
    return json.dumps(
        {**told, "cols": 80, "rows": 24, "mode": "bubblewrap", "name": "main"}
    ).encode()


async def called(worker: Worker, method: str, **members: Any) -> frames.Call:
    """The next call, of this method and with these among its parameters."""
    call = await worker.next_call()
    params = json.loads(call.params)
    assert call.method == f"terminal.{method}", call
    assert members.items() <= params.items(), params
    return call


async def typed(worker: Worker, data: bytes, at: int) -> frames.Call:
    call = await called(worker, "write", at=at)
    assert base64.b64decode(json.loads(call.params)["dataBase64"]) == data
    return call


@asynccontextmanager
async def attachment(query: str = "?terminalId=t1") -> AsyncIterator[Any]:
    """A front, a worker, a client that is attached, and the call that its output is for."""
    async with running() as front:
        worker = await front.worker()
        client = await opened(front, query)
        call = await called(worker, "attach", terminalId="t1", encoding="base64")
        assert call.credit > 0
        worker.chunk(call, attached())
        assert (await client.receive()).json["type"] == "attached"
        yield front, worker, client, call


async def test_a_query_starts_a_program_and_its_end_is_told() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await opened(
            front, "?cmd=vi+x&cols=120&rows=32&name=one&sandbox=docker&network=n&cwd=/work/a"
        )
        wanted = {"cmd": "vi x", "cols": 120, "rows": 32, "name": "one", "sandbox": "docker"}
        call = await called(worker, "spawn", **wanted, network="n", cwd="/work/a")
        spawned = {"terminalId": "t1", "id": "t1", "cols": 120, "rows": 32, "mode": "docker"}
        worker.result(call, json.dumps({**spawned, "name": "one"}).encode())
        call = await called(worker, "attach", terminalId="t1")
        worker.chunk(call, attached())
        told = (await client.receive()).json
        assert told["terminalId"] == "t1"
        assert (told["fromByte"], told["cols"], told["rows"]) == (0, 80, 24)
        worker.chunk(call, piece(0, b"\xff\x00out"))
        received = await client.receive()
        assert (received.opcode, received.data) == (BINARY, b"\xff\x00out")
        end = {"terminalId": "t1", "nextByte": 5, "ended": {"exitCode": 3, "reason": "exit"}}
        worker.stop(call, json.dumps(end).encode())
        assert (await client.receive()).json == {
            "type": "exit",
            "exitCode": 3,
            "signal": None,
            "reason": "exit",
        }
        assert await client.closed_with() == 1000


async def test_what_is_typed_comes_in_order_and_each_byte_once() -> None:
    async with attachment() as (_, worker, client, _call):
        await client.send(frame(b"one ", BINARY))
        first = await typed(worker, b"one ", 0)
        writer = json.loads(first.params)["writer"]
        # While one write is under way the others come together; fragments are bytes like others.
        await client.send(frame(b"tw", BINARY, fin=False) + frame(b"o ", CONT, fin=False))
        await client.send(frame(b"three", CONT) + frame(b"\xff", BINARY))
        await client.send(frame(b'{"type":"resize","cols":100,"rows":30}'))
        await called(worker, "resize", cols=100, rows=30)  # all before it has been read then
        worker.result(first, b'{"written":1}')
        second = await typed(worker, b"ne two three\xff", 1)
        assert json.loads(second.params)["writer"] == writer
        # A worker that dies with an answer: the same again, with the same number.
        worker.fail(second, GatewayError(ErrorCode.UNAVAILABLE, "gone"))
        again = await typed(worker, b"ne two three\xff", 1)
        worker.result(again, b'{"written":13}')
        await client.send(frame(b"!", BINARY))
        await typed(worker, b"!", 14)


async def test_a_program_that_does_not_read_stops_the_client() -> None:
    async with attachment() as (_, worker, client, _call):
        for _ in range(5):
            await client.send(frame(bytes(64 * 1024), BINARY))
        await client.send(frame(b'{"type":"resize","cols":100,"rows":30}'))
        taken = 0
        sizes = []
        while taken < 5 * 64 * 1024:
            call = await worker.next_call()
            if call.method == "terminal.resize":
                sizes.append(taken)
                worker.result(call, b'{"cols":100,"rows":30}')
                continue
            count = len(base64.b64decode(json.loads(call.params)["dataBase64"]))
            taken += count
            worker.result(call, json.dumps({"written": count}).encode())
        # It was read only after enough of what was typed before it had been taken.
        assert sizes in ([], [taken]) or sizes[0] >= 64 * 1024


async def test_sizes_go_one_after_the_other_and_the_newest_wins() -> None:
    async with attachment("?terminalId=t1&cols=90&rows=20") as (_, worker, client, _call):
        first = await called(worker, "resize", cols=90, rows=20)
        for columns in (91, 92, 93):
            await client.send(frame(b'{"type":"resize","cols":%d,"rows":20}' % columns))
        await client.send(frame(b"x", BINARY))
        await typed(worker, b"x", 0)
        worker.result(first, b'{"cols":90,"rows":20}')
        await called(worker, "resize", cols=93)


async def test_the_client_can_end_it() -> None:
    async with attachment() as (_, worker, client, call):
        await client.send(frame(b'{"type":"close"}'))
        closing = await called(worker, "close", terminalId="t1")
        worker.result(closing, b'{"closed":true}')
        end = {"terminalId": "t1", "nextByte": 0, "ended": {"signal": 9, "reason": "closed"}}
        worker.stop(call, json.dumps(end).encode())
        told = (await client.receive()).json
        assert (told["exitCode"], told["signal"], told["reason"]) == (None, 9, "closed")
        assert await client.closed_with() == 1000


@pytest.mark.parametrize("how", ["let go", "worker dies"])
async def test_another_worker_goes_on_and_the_client_sees_nothing_of_it(how: str) -> None:
    async with attachment() as (front, worker, client, call):
        worker.chunk(call, piece(0, b"before "))
        assert (await client.receive()).data == b"before "
        await client.send(frame(b"lost answer", BINARY))
        await typed(worker, b"lost answer", 0)
        other = await front.worker()
        if how == "let go":
            worker.stop(call, b'{"terminalId":"t1","nextByte":7}')
        worker.end.close()
        attach, write = None, None
        while attach is None or write is None:
            found = await other.next_call()
            if found.method == "terminal.attach":
                attach = found
            else:
                write = found
        assert json.loads(attach.params)["fromByte"] == 7
        assert json.loads(write.params)["at"] == 0
        other.result(write, b'{"written":11}')
        other.chunk(attach, attached(0))
        other.chunk(attach, piece(7, b"after"))
        received = await client.receive()
        assert (received.opcode, received.data) == (BINARY, b"after")


async def test_what_is_lost_is_told() -> None:
    async with attachment() as (_, worker, client, call):
        worker.chunk(call, piece(1000, b"x"))
        assert (await client.receive()).json == {"type": "lost", "fromByte": 1000}
        assert (await client.receive()).data == b"x"
        worker.chunk(call, piece(1001, b"y"))
        assert (await client.receive()).data == b"y"


async def test_a_client_that_does_not_read_stops_the_output() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await opened(front, "?terminalId=t1", receive_buffer=4096)
        call = await called(worker, "attach")
        worker.chunk(call, attached())
        await client.receive()
        client.client.stop_reading()
        sent, block = 0, bytes(32 * 1024)
        while sent < 256:
            if worker.end.link.stream_credit(call.id):
                worker.chunk(call, piece(sent * len(block), block))
                sent += 1
                continue
            # All credit is used up. What other calls bring back came after any that was granted.
            for _ in range(2):
                asking = asyncio.ensure_future(front.once(request("/rpc", rpc_body(), token=ACME)))
                worker.result(await worker.next_call(), b"{}")
                assert (await soon(asking)).status == 200
            if not worker.end.link.stream_credit(call.id):
                break
        assert sent < 128, "the front takes no end of what nobody reads"
        client.client.go_on_reading()
        for number in range(sent):
            assert len((await client.receive()).data) == len(block), number
        await soon(worker.credited.get())


REFUSED = [
    ("?cols=0&rows=24", "cols"),
    ("?cols=2001&rows=24", "cols"),
    ("?cols=x&rows=24", "cols"),
    ("?cols=80", "cols"),
    ("?rows=-1&cols=80", "rows"),
    ("?shape=round", "shape"),
    ("?cols=80&cols=90&rows=24", "query"),
    ("?terminalId=", "terminalId"),
    (f"?terminalId={'x' * 65}", "terminalId"),
    ("?terminalId=t1&cmd=sh", "terminalId"),
    ("?fromByte=7", "fromByte"),
    ("?terminalId=t1&fromByte=-1", "fromByte"),
    ("?sandbox=chroot", "sandbox"),
    ("?name=..", "name"),
]


async def test_a_query_that_cannot_be_is_refused_by_name() -> None:
    async with running() as front:
        for query, field in REFUSED:
            answer = await (await front.connect()).ask(opening(query))
            assert answer.status == 400, query
            error = answer.json["error"]
            assert error["data"]["code"] == "INVALID_REQUEST"
            assert error["data"]["field"] == field
            assert field in error["message"]


async def test_it_is_judged_like_every_request() -> None:
    async with running() as front:
        await check_judgement(front)


async def check_judgement(front: Front) -> None:
    refused = await (await front.connect()).ask(opening(token="tk_acme_" + "0" * 32))
    assert refused.status == 401
    plain = await (await front.connect()).ask(request(PATH, None, token=ACME))
    assert plain.status == 426
    foreign = request(f"{PATH}?cmd=sh", None, *UPGRADE, PROTOCOL, token=ACME, host="evil.example")
    assert (await (await front.connect()).ask(foreign)).status == 403
    page = request(
        PATH, None, *UPGRADE, PROTOCOL, "Origin: https://evil.example", token=ACME, host="localhost"
    )
    assert (await (await front.connect()).ask(page)).status == 403
    other = "Sec-WebSocket-Protocol: openclaw.v1"
    spoken = request(PATH, None, *UPGRADE, other, token=ACME, host="localhost")
    assert (await (await front.connect()).ask(spoken)).status == 400
    client = await front.connect()
    field = f"Sec-WebSocket-Protocol: openclaw.terminal.v1, bearer.{ACME}"
    await client.send(request(PATH, None, *UPGRADE, field, token=None, host="localhost"))
    head = await client.head()
    assert head.status == 101
    assert ACME not in str(head)


CONTROLS = [
    (b'{"type":"resize","cols":0,"rows":24}', "cols"),
    (b'{"type":"resize","cols":80,"rows":2001}', "rows"),
    (b'{"type":"resize","cols":80}', "rows"),
    (b'{"type":"resize","cols":80,"rows":24,"depth":1}', "depth"),
    (b'{"type":"beep"}', "type"),
    (b"no JSON", "message"),
    (b"\xff", "message"),
    (b"[" * 5000, "message"),
]


async def test_a_control_that_cannot_be_is_refused_and_nothing_else() -> None:
    async with attachment() as (_, worker, client, call):
        for text, field in CONTROLS:
            await client.send(frame(text))
            told = (await client.receive()).json
            assert (told["type"], told["code"]) == ("error", "INVALID_REQUEST")
            assert told["field"] == field
        worker.chunk(call, piece(0, b"on"))
        assert (await client.receive()).data == b"on"


@pytest.mark.parametrize("code", [ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN, ErrorCode.RATE_LIMITED])
async def test_a_refusal_is_told_and_closes(code: ErrorCode) -> None:
    async with running() as front:
        worker = await front.worker()
        client = await opened(front, "?terminalId=t1")
        call = await called(worker, "attach")
        worker.fail(call, GatewayError(code, "no such terminal", field="terminalId"))
        told = (await client.receive()).json
        assert (told["type"], told["code"]) == ("error", code.name)
        assert await client.closed_with() == 4000 + code.http_status


async def test_the_end_of_a_token_cuts_it_and_the_call_is_cancelled() -> None:
    async with attachment() as (front, worker, client, call):
        await front.update(TenantsUpdate(known=[access("acme")]))
        assert await client.closed_with() == 1008
        assert await soon(worker.cancelled.get()) == call.id


async def test_a_client_that_goes_leaves_nothing() -> None:
    async with attachment() as (_, worker, client, call):
        await client.close()
        assert await soon(worker.cancelled.get()) == call.id


async def test_a_worker_that_says_nonsense_breaks_its_own_link_alone() -> None:
    async with attachment() as (front, worker, client, call):
        worker.chunk(call, b'{"type":"output","fromByte":"x"}')
        await soon(worker.closed.wait())
        other = await front.worker()
        again = await called(other, "attach", fromByte=0)
        other.chunk(again, attached())
        other.chunk(again, piece(0, b"fine"))
        assert (await client.receive()).data == b"fine"


async def test_a_stop_of_the_gateway_closes_it() -> None:
    async with attachment() as (front, _worker, client, _call):
        front.drain(5.0)
        received = await client.receive()
        assert (received.opcode, received.code) == (CLOSE, 1001)


async def test_a_message_is_bounded() -> None:
    async with attachment() as (_, _worker, client, _call):
        await client.send(frame(b"", BINARY, length=1024 * 1024 + 1))
        assert await client.closed_with() == 1009


async def test_a_text_is_told_as_one() -> None:
    async with attachment() as (_, worker, client, _call):
        await client.send(frame(b'{"type":"res', TEXT, fin=False))
        await client.send(frame(b'ize","cols":77,"rows":7}', CONT))
        await called(worker, "resize", cols=77)
