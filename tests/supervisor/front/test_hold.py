import json

from protocol.errors import ErrorCode, GatewayError
from protocol.spawn import TenantsUpdate
from tests.supervisor.front.harness import GLOBEX, access, request, rpc, rpc_body, running


async def test_calls_wait_for_the_worker_and_come_in_order() -> None:
    async with running() as front:
        clients = [await front.connect() for _ in range(5)]
        for number, client in enumerate(clients):
            await client.send(rpc("m", number, number=number))
            # Asked on the same front afterwards: the call before it has been taken.
            await front.once(request("/healthz", token=None))
        call, tenant = await front.next_wake()
        assert tenant == "acme"
        assert front.calls.empty()
        worker = await front.worker("acme")
        front.answer(call)
        numbers = []
        for _ in clients:
            held = await worker.next_call()
            numbers.append(json.loads(held.params)["number"])
            worker.result(held, held.params)
        assert numbers == [0, 1, 2, 3, 4]
        for number, client in enumerate(clients):
            assert (await client.response()).json == {
                "jsonrpc": "2.0",
                "id": number,
                "result": {"number": number},
            }
        assert front.calls.empty()


async def test_the_wake_may_be_answered_before_the_link_comes() -> None:
    async with running() as front:
        client = await front.connect()
        await client.send(rpc("first"))
        call, _ = await front.next_wake()
        front.answer(call)
        await front.once(request("/healthz", token=None))
        more = await front.connect()
        await more.send(rpc("second"))
        await front.once(request("/healthz", token=None))
        assert front.calls.empty()
        await front.worker("acme", echo=True)
        assert (await client.response()).status == 200
        assert (await more.response()).status == 200


async def test_a_refused_wake_refuses_the_held_calls() -> None:
    async with running() as front:
        clients = [await front.connect() for _ in range(3)]
        for client in clients:
            await client.send(rpc())
            await front.once(request("/healthz", token=None))
        call, _ = await front.next_wake()
        front.end.fail(
            call.id, GatewayError(ErrorCode.UNAVAILABLE, "it has failed", retryAfterMs=4000)
        )
        for client in clients:
            answer = await client.response()
            assert (answer.status, answer.code) == (503, "UNAVAILABLE")
            assert answer.json["error"]["message"] == "it has failed"
            assert answer.json["error"]["data"]["retryable"] is True
            assert answer.headers["retry-after"] == "4"
        await clients[0].send(rpc("again"))
        call, _ = await front.next_wake()
        front.end.fail(call.id, GatewayError(ErrorCode.NOT_FOUND, "no such tenant: acme"))
        answer = await clients[0].response()
        assert (answer.status, answer.code) == (503, "UNAVAILABLE")
        assert "no such tenant" not in answer.json["error"]["message"]


async def test_holding_ends_in_time() -> None:
    async with running(limits={"HOLD_SECONDS": 0.3}) as front:
        client = await front.connect()
        await client.send(rpc())
        await front.next_wake()
        answer = await client.response()
        assert (answer.status, answer.code) == (503, "UNAVAILABLE")
        await client.send(rpc())
        await front.next_wake()
        await front.worker("acme", echo=True)
        assert (await client.response()).status == 200


async def test_held_calls_are_bounded_by_count_and_bytes() -> None:
    async with running(limits={"HOLD_CALLS_MAX": 3, "HOLD_BYTES_MAX": 10_000}) as front:
        held = [await front.connect() for _ in range(3)]
        await held[0].send(rpc(text="x" * 6000))
        await front.next_wake()
        refused = await front.once(rpc(text="x" * 6000))
        assert (refused.status, refused.code) == (503, "UNAVAILABLE")
        for client in held[1:]:
            await client.send(rpc())
            await front.once(request("/healthz", token=None))
        assert (await front.once(rpc())).status == 503
        other = await front.connect()
        await other.send(request("/rpc", rpc_body(), token=GLOBEX))
        assert (await front.next_wake())[1] == "globex"
        await front.worker("acme", echo=True)
        for client in held:
            assert (await client.response()).status == 200


async def test_a_held_call_whose_client_has_gone_is_forgotten() -> None:
    async with running() as front:
        gone, stays = await front.connect(), await front.connect()
        await gone.send(rpc("gone"))
        await front.next_wake()
        await stays.send(rpc("stays"))
        await gone.close()
        await front.once(request("/healthz", token=None))
        worker = await front.worker("acme")
        call = await worker.next_call()
        assert call.method == "stays"
        worker.result(call, b"1")
        assert (await stays.response()).status == 200
        assert worker.calls.empty()


async def test_a_tenant_that_goes_takes_its_held_calls_along() -> None:
    async with running() as front:
        client, other = await front.connect(), await front.connect()
        await client.send(rpc())
        await front.next_wake()
        await other.send(request("/rpc", rpc_body(), token=GLOBEX))
        await front.next_wake()
        await front.update(
            TenantsUpdate(gone=["acme"], known=[access("globex", GLOBEX, enabled=False)])
        )
        for held in (client, other):
            assert (await held.response()).status == 401
        assert (await client.ask(rpc())).status == 401


async def test_a_new_generation_takes_new_calls_and_the_old_one_ends_its_own() -> None:
    async with running() as front:
        old = await front.worker("acme")
        one, two = await front.connect(), await front.connect()
        await one.send(rpc("old"))
        before = await old.next_call()
        new = await front.worker("acme", echo=True)
        old.echo = True
        while new.served == 0:
            assert (await two.ask(rpc("new"))).status == 200
        served = old.served
        for _ in range(10):
            assert (await two.ask(rpc("new"))).status == 200
        assert old.served == served
        old.result(before, b'"old"')
        assert (await one.response()).json["result"] == "old"
        old.end.close()
        assert (await front.next_lost_link()).generation == 1
        assert (await two.ask(rpc("newer"))).status == 200


async def test_a_late_link_to_an_earlier_generation_takes_no_calls() -> None:
    async with running() as front:
        new = await front.worker("acme", echo=True, generation=8)
        client = await front.connect()
        assert (await client.ask(rpc())).status == 200
        old = await front.worker("acme", echo=True, generation=7)
        # The front takes links in order: with the third one the second has been taken.
        other = await front.worker("globex", echo=True)
        assert (await client.ask(request("/rpc", rpc_body(), token=GLOBEX))).status == 200
        assert other.served == 1
        assert (await client.ask(rpc())).status == 200
        assert (new.served, old.served) == (2, 0)
