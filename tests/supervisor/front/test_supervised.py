"""Methods that the supervisor answers: asked there, for the tenant of the token."""

import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.methods import ALL_SCOPES
from protocol.spawn import TenantRequest
from tests.supervisor.front.harness import ACME, GLOBEX, Front, request, rpc, rpc_body, running

SUPERVISED = frozenset({"tenants.rotate"})


async def next_request(front: Front) -> tuple[int, TenantRequest]:
    call = await front.next_call("tenant.request")
    return call.id, msgspec.json.decode(call.params, type=TenantRequest)


async def test_the_supervisor_is_asked_for_the_tokens_tenant() -> None:
    async with running(supervised=SUPERVISED) as front:
        for token, tenant in ((ACME, "acme"), (GLOBEX, "globex")):
            client = await front.connect()
            body = rpc_body("tenants.rotate", 7, tenantId="other", tenant="other")
            await client.send(request("/rpc", body, token=token))
            call_id, asked = await next_request(front)
            assert (asked.tenant, asked.scopes) == (tenant, int(ALL_SCOPES))
            assert (asked.method, msgspec.json.decode(asked.params)) == (
                "tenants.rotate",
                {"tenantId": "other", "tenant": "other"},
            )
            front.end.link.result(call_id, b'{"token":"new"}')
            front.end.flush()
            answer = await client.response()
            assert answer.json == {"jsonrpc": "2.0", "id": 7, "result": {"token": "new"}}


async def test_a_refusal_comes_back_as_it_is() -> None:
    async with running(supervised=SUPERVISED) as front:
        client = await front.connect()
        await client.send(rpc("tenants.rotate"))
        call_id, _ = await next_request(front)
        front.end.fail(call_id, GatewayError(ErrorCode.FORBIDDEN, "no", requiredScope="ADMIN"))
        answer = await client.response()
        assert answer.status == 403
        assert answer.json["error"]["data"] == {"code": "FORBIDDEN", "requiredScope": "ADMIN"}


async def test_other_methods_go_to_the_worker() -> None:
    async with running(supervised=SUPERVISED) as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(rpc("tenants.get"))
        call = await worker.next_call()
        assert call.method == "tenants.get"
        worker.result(call, b"{}")
        await client.response()


async def test_a_tenant_has_only_few_of_them_at_a_time() -> None:
    async with running(supervised=SUPERVISED) as front:
        clients = [await front.connect() for _ in range(limits.TENANT_REQUESTS_PER_TENANT_MAX)]
        ids = []
        for client in clients:
            await client.send(rpc("tenants.rotate"))
            ids.append((await next_request(front))[0])
        refused = await front.once(rpc("tenants.rotate"))
        assert (refused.status, refused.code) == (429, "RATE_LIMITED")
        other = await front.connect()
        await other.send(request("/rpc", rpc_body("tenants.rotate"), token=GLOBEX))
        ids.append((await next_request(front))[0])
        # One that has gone still counts until it is answered.
        await clients[0].close()
        assert (await front.once(rpc("tenants.rotate"))).status == 429
        for call_id in ids:
            front.end.link.result(call_id, b"{}")
        front.end.flush()
        for client in (*clients[1:], other):
            assert (await client.response()).status == 200
        await clients[1].send(rpc("tenants.rotate"))
        call_id, _ = await next_request(front)
        front.end.link.result(call_id, b"{}")
        front.end.flush()
        assert (await clients[1].response()).status == 200


async def test_and_in_a_while() -> None:
    changed = {"TENANT_REQUESTS_PER_WINDOW_MAX": 2, "TENANT_REQUESTS_WINDOW_SECONDS": 1e6}
    async with running(supervised=SUPERVISED, limits=changed) as front:
        client = await front.connect()
        for _ in range(2):
            await client.send(rpc("tenants.rotate"))
            call_id, _ = await next_request(front)
            front.end.link.result(call_id, b"{}")
            front.end.flush()
            assert (await client.response()).status == 200
        assert (await client.ask(rpc("tenants.rotate"))).status == 429


async def test_too_much_is_refused_unasked() -> None:
    async with running(supervised=SUPERVISED) as front:
        text = "x" * limits.TENANT_REQUEST_BYTES_MAX
        assert (await front.once(rpc("tenants.rotate", confirm=text))).status == 413
