"""What a token has opened ends with the token, and how a bad one fails tells nobody why."""

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from protocol.frames import Call
from protocol.spawn import TenantsUpdate
from supervisor.front.auth import TokenTable
from supervisor.front.stream import CREDIT_BATCH
from supervisor.front.tenants import Tenant
from tests.supervisor.front.harness import (
    ACME,
    BOTH,
    GLOBEX,
    PATIENCE_SECONDS,
    Client,
    Front,
    Worker,
    access,
    request,
    rpc,
    rpc_body,
    running,
    soon,
)
from tests.supervisor.front.test_intake import Surroundings

EVENTS = "Accept: text/event-stream"
NEW = "tk_acme_" + "f6" * 16
SAMPLES = 250
STALL_SECONDS = 2.0


def stream(token: str = ACME) -> bytes:
    return request("/rpc", rpc_body("sessions.send"), EVENTS, token=token)


def in_ms(seconds: float) -> int:
    return int((time.time() + seconds) * 1000)


async def open_stream(front: Front, worker: Worker) -> Client:
    """A stream of acme's that has begun."""
    client = await front.connect()
    await client.send(stream())
    worker.chunk(await worker.next_call(), b'{"deltaText":"a"}')
    assert (await client.head()).status == 200
    await client.chunk()
    return client


async def ends_unauthorized(client: Client) -> bool:
    last = await client.chunk()
    assert last.startswith(b"event: result\n"), last
    error = json.loads(last.split(b"data: ")[1])["error"]
    assert await client.chunk() == b""
    return bool(error["data"]["code"] == "UNAUTHORIZED")


REVOCATIONS: dict[str, TenantsUpdate] = {
    "rotation": TenantsUpdate(known=[access("acme", NEW)]),
    "revocation": TenantsUpdate(known=[access("acme")]),
    "suspension": TenantsUpdate(known=[access("acme", ACME, enabled=False)]),
    "deletion": TenantsUpdate(gone=["acme"]),
}


@pytest.mark.parametrize("change", REVOCATIONS.values(), ids=REVOCATIONS)
async def test_an_open_stream_ends_with_its_token(change: TenantsUpdate) -> None:
    async with running() as front:
        worker = await front.worker()
        client = await open_stream(front, worker)
        other = await front.worker("globex")
        neighbour = await front.connect()
        await neighbour.send(stream(GLOBEX))
        theirs = await other.next_call()
        await front.update(change)
        # Not told by the worker, and not by a timer: it is cut before the update is answered.
        assert await ends_unauthorized(client)
        await soon(worker.cancelled.get())
        assert (await client.ask(rpc())).status == 401
        other.stop(theirs, b"1")
        assert (await neighbour.response()).status == 200


async def test_a_stream_that_has_not_begun_is_refused() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(stream())
        await worker.next_call()
        await front.update(REVOCATIONS["rotation"])
        answer = await client.response()
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED")


async def test_what_waits_for_a_worker_is_not_begun_with_a_revoked_token() -> None:
    async with running() as front:
        client = await front.connect()
        await client.send(rpc())
        await front.next_wake()
        await front.update(REVOCATIONS["revocation"])
        answer = await client.response()
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
        worker = await front.worker()
        assert worker.calls.empty()


async def pour_until_stalled(worker: Worker, call: Call) -> None:
    """Send chunks as long as the front gives credit for them."""
    credit = call.credit
    with contextlib.suppress(TimeoutError):
        while True:
            for _ in range(credit):
                worker.chunk(call, b'"%b"' % (b"x" * 60_000))
            await asyncio.wait_for(worker.credited.get(), STALL_SECONDS)
            credit = CREDIT_BATCH


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect(receive_buffer=4096)
        client.stop_reading()
        await client.send(stream())
        await pour_until_stalled(worker, await worker.next_call())
        await front.update(REVOCATIONS["revocation"])
        client.go_on_reading()
        received = b""
        with contextlib.suppress(ConnectionError):
            while piece := await soon(client.reader.read(65536)):
                received = received[-100:] + piece
        assert not received.endswith(b"0\r\n\r\n")
        assert b"UNAUTHORIZED" not in received


async def test_another_token_of_the_tenant_does_not_notice() -> None:
    async with running(tenants=[access("acme", ACME, NEW)]) as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(stream(NEW))
        call = await worker.next_call()
        await front.update(TenantsUpdate(known=[access("acme", NEW)]))
        worker.stop(call, b"1")
        answer = await client.response()
        assert answer.events[0][1]["result"] == 1


async def test_an_overlap_cuts_nothing_until_it_is_over() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await open_stream(front, worker)
        known = [access("acme", ACME, expires_at=in_ms(3600))]
        await front.update(TenantsUpdate(known=known))
        worker.echo = True
        assert (await front.once(rpc())).status == 200
        # The end has only been moved; moved to now, it is reached.
        await front.update(TenantsUpdate(known=[access("acme", ACME, expires_at=in_ms(0.3))]))
        started = time.monotonic()
        assert await ends_unauthorized(client)
        assert time.monotonic() - started < PATIENCE_SECONDS
        assert (await front.once(rpc())).status == 401


