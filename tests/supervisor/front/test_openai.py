"""OpenAI's routes at the front: what goes to the worker, and in which shape it comes back."""

import json
from typing import Any

import pytest

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from tests.supervisor.front.harness import ACME, request, running

BODY = b'{"model":"m","messages":[],"stream":true}'
POSTED = {
    "/v1/chat/completions": "openai.chat",
    "/v1/responses": "openai.responses",
    "/v1/embeddings": "openai.embeddings",
}


def get(path: str, token: str = ACME) -> bytes:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    return head.encode()


def lines(body: bytes) -> list[str]:
    """The blocks of a stream."""
    *blocks, rest = body.decode().split("\n\n")
    assert not rest
    return blocks


@pytest.mark.parametrize(("path", "method"), POSTED.items())
async def test_a_body_goes_to_the_worker_as_it_is_and_the_answer_is_bare(
    path: str, method: str
) -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request(path, BODY, "X-OpenClaw-Session-Key: agent:main:\xe9"))
        call = await worker.next_call()
        assert call.method == method
        assert json.loads(call.params) == {
            "body": json.loads(BODY),
            "sessionKey": "agent:main:\xe9",
        }
        if call.credit:
            worker.stop(call, b'{"id":1}')
        else:
            worker.result(call, b'{"id":1}')
        answer = await client.response()
        assert (answer.status, answer.json) == (200, {"id": 1})
        assert answer.headers["content-type"] == "application/json"


async def test_a_body_cannot_name_the_session() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        for body in (b'{},"sessionKey":"agent:main:x"', b"{", b"", b"{} {}", b'"\xff"'):
            answer = await client.ask(request("/v1/chat/completions", body))
            assert answer.status == 400, body
            assert answer.json["error"]["type"] == "invalid_request_error"
        big = b'{"a":"%b"},"sessionKey":"agent:main:x"' % (b"a" * limits.RPC_SCANNED_BYTES_MAX)
        await client.send(request("/v1/chat/completions", big))
        # It is not looked into; what counts comes last.
        call = await worker.next_call()
        assert json.loads(call.params)["sessionKey"] is None


async def test_a_stream_of_chat_completions_has_no_names_and_ends_with_done() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/v1/chat/completions", BODY))
        call = await worker.next_call()
        worker.chunk(call, b'{"n":1}')
        worker.end.link.chunk(call.id, b'{"n":"a', goes_on=True)
        worker.end.link.chunk(call.id, b"b", goes_on=True)
        worker.end.link.chunk(call.id, b'c"}')
        worker.chunk(call, b'{"n":\n3}')
        worker.stop(call, b"{}")
        answer = await client.response()
        assert answer.headers["content-type"] == "text/event-stream"
        assert lines(answer.body) == [
            'data: {"n":1}',
            'data: {"n":"abc"}',
            'data: {"n": 3}',
            "data: [DONE]",
        ]


async def test_the_events_of_a_response_have_their_types_for_names() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/v1/responses", BODY))
        call = await worker.next_call()
        worker.chunk(call, b'{"type":"response.created"}')
        worker.end.link.chunk(call.id, b'{"type":"response.com', goes_on=True)
        worker.end.link.chunk(call.id, b'pleted"}')
        worker.stop(call, b"{}")
        assert lines((await client.response()).body)[0] == (
            'event: response.created\ndata: {"type":"response.created"}'
        )


async def test_a_stream_that_breaks_off_says_so_as_an_error() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        for path, head in (("/v1/chat/completions", ""), ("/v1/responses", "event: error\n")):
            await client.send(request(path, BODY))
            call = await worker.next_call()
            worker.chunk(call, b'{"type":"x"}')
            worker.fail(call, GatewayError(ErrorCode.UNAVAILABLE, "it broke off"))
            last = lines((await client.response()).body)[-1]
            assert last.startswith(f'{head}data: {{"error":{{"message":"it broke off"')


REFUSED: dict[str, tuple[GatewayError, int, dict[str, Any]]] = {
    "a field": (
        GatewayError(
            ErrorCode.INVALID_REQUEST,
            "messages[0].role: invalid value 'x'",
            field="messages[0].role",
        ),
        400,
        {
            "message": "messages[0].role: invalid value 'x'",
            "type": "invalid_request_error",
            "param": "messages[0].role",
            "code": None,
        },
    ),
    "a model": (
        GatewayError(ErrorCode.NOT_FOUND, "no such model", field="model"),
        404,
        {
            "message": "no such model",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        },
    ),
    "a quota": (
        GatewayError(
            ErrorCode.QUOTA_EXCEEDED, "over", limit=5, used=6, retryAfterMs=61_000, metric="m"
        ),
        429,
        {
            "message": "over",
            "type": "insufficient_quota",
            "param": None,
            "code": "insufficient_quota",
            "details": {"limit": 5, "used": 6, "retryAfterMs": 61_000, "metric": "m"},
        },
    ),
    "a scope": (
        GatewayError(ErrorCode.FORBIDDEN, "missing scope: write", requiredScope="write"),
        403,
        {
            "message": "missing scope: write",
            "type": "permission_error",
            "param": None,
            "code": "forbidden",
            "details": {"requiredScope": "write"},
        },
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_the_worker_refuses_is_told_in_openais_shape(case: str) -> None:
    error, status, told = REFUSED[case]
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/v1/chat/completions", BODY))
        worker.fail(await worker.next_call(), error)
        answer = await client.response()
        assert (answer.status, answer.json) == (status, {"error": told})
        if status == 429:
            assert answer.headers["retry-after"] == "61"


async def test_who_has_no_token_is_told_in_openais_shape() -> None:
    async with running() as front:
        client = await front.connect()
        for asked in (get("/v1/models", "tk_acme_" + "0" * 32), get("/v1/models/m", "x")):
            answer = await client.ask(asked)
            assert answer.status == 401
            assert answer.json["error"]["code"] == "invalid_api_key"
        answer = await client.ask(get("/v1/chat/completions"))
        assert answer.status == 405
        assert answer.json["error"]["type"] == "invalid_request_error"


async def test_models_are_asked_for_by_their_names() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        asked = {
            "/v1/models": ("openai.models", {}),
            "/v1/models/gpt-4o": ("openai.model", {"model": "gpt-4o"}),
            "/v1/models/builtin/echo": ("openai.model", {"model": "builtin/echo"}),
            "/v1/models/builtin%2Fecho": ("openai.model", {"model": "builtin/echo"}),
        }
        for path, (method, params) in asked.items():
            await client.send(get(path))
            call = await worker.next_call()
            assert (call.method, json.loads(call.params)) == (method, params)
            worker.result(call, b"{}")
            assert (await client.response()).status == 200


async def test_a_client_that_goes_away_cancels_its_call() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/v1/chat/completions", BODY))
        call = await worker.next_call()
        await client.close()
        assert await worker.cancelled.get() == call.id
