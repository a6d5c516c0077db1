"""Batches, against the examples of the specification (section 7) and against a model."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import frames, limits
from protocol.aio import LinkEnd
from protocol.errors import ErrorCode, GatewayError
from tests.supervisor.front.harness import (
    ACME,
    GLOBEX,
    Front,
    Response,
    request,
    rpc_body,
    running,
    soon,
)


def answer_of(method: str, params: Any) -> Any:
    """What the methods of the specification's examples answer; an error where they have none."""
    if method == "subtract":
        if isinstance(params, dict):
            params = [params["minuend"], params["subtrahend"]]
        return params[0] - params[1]
    if method == "sum":
        return sum(params)
    if method == "get_data":
        return ["hello", 5]
    if method in ("update", "notify_hello", "notify_sum"):
        return None
    return GatewayError(ErrorCode.METHOD_NOT_FOUND, "unknown method")


def serve(end: LinkEnd, call: frames.Call) -> None:
    """Play a worker that has these methods."""
    answer = answer_of(call.method, json.loads(call.params))
    if isinstance(answer, GatewayError):
        end.fail(call.id, answer)
    else:
        end.link.result(call.id, json.dumps(answer).encode())
        end.flush()


async def calculator(front: Front) -> None:
    worker = await front.worker()
    worker.on_call = serve  # type: ignore[method-assign]


def bare(answer: Any) -> Any:
    """Leave out of errors what is our own: the specification gives their codes."""
    if isinstance(answer, list):
        return [bare(one) for one in answer]
    if "error" in answer:
        return answer | {"error": answer["error"]["code"]}
    return answer


def result(request_id: Any, value: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "result": value, "id": request_id}


def error(request_id: Any, code: int) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": code, "id": request_id}


# Request, status, and the response, whose errors are their codes; None for none.
SPECIFIED = [
    (
        '{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}',
        200,
        result(1, 19),
    ),
    (
        '{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}',
        200,
        result(2, -19),
    ),
    (
        (
            '{"jsonrpc": "2.0", "method": "subtract",'
            ' "params": {"subtrahend": 23, "minuend": 42}, "id": 3}'
        ),
        200,
        result(3, 19),
    ),
    (
        (
            '{"jsonrpc": "2.0", "method": "subtract",'
            ' "params": {"minuend": 42, "subtrahend": 23}, "id": 4}'
        ),
        200,
        result(4, 19),
    ),
    ('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', 204, None),
    ('{"jsonrpc": "2.0", "method": "foobar", "id": "1"}', 404, error("1", -32601)),
    (
        '{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]',
        400,
        error(None, -32700),
    ),
    ('{"jsonrpc": "2.0", "method": 1, "params": "bar"}', 400, error(None, -32600)),
    (
        (
            '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},'
            '{"jsonrpc": "2.0", "method"]'
        ),
        400,
        error(None, -32700),
    ),
    ("[]", 400, error(None, -32600)),
    ("[1]", 200, [error(None, -32600)]),
    ("[1,2,3]", 200, [error(None, -32600)] * 3),
    (
        (
            '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},'
            '{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},'
            '{"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},'
            '{"foo": "boo"},'
            '{"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},'
            '{"jsonrpc": "2.0", "method": "get_data", "id": "9"}]'
        ),
        200,
        [
            result("1", 7),
            result("2", 19),
            error(None, -32600),
            error("5", -32601),
            result("9", ["hello", 5]),
        ],
    ),
    (
        (
            '[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},'
            '{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]'
        ),
        204,
        None,
    ),
]


def check(answer: Response, status: int, expected: Any) -> None:
    assert answer.status == status
    if expected is None:
        assert answer.body == b""
    else:
        assert bare(answer.json) == expected


async def test_the_examples_of_the_specification() -> None:
    async with running() as front:
        await calculator(front)
        client = await front.connect()
        for body, status, expected in SPECIFIED:
            check(await client.ask(request("/rpc", body.encode())), status, expected)


# A member and its answer, None for none.
ids = st.one_of(st.integers(-(2**53), 2**53), st.text(max_size=20), st.none())
members = st.one_of(
    st.builds(
        lambda i, a, b: (
            {"jsonrpc": "2.0", "method": "subtract", "params": [a, b], "id": i},
            result(i, a - b),
        ),
        ids,
        st.integers(-1000, 1000),
        st.integers(-1000, 1000),
    ),
    st.builds(lambda i: ({"jsonrpc": "2.0", "method": "nothing", "id": i}, error(i, -32601)), ids),
    st.just(({"jsonrpc": "2.0", "method": "update"}, None)),
    st.just(({"jsonrpc": "2.0", "method": "nothing"}, None)),
    st.builds(
        lambda value: (value, error(None, -32600)),
        st.one_of(
            st.integers(), st.none(), st.text(), st.lists(st.integers(), max_size=3), st.just({})
        ),
    ),
)


def test_any_batch_is_answered_member_by_member_and_in_order() -> None:
    with asyncio.Runner() as runner:

        async def ask(body: bytes) -> Response:
            return await client.ask(request("/rpc", body))

        @settings(max_examples=60, deadline=None)
        @given(st.lists(members, min_size=1, max_size=limits.BATCH_MEMBERS_MAX))
        def examine(batch: list[Any]) -> None:
            body = json.dumps([member for member, _ in batch], ensure_ascii=False)
            expected = [answer for _, answer in batch if answer is not None]
            answer = runner.run(ask(body.encode("utf-8", "surrogatepass")))
            check(answer, 200 if expected else 204, expected or None)

        context = running()
        front = runner.run(context.__aenter__())
        try:
            runner.run(calculator(front))
            client = runner.run(front.connect())
            examine()
        finally:
            runner.run(context.__aexit__(None, None, None))


