"""Quotas at the boundary: what is over one is refused, and wakes nobody."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import pytest

from protocol import frames
from protocol.quotas import HOUR_MS, MINUTE_MS, Counted, CountedRequests, Quota, Reached, Standing
from protocol.spawn import TenantsUpdate
from tests.supervisor.front.harness import (
    ACME,
    GLOBEX,
    Front,
    Response,
    access,
    request,
    rpc,
    rpc_body,
    running,
    soon,
)
from tests.supervisor.front.raw_socket import UPGRADE, message, open_socket

NOW: Final = 500 * HOUR_MS + 30 * MINUTE_MS + 45_000
WINDOW_AT: Final = "1970-01-21T20:31:00.000Z"
BLOCKED: Final = Reached(
    metric="costPerDayMicroUsd", limit=1000, used=1002, resets_at_ms=504 * HOUR_MS
)
ENVELOPE: Final = b'{"user":{"id":"u"},"content":{"type":"text","text":"t"}}'


@contextlib.asynccontextmanager
async def limited(
    quota: Quota,
    *,
    counts: tuple[Counted, ...] = (),
    standings: tuple[Standing, ...] = (),
    supervised: frozenset[str] = frozenset(),
) -> AsyncIterator[Front]:
    """A front whose tenant acme has this quota, while its clock stands still."""
    tenants = (access("acme", ACME, quota=quota), access("globex", GLOBEX))
    async with running(
        limits={"CLOCK_MS": NOW}, tenants=tenants, complete=False, supervised=supervised
    ) as front:
        await front.update(TenantsUpdate(counts=counts, standings=standings, complete=True))
        yield front


def check_refused(answer: Response, **details: Any) -> None:
    assert answer.status == 429
    error = answer.json["error"]
    assert error["code"] == -32030
    assert error["data"] == {"code": "QUOTA_EXCEEDED", "retryable": True} | details


async def counted(front: Front) -> list[Counted]:
    notice = await soon(front.notices.get())
    assert isinstance(notice, frames.Event)
    assert notice.topic == "quota.counted"
    return list(msgspec.json.decode(notice.body, type=CountedRequests).counts)


async def test_what_is_over_is_refused_with_all_a_client_needs() -> None:
    async with limited(Quota(requests_per_minute=2)) as front:
        await front.worker(echo=True)
        client = await front.connect()
        assert (await client.ask(rpc())).status == 200
        assert (await client.ask(rpc())).status == 200
        for request_id in (7, "x"):
            answer = await client.ask(rpc("m", request_id))
            check_refused(
                answer,
                metric="requestsPerMinute",
                limit=2,
                used=2,
                nextWindowAt=WINDOW_AT,
                retryAfterMs=15_000,
            )
            assert answer.headers["retry-after"] == "15"
            assert answer.json["id"] == request_id
        assert (await client.ask(request("/healthz", token=None))).status == 200


async def test_zero_is_nothing_and_nobody_is_woken() -> None:
    async with limited(Quota(requests_per_hour=0)) as front:
        client = await front.connect()
        for asked in (
            rpc(),
            rpc("no.such.method"),
            request("/channels/webhook/shop", ENVELOPE),
            request("/terminal", None, *UPGRADE),
        ):
            answer = await front.once(asked)
            assert (answer.status, answer.headers["retry-after"]) == (429, "1755")
            assert answer.code == "QUOTA_EXCEEDED"
        batch = b"[%b,%b]" % (rpc_body("a", 1), rpc_body("b", 2))
        answer = await client.ask(request("/rpc", batch))
        assert answer.status == 200
        assert [each["error"]["code"] for each in answer.json] == [-32030, -32030]
        socket = await open_socket(front)
        for method in ("a", "events.subscribe"):
            assert (await socket.ask(message(method)))["error"]["data"]["limit"] == 0
        note = {"jsonrpc": "2.0", "method": "m"}
        assert (await client.ask(request("/rpc", json.dumps(note).encode()))).status == 429
        assert front.calls.empty()
        await socket.close()


async def test_probes_control_plane_and_what_is_no_call_are_not_counted() -> None:
    async with limited(Quota(requests_per_hour=1)) as front:
        await front.worker(echo=True)
        for bad in (b"{", b'{"jsonrpc":"2.0"}', b"[]"):
            assert (await front.once(request("/rpc", bad))).status == 400
        assert (await front.once(rpc("m", 1, "Idempotency-Key: "))).status == 400
        assert (await front.once(request("/healthz"))).status == 200
        assert (await front.once(request("/rpc", rpc_body(), token=ACME + "0"))).status == 401
        asked = await front.connect()
        await asked.send(request("/v1/tenants", None, token="ak_x"))
        call, _ = await front.next_control()
        front.answer_control(call, 200, {})
        assert (await asked.response()).status == 200
        await (await open_socket(front)).close()
        assert (await front.once(rpc())).status == 200
        assert (await front.once(rpc())).status == 429


async def test_each_of_a_batch_is_counted() -> None:
    async with limited(Quota(requests_per_minute=3)) as front:
        await front.worker(echo=True)
        body = b"[%b]" % b",".join(rpc_body("m", number) for number in range(5))
        answer = await front.once(request("/rpc", body))
        assert ["result" in each for each in answer.json] == [True] * 3 + [False] * 2
        assert "openclaw-quota-warning" in answer.headers


async def test_the_next_front_goes_on_counting() -> None:
    quota = Quota(requests_per_minute=3, requests_per_hour=50)
    async with limited(quota) as front:
        await front.worker(echo=True)
        assert (await front.once(rpc())).status == 200
        assert (await front.once(rpc())).status == 200
        while (told := (await counted(front))[0]).in_minute < 2:
            pass
    assert told == Counted("acme", NOW // MINUTE_MS, 2, NOW // HOUR_MS, 2)
    async with limited(quota, counts=(told,)) as front:
        await front.worker(echo=True)
        assert (await front.once(rpc())).status == 200
        answer = await front.once(rpc())
        assert (answer.status, answer.json["error"]["data"]["used"]) == (429, 3)
        assert (await counted(front))[0].in_hour == 3


async def test_a_drained_front_has_told_all() -> None:
    async with limited(Quota(requests_per_hour=9)) as front:
        await front.worker(echo=True)
        client = await front.connect()
        for _ in range(4):
            assert (await client.ask(rpc())).status == 200
        front.drain(1.0)
        numbers = []
        while not isinstance(notice := await soon(front.notices.get()), frames.Drained):
            assert isinstance(notice, frames.Event)
            numbers.append(msgspec.json.decode(notice.body, type=CountedRequests).counts[0].in_hour)
        assert numbers[-1] == 4


async def test_a_change_is_in_force_at_once() -> None:
    async with limited(Quota()) as front:
        await front.worker(echo=True)
        client = await front.connect()
        assert (await client.ask(rpc())).status == 200
        for quota, status in (
            (Quota(requests_per_minute=0), 429),
            (Quota(requests_per_minute=1, requests_per_hour=2), 200),
            (Quota(requests_per_minute=1), 429),
            (Quota(), 200),
            (Quota(requests_per_hour=0), 429),
        ):
            await front.update(TenantsUpdate(known=[access("acme", ACME, quota=quota)]))
            assert (await client.ask(rpc())).status == status, quota
        # What was counted of a tenant is not another's that has its name.
        await front.update(TenantsUpdate(gone=["acme"]))
        await front.update(TenantsUpdate(known=[access("acme", ACME, quota=Quota())]))
        assert (await front.once(rpc())).status == 200


async def test_the_warning_is_a_header_once_and_an_event_once() -> None:
    async with limited(Quota(requests_per_minute=9, soft_percent=50)) as front:
        await front.worker(echo=True)
        socket = await open_socket(front)
        await socket.subscribe(events=["quota.warning"])
        client = await front.connect()
        answers = [await client.ask(rpc()) for _ in range(8)]
        assert [answer.headers.get("openclaw-quota-warning") for answer in answers] == [
            None
        ] * 3 + [f"metric=requestsPerMinute; used=5; limit=9; resets={WINDOW_AT}"] + [None] * 4
        assert (await socket.receive()).json["params"] == {
            "event": "quota.warning",
            "seq": 1,
            "payload": {
                "metric": "requestsPerMinute",
                "limit": 9,
                "used": 5,
                "resetsAt": WINDOW_AT,
            },
        }
        assert (await client.ask(rpc())).status == 429
        await socket.close()


async def test_a_stream_has_the_header_too() -> None:
    async with limited(Quota(requests_per_minute=5, soft_percent=1)) as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(rpc("chat.send", 1, "Accept: text/event-stream"))
        call = await worker.next_call()
        worker.chunk(call, b"{}")
        head = await client.head()
        assert "used=1; limit=5" in head.headers["openclaw-quota-warning"]
        worker.stop(call, b"{}")


@pytest.mark.parametrize("in_first_load", [True, False])
async def test_who_is_blocked_spends_nothing_and_does_the_rest(in_first_load: bool) -> None:
    standing = Standing(tenant="acme", blocked=BLOCKED, warned=(BLOCKED,))
    first = (standing,) if in_first_load else ()
    supervised = frozenset({"tenants.quota.status"})
    async with limited(Quota(), standings=first, supervised=supervised) as front:
        if not in_first_load:
            await front.update(TenantsUpdate(standings=(standing,)))
        client = await front.connect()
        for asked in (
            *(rpc(method) for method in ("chat.send", "agent", "sessions.send", "sessions.create")),
            request("/channels/webhook/shop", ENVELOPE),
        ):
            answer = await client.ask(asked)
            check_refused(
                answer,
                metric="costPerDayMicroUsd",
                limit=1000,
                used=1002,
                nextWindowAt="1970-01-22T00:00:00.000Z",
                retryAfterMs=504 * HOUR_MS - NOW,
            )
            warned = "openclaw-quota-warning" in answer.headers
            assert not warned
        assert front.calls.empty()  # nobody was woken
        status = await front.connect()
        await status.send(rpc("tenants.quota.status"))
        front.answer(await front.next_call("tenant.request"))
        answer = await status.response()
        assert answer.status == 200
        await front.worker(echo=True)
        assert (await client.ask(rpc("chat.history"))).status == 200
        # The first that is not refused says it, unless it has been said by the front before.
        assert ("openclaw-quota-warning" in answer.headers) == (not in_first_load)
        # Another tenant is not blocked, and neither is this one when egress says so.
        other = await front.worker("globex", echo=True)
        assert (await client.ask(request("/rpc", rpc_body("agent"), token=GLOBEX))).status == 200
        assert other.served == 1
        await front.update(TenantsUpdate(standings=(Standing(tenant="acme"),)))
        assert (await client.ask(rpc("chat.send"))).status == 200


async def test_a_standing_of_nobody_is_passed_over() -> None:
    async with limited(Quota()) as front:
        await front.update(
            TenantsUpdate(
                standings=(Standing(tenant="nobody", blocked=BLOCKED),),
                counts=(Counted("nobody", 1, 1, 1, 1),),
            )
        )
        await front.worker(echo=True)
        assert (await front.once(rpc("chat.send"))).status == 200
