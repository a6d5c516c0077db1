import base64
import json

from protocol import openapi
from protocol.errors import ErrorCode, GatewayError
from tests.supervisor.front.harness import ACME, request, rpc_body, running

ADMIN = "adm_0011"


async def test_a_request_is_handed_over_as_it_came() -> None:
    async with running() as front:
        client = await front.connect()
        await client.send(
            request(
                "/v1/tenants/acme/token/rotate?dry=1&x=%20",
                b'{"a": 1}',
                "Idempotency-Key: k-7",
                token=ADMIN,
            )
        )
        call, asked = await front.next_control()
        assert asked.secret == ADMIN
        assert (asked.verb, asked.path) == ("POST", "/v1/tenants/acme/token/rotate")
        assert asked.query == "dry=1&x=%20"
        assert asked.body == b'{"a": 1}'
        assert asked.idempotency_key == "k-7"
        front.answer_control(call, 201, {"token": "shown once"})
        answer = await client.response()
        assert (answer.status, answer.json) == (201, {"token": "shown once"})
        assert answer.headers["cache-control"] == "no-store"
        await client.send(request("/v1/tenants/acme", token=ADMIN, verb="DELETE"))
        call, asked = await front.next_control()
        assert (asked.verb, asked.body, asked.query) == ("DELETE", b"", "")
        front.answer_control(call, 204, None)
        assert (await client.response()).body == b""


async def test_refusals_of_the_supervisor_get_their_headers() -> None:
    async with running() as front:
        client = await front.connect()
        refusals = [
            (GatewayError(ErrorCode.METHOD_NOT_ALLOWED, "no", allowed=["GET"]), "allow", "GET"),
            (GatewayError(ErrorCode.RATE_LIMITED, "no", retryAfterMs=1500), "retry-after", "2"),
            (GatewayError(ErrorCode.UNAUTHORIZED, "no"), "www-authenticate", "Bearer"),
        ]
        for error, header, value in refusals:
            await client.send(request("/v1/tenants", token=ADMIN))
            call, _ = await front.next_control()
            front.answer_control(call, error.code.http_status, error.problem())
            answer = await client.response()
            assert answer.status == error.code.http_status
            assert answer.headers[header] == value


async def test_without_a_secret_the_supervisor_is_not_asked() -> None:
    async with running() as front:
        client = await front.connect()
        for token in (None, "a\xa0b"):
            answer = await client.ask(request("/v1/tenants", token=token))
            assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
        assert front.calls.empty()


async def test_wrong_keys_are_counted_and_slowed() -> None:
    async with running(limits={"AUTH_FAILURES_FREE": 1}) as front:
        client = await front.connect()
        for key in (ADMIN, ADMIN, ACME):
            await client.send(request("/v1/tenants", token=key))
            call, _ = await front.next_control()
            front.answer_control(call, 401, {"code": "UNAUTHORIZED"})
            assert (await client.response()).status == 401
        delays = [line["delay"] for line in front.log if "delay" in line]
        assert delays == [0.0, 0.1, 0.2]
        log = json.dumps(front.log)
        assert ADMIN not in log
        assert ACME not in log


async def test_what_is_asked_of_the_supervisor_is_bounded() -> None:
    async with running(limits={"CONTROL_CALLS_IN_FLIGHT_MAX": 2}) as front:
        clients = [await front.connect() for _ in range(2)]
        calls = []
        for client in clients:
            await client.send(request("/v1/tenants", token=ADMIN))
            calls.append((await front.next_control())[0])
        refused = await front.once(request("/v1/tenants", token=ADMIN))
        assert (refused.status, refused.code) == (503, "UNAVAILABLE")
        # One whose client has gone still counts: the supervisor works on it.
        await clients[0].close()
        await clients[1].send(b"")
        assert (await front.once(request("/v1/tenants", token=ADMIN))).status == 503
        front.answer_control(calls[0], 200, {})
        front.answer_control(calls[1], 200, {})
        assert (await clients[1].response()).status == 200
        await clients[1].send(request("/v1/tenants", token=ADMIN))
        call, _ = await front.next_control()
        front.answer_control(call, 200, {"tenants": []})
        assert (await clients[1].response()).json == {"tenants": []}


