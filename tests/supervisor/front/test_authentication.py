import asyncio
import json

import pytest

from protocol import names
from protocol.errors import ErrorCode, GatewayError
from protocol.spawn import TenantsUpdate, TokenGrant
from tests.supervisor.front.harness import (
    ACME,
    BOTH,
    GLOBEX,
    Front,
    access,
    request,
    rpc,
    rpc_body,
    running,
)

BAD_TOKENS = {
    "unknown tenant": "tk_nobody_" + "a1" * 16,
    "wrong secret": "tk_acme_" + "00" * 16,
    "another tenant's secret": "tk_acme_" + "b2" * 16,
    "disabled": "tk_initech_" + "c3" * 16,
    "revoked": "tk_hooli_" + "d4" * 16,
    "deleted": "tk_piper_" + "e5" * 16,
    "no token": "nonsense",
    "none": None,
}


async def test_every_failure_has_one_answer() -> None:
    tenants = [
        *BOTH,
        access("initech", str(BAD_TOKENS["disabled"]), enabled=False),
        access("hooli", str(BAD_TOKENS["revoked"])),
        access("piper", str(BAD_TOKENS["deleted"])),
    ]
    async with running(tenants=tenants, limits={"AUTH_FAILURES_FREE": 1000}) as front:
        await front.update(TenantsUpdate(known=[access("hooli")], gone=["piper"]))
        for target, body in (("/rpc", rpc_body()), ("/channels/webhook/shop", b"{}")):
            seen = set()
            for token in BAD_TOKENS.values():
                answer = await front.once(request(target, body, token=token))
                headers = {name: value for name, value in answer.headers.items() if name != "date"}
                seen.add((answer.status, answer.body, json.dumps(headers)))
            ((status, text, headers_text),) = seen
            assert status == 401
            assert answer.code == "UNAUTHORIZED"
            assert json.loads(headers_text)["www-authenticate"] == "Bearer"
            assert ("jsonrpc" in json.loads(text)) == (target == "/rpc")
        secrets = [token[-32:] for token in BAD_TOKENS.values() if token and "_" in token]
        log = json.dumps(front.log)
        assert not [secret for secret in secrets if secret in log]
        failed = [line for line in front.log if line["event"] == "authentication failed"]
        assert {"tk_acme_", "tk_nobody_", None} <= {line["prefix"] for line in failed}
        assert {line["address"] for line in failed} == {"127.0.0.1"}


@pytest.mark.parametrize(
    "header",
    [
        f"Authorization: Basic {ACME}",
        f"Authorization: {ACME}",
        f"Authorization: Bearer {ACME} extra",
        f"Authorization: Bearer {ACME.upper()}",
        f"X-Authorization: Bearer {ACME}",
        f"Cookie: token={ACME}",
    ],
)
async def test_only_a_bearer_header_counts(header: str) -> None:
    async with running() as front:
        answer = await front.once(request("/rpc", rpc_body(), header, token=None))
        assert answer.status == 401


async def test_the_scheme_is_not_case_sensitive() -> None:
    async with running() as front:
        await front.worker(echo=True)
        header = f"AUTHORIZATION: bEARER  {ACME}"
        answer = await front.once(request("/rpc", rpc_body(), header, token=None))
        assert answer.status == 200


async def test_two_credentials_are_refused() -> None:
    async with running() as front:
        answer = await front.once(rpc("m", 1, f"Authorization: Bearer {GLOBEX}"))
        assert answer.status == 400


async def test_revocation_takes_effect_on_a_kept_connection() -> None:
    async with running() as front:
        await front.worker(echo=True)
        client = await front.connect()
        assert (await client.ask(rpc())).status == 200
        assert (await client.ask(rpc())).status == 200
        new = "tk_acme_" + "f6" * 16
        await front.update(TenantsUpdate(known=[access("acme", new)]))
        assert (await client.ask(rpc())).status == 401
        assert (await client.ask(request("/rpc", rpc_body(), token=new))).status == 200
        await front.update(TenantsUpdate(known=[access("acme", new, enabled=False)]))
        assert (await client.ask(request("/rpc", rpc_body(), token=new))).status == 401


