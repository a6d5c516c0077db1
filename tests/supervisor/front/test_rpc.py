import json

import pytest

from protocol.errors import ErrorCode, GatewayError
from protocol.methods import ALL_SCOPES
from tests.supervisor.front.harness import ACME, Response, request, rpc, rpc_body, running


async def test_a_call_reaches_the_worker_and_its_answer_the_client() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(rpc("sessions.create", 7, "Idempotency-Key: k-1", label="x"))
        call = await worker.next_call()
        assert call.method == "sessions.create"
        assert json.loads(call.params) == {"label": "x"}
        assert call.scopes == ALL_SCOPES
        assert call.credit == 0
        assert call.idempotency_key == "k-1"
        worker.result(call, b'{"made": [1, 2]}')
        answer = await client.response()
        assert answer.status == 200
        assert answer.body == b'{"jsonrpc":"2.0","id":7,"result":{"made": [1, 2]}}'
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
        assert "connection" not in answer.headers


async def test_params_are_forwarded_as_they_came() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        params = b'{"a" : 1.50, "a":1e2,\n"\\u0041":"\xc3\xa9\\ud83d\\ude00"}'
        body = b'{"jsonrpc":"2.0","method":"m","params":%b,"id":1}' % params
        await client.send(request("/rpc", body))
        call = await worker.next_call()
        assert call.params == params
        worker.result(call, b"1")
        await client.response()
        await client.send(request("/rpc", b'{"jsonrpc":"2.0","method":"m","id":1}'))
        call = await worker.next_call()
        assert call.params == b"{}"
        worker.result(call, b"1")
        assert (await client.response()).status == 200


@pytest.mark.parametrize("request_id", [0, -5, 2**60, "", "a\u20ac\u2028\x7f", None])
async def test_the_id_comes_back(request_id: object) -> None:
    async with running() as front:
        await front.worker(echo=True)
        answer = await front.once(rpc("echo", request_id))
        assert answer.status == 200
        assert answer.json["id"] == request_id


async def test_a_refusal_carries_the_status_of_its_row() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        for code in ErrorCode:
            await client.send(rpc())
            error = GatewayError(code, "not now", retryAfterMs=2100, allowed=["GET"])
            worker.fail(await worker.next_call(), error)
            answer = await client.response()
            assert answer.status == code.http_status
            assert answer.json["id"] == 1
            assert answer.json["error"]["code"] == code.rpc_code
            assert answer.code == code.name
            assert answer.headers.get("retry-after") == (
                "3" if code.http_status in (429, 503) else None
            )


async def test_a_notification_is_answered_without_a_body() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        body = b'{"jsonrpc":"2.0","method":"m","params":{}}'
        await client.send(request("/rpc", body, "Accept: text/event-stream"))
        call = await worker.next_call()
        assert call.credit == 0
        worker.result(call, b'{"nobody":"wants this"}')
        answer = await client.response()
        assert (answer.status, answer.body) == (204, b"")
        assert "content-length" not in answer.headers
        await client.send(request("/rpc", body))
        worker.fail(await worker.next_call(), GatewayError(ErrorCode.UNAVAILABLE, "no"))
        answer = await client.response()
        assert (answer.status, answer.body) == (503, b"")


BAD_BODIES = [
    (b"", "PARSE_ERROR"),
    (b"{", "PARSE_ERROR"),
    (b"nonsense", "PARSE_ERROR"),
    (rpc_body() * 2, "PARSE_ERROR"),
    (b"\xef\xbb\xbf{}", "PARSE_ERROR"),
    (b'{"jsonrpc":"2.0","method":"m\xff","id":1}', "PARSE_ERROR"),
    (b'{"jsonrpc":"2.0","method":"m","params":{"a":"\xff"},"id":1}', "PARSE_ERROR"),
    (b'{"jsonrpc":"2.0","method":"m","params":{"a":"\xed\xa0\x80"},"id":1}', "PARSE_ERROR"),
    (b'{"jsonrpc":"2.0","method":"m","params":{"a":"\0"},"id":1}', "PARSE_ERROR"),
    (b'{"jsonrpc":"2.0","method":"\\ud800","id":1}', "PARSE_ERROR"),
    (
        b'{"jsonrpc":"2.0","method":"m","params":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        "PARSE_ERROR",
    ),
    (b'{"params":' * 50_000, "PARSE_ERROR"),
    (b"[]", "MALFORMED_REQUEST"),
    (b"null", "MALFORMED_REQUEST"),
    (b"{}", "MALFORMED_REQUEST"),
    (b'{"jsonrpc":"1.0","method":"m","id":1}', "MALFORMED_REQUEST"),
    (b'{"jsonrpc":"2.0","method":5,"id":1}', "MALFORMED_REQUEST"),
    (b'{"jsonrpc":"2.0","method":"","id":1}', "MALFORMED_REQUEST"),
    (b'{"jsonrpc":"2.0","method":"%b","id":1}' % (b"m" * 65), "MALFORMED_REQUEST"),
    (b'{"jsonrpc":"2.0","method":"m","id":{}}', "MALFORMED_REQUEST"),
    (b'{"jsonrpc":"2.0","method":"m","id":1.5}', "MALFORMED_REQUEST"),
    (b'{"jsonrpc":"2.0","method":"m","id":"%b"}' % (b"i" * 257), "MALFORMED_REQUEST"),
    (b'{"jsonrpc":"2.0","method":"m","id":%b}' % (b"9" * 5000), "MALFORMED_REQUEST"),
    (b'{"jsonrpc":"2.0","method":"m","id":1,"extra":1}', "MALFORMED_REQUEST"),
]