async def test_answers_that_make_no_sense_become_an_internal_error() -> None:
    async with running() as front:
        client = await front.connect()
        bodies = [b"[]", b'{"status":99,"body":{}}', b'{"status":100,"body":{}}', b"{"]
        for body in bodies:
            await client.send(request("/v1/tenants", token=ADMIN))
            call, _ = await front.next_control()
            front.answer(call, body)
            answer = await client.response()
            assert (answer.status, answer.code) == (500, "INTERNAL"), body
        await client.send(request("/v1/tenants", token=ADMIN))
        call, _ = await front.next_control()
        front.end.fail(call.id, GatewayError(ErrorCode.INVALID_REQUEST, "cannot read it"))
        assert (await client.response()).status == 400


async def test_a_control_request_that_takes_too_long() -> None:
    async with running(limits={"CALL_SECONDS_MAX": 0.3}) as front:
        client = await front.connect()
        await client.send(request("/v1/tenants", token=ADMIN))
        call, _ = await front.next_control()
        assert (await client.response()).status == 504
        front.answer_control(call, 200, {})
        await client.send(request("/v1/tenants", token=ADMIN))
        call, _ = await front.next_control()
        front.answer_control(call, 200, {"n": 2})
        assert (await client.response()).json == {"n": 2}


async def test_bodies_of_any_bytes_are_handed_over() -> None:
    async with running() as front:
        client = await front.connect()
        body = bytes(range(256))
        await client.send(request("/v1/tenants", body, token=ADMIN))
        call, asked = await front.next_control()
        assert asked.body == body
        assert base64.b64encode(body) in call.params
        front.answer_control(call, 400, {})
        assert (await client.response()).status == 400


async def test_how_it_is_spoken_to_is_told_to_everybody() -> None:
    async with running() as front:
        answer = await front.once(request("/openapi.json", token=None))
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json == json.loads(json.dumps(openapi.document("1.2.3")))
        refused = await front.once(request("/openapi.json", b"{}", token=None))
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
        assert front.calls.empty()


async def test_refusals_of_the_front_are_problems_too() -> None:
    async with running() as front:
        for asked, status in (
            (request("/v1/tenants", token=None), 401),
            (request("/v1/tenants", token=ADMIN, verb="PUT"), 405),
            (request("/v1/nowhere", token=ADMIN), 404),
            (request("/v1/tenants", b"x" * 70_000, token=ADMIN), 413),
        ):
            answer = await front.once(asked)
            assert answer.status == answer.json["status"] == status
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json["type"] == "about:blank"


async def test_what_looks_like_an_admin_key_calls_methods_of_operators() -> None:
    async with running(limits={"AUTH_FAILURES_FREE": 0}) as front:
        client = await front.connect()
        body = rpc_body("tenants.quota.update", 3, tenantId="acme", quota={})
        await client.send(request("/rpc", body, token="ak_0011"))
        call, asked = await front.next_control()
        assert (asked.secret, asked.verb, asked.path) == ("ak_0011", "POST", "/rpc")
        assert asked.body == body
        front.answer_control(call, 200, {"jsonrpc": "2.0", "id": 3, "result": {}})
        answer = await client.response()
        assert (answer.status, answer.json["id"]) == (200, 3)
        # Refused, slowed and counted like at the control plane; and no bigger than there.
        await client.send(request("/rpc", body, token="ak_0012"))
        call, _ = await front.next_control()
        refused = {"jsonrpc": "2.0", "id": None, "error": {"data": {"code": "UNAUTHORIZED"}}}
        front.answer_control(call, 401, refused)
        answer = await client.response()
        assert (answer.status, answer.json) == (401, refused)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert [line["delay"] for line in front.log if "delay" in line] == [0.1]
        big = await front.once(request("/rpc", b" " * 65_537, token="ak_0011"))
        assert (big.status, big.code) == (413, "PAYLOAD_TOO_LARGE")
        for path in ("/ws", "/channels/webhook/shop"):
            refusal = await front.once(
                request(path, None if path == "/ws" else b"{}", token="ak_1")
            )
            assert refusal.status == 401
        assert front.calls.empty()