def batch(*bodies: bytes) -> bytes:
    return b"[" + b",".join(bodies) + b"]"


async def test_members_run_side_by_side_and_are_answered_in_order() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/rpc", batch(*(rpc_body("m", i) for i in range(3)))))
        calls = [await worker.next_call() for _ in range(3)]
        for call, value in zip(reversed(calls), (b'"c"', b'"b"', b'"a"'), strict=True):
            worker.result(call, value)
        answer = await client.response()
        assert [one["result"] for one in answer.json] == ["a", "b", "c"]
        assert [one["id"] for one in answer.json] == [0, 1, 2]


async def test_a_batch_has_a_most() -> None:
    async with running() as front:
        worker = await front.worker()
        too_many = batch(*[rpc_body()] * (limits.BATCH_MEMBERS_MAX + 1))
        answer = await front.once(request("/rpc", too_many))
        assert (answer.status, answer.code) == (400, "MALFORMED_REQUEST")
        assert answer.json["id"] is None
        assert worker.calls.empty()


async def test_each_member_counts_as_a_call_in_flight() -> None:
    async with running(limits={"TENANT_CALLS_IN_FLIGHT_MAX": 2}) as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/rpc", rpc_body()))
        worker.result(await worker.next_call(), b"1")
        await client.response()  # the link is up: nothing is held any more
        await client.send(request("/rpc", batch(*(rpc_body("m", i) for i in range(3)))))
        for _ in range(2):
            worker.result(await worker.next_call(), b"1")
        answers = (await client.response()).json
        assert [one.get("result") for one in answers] == [1, 1, None]
        assert answers[2]["id"] == 2
        assert answers[2]["error"]["data"]["code"] == "RATE_LIMITED"


async def test_the_bytes_of_a_batch_are_its_tenant_s() -> None:
    big, other = rpc_body("m", 1, text="x" * 6000), rpc_body("m", 2, text="x")
    async with running(limits={"TENANT_BYTES_IN_FLIGHT_MAX": 10_000}) as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/rpc", batch(big, other)))
        first, second = await worker.next_call(), await worker.next_call()
        # The second's answer is there, and counts until the batch is answered.
        worker.result(second, b'"%b"' % (b"y" * 3000))
        small = await front.connect()
        await small.send(request("/rpc", rpc_body()))
        worker.result(await worker.next_call(), b"1")
        await small.response()  # what came before on the link has been taken
        refused = await front.once(request("/rpc", rpc_body("m", 1, text="x" * 2000)))
        assert (refused.status, refused.code) == (429, "RATE_LIMITED")
        worker.result(first, b"1")
        assert [one["id"] for one in (await client.response()).json] == [1, 2]
        worker.echo = True
        assert (await front.once(request("/rpc", big))).status == 200
        token = request("/rpc", big, token=GLOBEX)
        await front.worker("globex", echo=True)
        assert (await front.once(token)).status == 200


async def test_answers_over_the_bound_are_refused_one_by_one() -> None:
    async with running(limits={"BATCH_ANSWER_BYTES_MAX": 5000}) as front:
        await front.worker(echo=True)
        body = batch(*(rpc_body("m", i, text="x" * 2000) for i in range(4)))
        answers = (await front.once(request("/rpc", body))).json
        assert ["result" in one for one in answers] == [True, True, False, False]
        assert [one["id"] for one in answers] == [0, 1, 2, 3]
        assert answers[3]["error"]["data"]["code"] == "PAYLOAD_TOO_LARGE"


async def test_a_batch_whose_client_goes_away_is_cancelled() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/rpc", batch(*(rpc_body("m", i) for i in range(3)))))
        calls = [await worker.next_call() for _ in range(3)]
        worker.result(calls[1], b"1")
        await client.close()
        assert {await soon(worker.cancelled.get()) for _ in range(2)} == {
            calls[0].id,
            calls[2].id,
        }


async def test_a_worker_that_dies_fails_what_is_open_of_a_batch() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/rpc", batch(rpc_body("m", 1), rpc_body("m", 2))))
        worker.result(await worker.next_call(), b"1")
        await worker.next_call()
        worker.end.finish()
        answers = (await client.response()).json
        assert answers[0]["result"] == 1
        assert answers[1]["error"]["data"] == {
            "code": "UNAVAILABLE",
            "retryable": True,
            "retryAfterMs": 1000,
        }


async def test_a_batch_that_takes_too_long_keeps_what_was_answered() -> None:
    async with running(limits={"CALL_SECONDS_MAX": 0.3}) as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/rpc", batch(rpc_body("m", 1), rpc_body("m", 2))))
        worker.result(await worker.next_call(), b"1")
        answers = (await client.response()).json
        assert answers[0]["result"] == 1
        assert answers[1]["error"]["data"]["code"] == "TIMEOUT"


async def test_one_idempotency_key_is_not_for_several_calls() -> None:
    async with running() as front:
        answer = await front.once(request("/rpc", batch(rpc_body()), "Idempotency-Key: k"))
        assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
        assert answer.json["error"]["data"]["field"] == "Idempotency-Key"


async def test_a_batch_needs_a_token() -> None:
    async with running() as front:
        answer = await front.once(request("/rpc", batch(rpc_body()), token=ACME + "0"))
        assert answer.status == 401


@pytest.mark.parametrize("accept", ["text/event-stream", "*/*"])
async def test_a_batch_is_not_streamed(accept: str) -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/rpc", batch(rpc_body()), f"Accept: {accept}"))
        call = await worker.next_call()
        assert call.credit == 0
        worker.result(call, b"1")
        answer = await client.response()
        assert answer.headers["content-type"] == "application/json"