async def test_bad_bodies_are_refused_by_the_front_alone() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        for body, code in BAD_BODIES:
            answer = await client.ask(request("/rpc", body))
            assert (answer.status, answer.code) == (400, code), body[:80]
            assert answer.json["id"] is None
            assert answer.json["jsonrpc"] == "2.0"
        assert worker.calls.empty()


def _payload(answer: Response) -> bytes:
    assert answer.status == 200
    return bytes(answer.body.split(b'"result":', 1)[1][:-1])


async def test_a_big_body_and_a_big_answer() -> None:
    async with running() as front:
        await front.worker(echo=True)
        client = await front.connect()
        text = "x" * 5_000_000
        answer = await client.ask(rpc("echo", 1, text=text))
        assert json.loads(_payload(answer)) == {"text": text}
        assert (await client.ask(rpc())).status == 200


async def test_each_tenant_has_its_own_worker() -> None:
    async with running() as front:
        acme, globex = await front.worker("acme"), await front.worker("globex")
        one, other = await front.connect(), await front.connect()
        await one.send(rpc("a"))
        token = "tk_globex_" + "b2" * 16
        await other.send(request("/rpc", rpc_body("b"), token=token))
        assert (await acme.next_call()).method == "a"
        assert (await globex.next_call()).method == "b"
        assert acme.calls.empty()
        assert globex.calls.empty()


async def test_calls_in_flight_are_bounded_for_each_tenant() -> None:
    async with running(limits={"TENANT_CALLS_IN_FLIGHT_MAX": 2}) as front:
        acme = await front.worker("acme")
        await front.worker("globex", echo=True)
        clients = [await front.connect() for _ in range(2)]
        for client in clients:
            await client.send(rpc())
        calls = [await acme.next_call() for _ in clients]
        refused = await front.once(rpc("late", 9))
        assert (refused.status, refused.code) == (429, "RATE_LIMITED")
        assert refused.json["id"] == 9
        assert refused.headers["retry-after"] == "1"
        token = "tk_globex_" + "b2" * 16
        assert (await front.once(request("/rpc", rpc_body(), token=token))).status == 200
        # A call whose client has gone still counts until the worker has answered.
        await clients[0].close()
        assert await acme.cancelled.get() == calls[0].id
        assert (await front.once(rpc())).status == 429
        acme.result(calls[0], b"1")
        await clients[1].send(b"")
        acme.result(calls[1], b"2")
        assert (await clients[1].response()).json["result"] == 2
        acme.echo = True
        assert (await front.once(rpc())).status == 200


async def test_bytes_in_flight_are_bounded_for_each_tenant() -> None:
    async with running(limits={"TENANT_BYTES_IN_FLIGHT_MAX": 10_000}) as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(rpc("m", text="x" * 6000))
        call = await worker.next_call()
        refused = await front.once(rpc("m", text="x" * 6000))
        assert (refused.status, refused.code) == (429, "RATE_LIMITED")
        worker.result(call, b"1")
        assert (await client.response()).status == 200
        worker.echo = True
        assert (await front.once(rpc("m", text="x" * 6000))).status == 200


async def test_answers_that_are_not_taken_count_as_in_flight() -> None:
    async with running(limits={"TENANT_BYTES_IN_FLIGHT_MAX": 4_000_000}) as front:
        worker = await front.worker()
        client = await front.connect(receive_buffer=4096)
        client.stop_reading()
        await client.send(rpc())
        worker.result(await worker.next_call(), b'"%b"' % (b"x" * 7_000_000))
        worker.echo = True
        answer = await front.once(rpc())
        while answer.status == 200:
            answer = await front.once(rpc())
        assert (answer.status, answer.code) == (429, "RATE_LIMITED")
        client.go_on_reading()
        assert len((await client.response()).body) > 7_000_000
        assert (await client.ask(rpc())).status == 200


async def test_a_call_that_takes_too_long_is_cancelled() -> None:
    async with running(limits={"CALL_SECONDS_MAX": 0.3}) as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(rpc())
        call = await worker.next_call()
        answer = await client.response()
        assert (answer.status, answer.code) == (504, "TIMEOUT")
        assert await worker.cancelled.get() == call.id
        worker.result(call, b'"too late"')
        await client.send(rpc("next"))
        worker.result(await worker.next_call(), b'"in time"')
        assert (await client.response()).json["result"] == "in time"


async def test_a_client_that_goes_away_becomes_a_cancel() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(rpc())
        call = await worker.next_call()
        await client.close()
        assert await worker.cancelled.get() == call.id
        worker.result(call, b"1")
        worker.echo = True
        assert (await front.once(rpc())).status == 200


@pytest.mark.parametrize("key", ["", "a b", "k" * 201, "\xe9"])
async def test_a_bad_idempotency_key_is_named(key: str) -> None:
    async with running() as front:
        answer = await front.once(rpc("m", 1, f"Idempotency-Key: {key}"))
        assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
        assert answer.json["error"]["data"]["field"] == "Idempotency-Key"


async def test_the_token_is_not_repeated_to_anybody() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(rpc())
        call = await worker.next_call()
        assert ACME.encode() not in repr(call).encode()
        worker.result(call, b"1")
        assert ACME.encode() not in (await client.response()).body
        assert ACME not in json.dumps(front.log)
