"""What the front tells of itself, against what it was made to do."""

import asyncio
import json

import msgspec

from protocol.meters import FrontMeters, Histogram
from tests.supervisor.front.harness import (
    PATIENCE_SECONDS,
    Front,
    request,
    rpc,
    rpc_body,
    running,
    soon,
)

HEALTH = request("/healthz", token=None)


async def told(front: Front) -> FrontMeters:
    return msgspec.json.decode(await soon(front.end.call("front.meters", {})), type=FrontMeters)


def statuses(meters: FrontMeters) -> dict[str, dict[int, int]]:
    """Counts by route; of each there are as many seconds as statuses."""
    for answers in meters.answers.values():
        assert observed(answers.seconds) == sum(answers.statuses.values())
    return {route: answers.statuses for route, answers in meters.answers.items()}


def observed(histogram: Histogram) -> int:
    return sum(histogram.counts)


async def test_every_answer_counts_once_by_route_and_status() -> None:
    async with running() as front:
        assert statuses(await told(front)) == {}
        await front.worker(echo=True)
        client = await front.connect()
        for _ in range(3):
            assert (await client.ask(rpc())).status == 200
        await client.ask(request("/nowhere"))
        await client.send(request("/healthz", verb="HEAD", token=None))
        await client.response(to_head=True)
        await client.ask(request("/ws", verb="GET"))
        await client.ask(request("/openapi.json", token=None))
        assert (await front.once(b"no HTTP\r\n\r\n")).status == 400
        meters = await told(front)
        assert statuses(meters) == {
            "rpc": {200: 3},
            "other": {404: 1, 400: 1},
            "probe": {200: 1},
            "ws": {426: 1},
            "openapi": {200: 1},
        }
        assert meters.auth_failures == meters.refused_connections == meters.held == 0


async def test_a_call_is_held_then_in_flight_then_answered() -> None:
    async with running() as front:
        client = await front.connect()
        await client.send(rpc())
        await front.next_wake()
        meters = await told(front)
        assert (meters.held, meters.in_flight, meters.connections) == (1, 0, 1)
        assert observed(meters.hold_seconds) == 0
        worker = await front.worker()
        call = await worker.next_call()
        meters = await told(front)
        assert (meters.held, meters.in_flight) == (0, 1)
        assert observed(meters.hold_seconds) == 1
        assert statuses(meters) == {}
        worker.result(call, b"{}")
        assert (await client.response()).status == 200
        meters = await told(front)
        assert (meters.held, meters.in_flight) == (0, 0)
        assert statuses(meters) == {"rpc": {200: 1}}


async def test_whoever_stops_waiting_ends_a_hold_too() -> None:
    async with running() as front:
        client = await front.connect()
        await client.send(rpc())
        wake, _ = await front.next_wake()
        await client.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (meters := await told(front)).held:
                pass
        assert observed(meters.hold_seconds) == 1
        assert statuses(meters) == {}  # nobody was answered
        front.answer(wake)


async def test_each_call_of_a_batch_counts_and_the_batch_too() -> None:
    async with running() as front:
        await front.worker(echo=True)
        call = {"jsonrpc": "2.0", "id": 1, "method": "m"}
        body = json.dumps([call, call, {"jsonrpc": "2.0"}]).encode()
        assert (await front.once(request(body=body))).status == 200
        assert statuses(await told(front)) == {"rpc": {200: 1}, "batch": {200: 2, 400: 1}}


async def test_bad_credentials_count_wherever_they_are_judged() -> None:
    async with running() as front:
        assert (
            await front.once(request(token="tk_acme_" + "0" * 32, body=rpc_body()))
        ).status == 401
        client = await front.connect()
        await client.send(request("/metrics", verb="GET", token="wrong"))
        asked, _ = await front.next_control()
        front.answer_control(asked, 401, {"type": "about:blank", "status": 401})
        assert (await client.response()).status == 401
        meters = await told(front)
        assert meters.auth_failures == 2
        assert statuses(meters) == {"rpc": {401: 1}, "metrics": {401: 1}}


async def test_metrics_are_text_and_what_is_no_text_is_an_error_of_ours() -> None:
    async with running() as front:
        client = await front.connect()
        for given, status, media_type in (
            ("# a\nb 1.0\n", 200, "text/plain; version=0.0.4; charset=utf-8"),
            ({"b": 1}, 500, "application/problem+json"),
        ):
            await client.send(request("/metrics", verb="GET", token="key"))
            asked, control = await front.next_control()
            assert (control.verb, control.path, control.secret) == ("GET", "/metrics", "key")
            front.answer_control(asked, 200, given)
            answer = await client.response()
            assert (answer.status, answer.headers["content-type"]) == (status, media_type)
            assert status != 200 or answer.body == b"# a\nb 1.0\n"


async def test_who_finds_no_place_counts() -> None:
    async with running(settings={"connections_per_address_max": 1}) as front:
        client = await front.connect()
        await client.ask(HEALTH)
        assert (await front.once(HEALTH)).status == 503
        meters = await told(front)
        assert (meters.refused_connections, meters.connections) == (1, 1)


async def test_the_loop_is_looked_at_all_the_time() -> None:
    async with running() as front:
        before = observed((await told(front)).loop_lag)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while observed((await told(front)).loop_lag) <= before:
                pass