async def test_an_answer_that_is_under_way_is_given() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(rpc())
        call = await worker.next_call()
        await front.update(REVOCATIONS["rotation"])
        worker.result(call, b"1")
        assert (await client.response()).status == 200


async def test_a_kept_connection_is_judged_by_the_clock() -> None:
    async with running(tenants=[access("acme", ACME, expires_at=in_ms(0.5))]) as front:
        await front.worker(echo=True)
        client = await front.connect()
        statuses = [(await client.ask(rpc())).status]
        while statuses[-1] == 200:
            statuses.append((await client.ask(rpc())).status)
        assert statuses[-1] == 401
        assert (await client.ask(rpc())).status == 401


def test_a_token_ends_at_its_time_before_any_sweep() -> None:
    now = 1000.0
    table = TokenTable(lambda: now)
    tenant = Tenant("acme", Surroundings())
    table.put(tenant, access("acme", ACME, expires_at=2000))
    grant = table.look_up(ACME)
    assert grant is not None
    assert table.expire() == frozenset()
    now = 1999.9
    assert table.holds(grant)
    now = 2000.0
    assert not table.holds(grant)
    assert table.look_up(ACME) is None
    version = table.version
    assert table.expire() == {grant.digest}
    assert table.expire() == frozenset()
    assert table.version == version + 1
    table.put(tenant, access("acme", ACME))
    assert table.look_up(ACME) is not None


def test_what_is_put_again_drops_what_it_does_not_hold() -> None:
    table = TokenTable()
    tenant = Tenant("acme", Surroundings())
    assert table.put(tenant, access("acme", ACME, NEW)) == frozenset()
    assert table.put(tenant, access("acme", ACME, NEW, expires_at=in_ms(60))) == frozenset()
    dropped = table.put(tenant, access("acme", NEW))
    assert len(dropped) == 1
    assert len(table.put(tenant, access("acme", NEW, enabled=False))) == 1
    assert len(table.remove(["acme"])) == 1
    assert table.remove(["acme"]) == frozenset()


# --- no way to fail can be told from another

BAD_TOKENS = {
    "unknown tenant": "tk_nobody_" + "a1" * 16,
    "wrong secret": "tk_acme_" + "00" * 16,
    "suspended": "tk_initech_" + "c3" * 16,
    "revoked": "tk_hooli_" + "d4" * 16,
    "expired": "tk_umbrella_" + "e6" * 16,
    "deleted": "tk_piper_" + "e5" * 16,
}


def likelier(first: list[float], second: list[float]) -> float:
    """Give how likely a value of the first exceeds one of the second (Mann and Whitney's U)."""
    ranked = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    ranks = sum(rank for rank, (_, which) in enumerate(ranked, 1) if which == 0)
    count = len(first)
    return (ranks - count * (count + 1) / 2) / (count * len(second))


async def measure(kinds: dict[str, Callable[[], Awaitable[object]]]) -> dict[str, list[float]]:
    """Time each, one after the other and over again, so that all see the same machine."""
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(SAMPLES):
        for kind, act in kinds.items():
            started = time.perf_counter()
            await act()
            seconds[kind].append(time.perf_counter() - started)
    return seconds


async def test_no_way_to_fail_can_be_told_from_another() -> None:
    """One in status, headers and body, and in time as far as samples can tell.

    With 250 samples of each the share's standard error is 0.026; a difference that somebody could
    use, such as one more look-up on disk, makes it 0 or 1.
    """
    tenants = [
        *BOTH,
        access("initech", BAD_TOKENS["suspended"], enabled=False),
        access("hooli", BAD_TOKENS["revoked"]),
        access("umbrella", BAD_TOKENS["expired"], expires_at=in_ms(0.05)),
        access("piper", BAD_TOKENS["deleted"]),
    ]
    async with running(tenants=tenants, limits={"AUTH_FAILURES_FREE": 1_000_000}) as front:
        await front.update(TenantsUpdate(known=[access("hooli")], gone=["piper"]))
        client = await front.connect()
        while (await client.ask(request("/rpc", b"{}", token=BAD_TOKENS["expired"]))).status == 200:
            pass
        seen = set()

        def fail_with(token: str) -> Callable[[], Awaitable[object]]:
            asked = request("/rpc", rpc_body(), token=token)

            async def act() -> None:
                answer = await client.ask(asked)
                headers = {name: value for name, value in answer.headers.items() if name != "date"}
                seen.add((answer.status, json.dumps(headers), answer.body))

            return act

        seconds = await measure({kind: fail_with(token) for kind, token in BAD_TOKENS.items()})
    ((status, _, _),) = seen
    assert status == 401
    for first, second in pairwise([*BAD_TOKENS, next(iter(BAD_TOKENS))]):
        share = likelier(seconds[first], seconds[second])
        medians = [statistics.median(seconds[kind]) for kind in (first, second)]
        assert 0.3 < share < 0.7, (first, second, share, medians)


def test_the_measure_would_tell_a_slower_way() -> None:
    fast = [1.0 + number % 10 / 10 for number in range(SAMPLES)]
    slow = [value + 0.6 for value in fast]
    assert not 0.3 < likelier(slow, fast) < 0.7
    mixed = [value + 0.05 * (-1) ** number for number, value in enumerate(fast)]
    assert 0.4 < likelier(fast, mixed) < 0.6
