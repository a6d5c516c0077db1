import json

from protocol.errors import ErrorCode, GatewayError
from tests.supervisor.front.harness import request, running

ENVELOPE = b'{"user":{"id":"u1"},"content":{"type":"text","text":"h\xc3\xa9"}}'


async def test_an_envelope_becomes_an_inbound_message_and_the_answer_is_bare() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/channels/webhook/shop-1", ENVELOPE, "Idempotency-Key: m-9"))
        call = await worker.next_call()
        assert call.method == "channels.inbound"
        assert json.loads(call.params) == {"account": "shop-1", "envelope": json.loads(ENVELOPE)}
        assert call.idempotency_key == "m-9"
        worker.result(call, b'{"ok":true}')
        answer = await client.response()
        assert (answer.status, answer.body) == (200, b'{"ok":true}')


async def test_a_refusal_is_an_error_object_with_its_status() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/channels/webhook/shop", ENVELOPE))
        error = GatewayError(ErrorCode.INVALID_REQUEST, "user.id: missing", field="user.id")
        worker.fail(await worker.next_call(), error)
        answer = await client.response()
        assert answer.status == 400
        assert answer.json == {
            "error": {
                "code": -32602,
                "message": "user.id: missing",
                "data": {"code": "INVALID_REQUEST", "field": "user.id"},
            }
        }


async def test_nothing_but_one_json_value_is_spliced_in() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        bad = [
            b"",
            b"{",
            b'{},"account":"other"',
            b'{}}{"a":1',
            b"{} {}",
            b'"\xff"',
            b'"\0"',
            b"[" * 100_000 + b"]" * 100_000,
            b"//comment\n{}",
        ]
        for body in bad:
            answer = await client.ask(request("/channels/webhook/shop", body))
            assert (answer.status, answer.code) == (400, "PARSE_ERROR"), body[:40]
            assert set(answer.json) == {"error"}
        assert worker.calls.empty()


async def test_a_streamed_reply() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/channels/webhook/shop", ENVELOPE, "Accept: text/event-stream"))
        call = await worker.next_call()
        assert call.credit > 0
        worker.chunk(call, b'{"deltaText":"he"}')
        worker.stop(call, b'{"ok":true}')
        answer = await client.response()
        assert answer.events == [("chat", {"deltaText": "he"}), ("result", {"ok": True})]