async def test_revocation_reaches_requests_that_wait_their_turn() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(rpc("first") + rpc("second"))
        call = await worker.next_call()
        await front.update(TenantsUpdate(known=[access("globex", GLOBEX)]))
        worker.result(call, b"1")
        assert (await client.response()).status == 200
        call = await worker.next_call()
        assert call.method == "second"
        await client.send(rpc("third"))
        # The front answers in order, so that it has the third before the next update.
        await front.once(request("/healthz", token=None))
        await front.update(TenantsUpdate(gone=["acme"]))
        worker.result(call, b"1")
        assert (await client.response()).status == 200
        assert (await client.response()).status == 401
        assert worker.calls.empty()


async def test_while_tokens_are_loaded_nobody_is_called_unauthorized() -> None:
    async with running(complete=False, tenants=[access("acme", ACME)]) as front:
        answer = await front.once(request("/rpc", rpc_body(), token=GLOBEX))
        assert (answer.status, answer.code) == (503, "UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"
        ready = await front.once(request("/readyz", token=None))
        assert (ready.status, ready.json["status"]) == (503, "starting")
        await front.worker(echo=True)
        assert (await front.once(rpc())).status == 200
        await front.update(TenantsUpdate(known=[access("globex", GLOBEX)], complete=True))
        assert (await front.once(request("/readyz", token=None))).status == 200
        bad = await front.once(request("/rpc", rpc_body(), token="tk_acme_" + "0" * 32))
        assert bad.status == 401


async def _failures(front: Front, count: int) -> None:
    for number in range(count):
        token = f"tk_acme_{number:032x}"
        assert (await front.once(request("/rpc", b"{}", token=token))).status == 401


async def test_failures_are_slowed_and_a_valid_token_never() -> None:
    slow = {"AUTH_FAILURES_FREE": 3, "AUTH_FAILURE_DELAY_SECONDS_MAX": 600.0}
    async with running(limits=slow) as front:
        await front.worker(echo=True)
        await _failures(front, 3 + 3)
        delays = [line["delay"] for line in front.log if "delay" in line]
        assert delays == [0.0, 0.0, 0.0, 0.1, 0.2, 0.4]
        for _ in range(12):
            waiting = await front.connect()
            await waiting.send(request("/rpc", b"{}", token="tk_acme_" + "0" * 32))
        unanswered = asyncio.create_task(waiting.response())
        kept = await front.connect()
        for _ in range(30):
            assert (await kept.ask(rpc())).status == 200
            assert (await front.once(rpc())).status == 200
        assert not unanswered.done()
        unanswered.cancel()


async def test_one_who_failed_is_answered_at_once_with_a_valid_token() -> None:
    async with running(limits={"AUTH_FAILURES_FREE": 0}) as front:
        await front.worker(echo=True)
        client = await front.connect()
        bad = request("/rpc", b"{}", token="tk_acme_" + "0" * 32)
        answers = [await client.ask(bad) for _ in range(3)]
        assert [answer.status for answer in answers] == [401] * 3
        assert (await client.ask(rpc())).status == 200


async def test_who_finds_no_place_to_wait_is_answered_and_loses_the_connection() -> None:
    full = {"AUTH_FAILURES_FREE": 1, "AUTH_FAILURES_WAITING_MAX": 0}
    async with running(limits=full) as front:
        bad = request("/rpc", b"{}", token="tk_acme_" + "0" * 32)
        client = await front.connect()
        free = await client.ask(bad)
        slowed = await client.ask(bad)
        assert (free.status, slowed.status) == (401, 401)
        assert free.body == slowed.body
        assert slowed.headers["connection"] == "close"
        assert await client.at_end()


async def test_an_update_that_cannot_be_read_is_refused_and_changes_nothing() -> None:
    async with running() as front:
        await front.worker(echo=True)
        bad = access("acme", ACME)
        bad.tokens["not hex"] = TokenGrant(id="x", scopes=7)
        with pytest.raises(GatewayError) as refused:
            await front.update(TenantsUpdate(known=[bad]))
        assert refused.value.code is ErrorCode.INVALID_REQUEST
        short = access("acme")
        short.tokens[names.digest("x").hex()[:10]] = TokenGrant(id="x", scopes=7)
        with pytest.raises(GatewayError):
            await front.update(TenantsUpdate(known=[short]))
        with pytest.raises(GatewayError) as unknown:
            await front.end.call("tenants.forget", {})
        assert unknown.value.code is ErrorCode.METHOD_NOT_FOUND
        assert (await front.once(rpc())).status == 200
