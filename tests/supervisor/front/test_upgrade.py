"""Who gets a WebSocket: the opening handshake, tokens, and pages of other origins."""

import json

import pytest

from protocol import names
from protocol.spawn import TenantAccess, TenantsUpdate, TokenGrant
from tests.supervisor.front.harness import ACME, GLOBEX, request, rpc_body, running
from tests.supervisor.front.raw_socket import (
    ACCEPT,
    KEY,
    UPGRADE,
    RawSocket,
    message,
    open_socket,
    upgrade,
)


async def test_the_response_says_what_it_has_to_and_no_more() -> None:
    async with running() as front:
        client = await front.connect()
        offered = f"Sec-WebSocket-Protocol: chat, bearer.{ACME},openclaw.v1"
        extension = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
        await client.send(upgrade(offered, extension, token=None))
        head = await client.head()
        assert head.status == 101
        assert head.headers == {
            "upgrade": "websocket",
            "connection": "Upgrade",
            "sec-websocket-accept": ACCEPT,
            "sec-websocket-protocol": "openclaw.v1",
        }
        answer = await RawSocket(client).ask(message("events.unsubscribe"))
        assert answer["result"] == {"subscribed": False}
        assert ACME not in json.dumps(front.log)


async def test_the_subprotocol_can_be_given_on_several_lines() -> None:
    async with running() as front:
        client = await open_socket(
            front,
            "Sec-WebSocket-Protocol: openclaw.v1",
            f"Sec-WebSocket-Protocol: bearer.{ACME}",
            token=None,
        )
        await client.close()


def without(name: str) -> list[str]:
    return [line for line in UPGRADE if not line.lower().startswith(name)]


WRONG = {
    "no version": (without("sec-websocket-version"), 426),
    "another version": (
        [*without("sec-websocket-version"), "Sec-WebSocket-Version: 8"],
        426,
    ),
    "no key": (without("sec-websocket-key"), 400),
    "a short key": ([*without("sec-websocket-key"), "Sec-WebSocket-Key: AAAA"], 400),
    "a key that is no base64": (
        [*without("sec-websocket-key"), f"Sec-WebSocket-Key: {KEY[:-3]}*=="],
        400,
    ),
    "two keys": ([*UPGRADE, f"Sec-WebSocket-Key: {KEY}"], 400),
    "no upgrade": (without("upgrade"), 426),
    "no connection": (without("connection"), 426),
    "another protocol": ([*without("upgrade"), "Upgrade: h2c"], 400),
    "two protocols": ([*UPGRADE, "Upgrade: h2c"], 400),
    "a body": ([*UPGRADE, "Content-Length: 5"], 400),
    "a chunked body": ([*UPGRADE, "Transfer-Encoding: chunked"], 400),
    "only unknown subprotocols": ([*UPGRADE, "Sec-WebSocket-Protocol: chat"], 400),
    "a subprotocol that is no name": ([*UPGRADE, "Sec-WebSocket-Protocol: a b"], 400),
    "two tokens": ([*UPGRADE, f"Sec-WebSocket-Protocol: openclaw.v1, bearer.{ACME}"], 400),
    "an idempotency key": ([*UPGRADE, "Idempotency-Key: k"], 400),
    "too many subprotocols": ([*UPGRADE, "Sec-WebSocket-Protocol: " + ", ".join("a" * 17)], 400),
    "a foreign origin": ([*UPGRADE, "Origin: https://evil.example"], 403),
}


@pytest.mark.parametrize("what", WRONG)
async def test_a_handshake_that_is_wrong_is_refused(what: str) -> None:
    lines, status = WRONG[what]
    async with running() as front:
        answer = await front.once(request("/ws", None, *lines))
        assert answer.status == status
        assert ("sec-websocket-version" in answer.headers) is (status == 426)
        assert "sec-websocket-accept" not in answer.headers


async def test_other_verbs_and_versions_do_not_upgrade() -> None:
    async with running() as front:
        posted = await front.once(request("/ws", None, *UPGRADE, verb="POST"))
        assert posted.status == 400
        old = upgrade().replace(b"HTTP/1.1", b"HTTP/1.0")
        assert (await front.once(old)).status in (400, 426)
        for path in ("/rpc", "/healthz", "/ws/", "/ws/x"):
            assert (await front.once(request(path, None, *UPGRADE))).status == 400


async def test_a_token_in_the_target_is_refused() -> None:
    async with running() as front:
        for target in (f"/ws?token={ACME}", f"/ws/{ACME}", f"/{ACME}/ws"):
            answer = await front.once(request(target, None, *UPGRADE, token=None))
            assert answer.status == 400
        assert (await front.once(request("/ws?a=b", None, *UPGRADE))).status == 400


BAD_TOKENS = [
    None,
    "tk_acme_" + "0" * 32,
    "tk_nobody_" + "0" * 32,
    "nonsense",
]


@pytest.mark.parametrize("token", BAD_TOKENS)
async def test_without_a_valid_token_the_answer_is_that_of_every_route(token: str | None) -> None:
    async with running() as front:
        refused = await front.once(upgrade(token=token))
        same = await front.once(request("/channels/webhook/x", b"{}", token=token))
        assert (refused.status, refused.body) == (401, same.body)
        assert refused.headers["www-authenticate"] == same.headers["www-authenticate"]
        if token is not None:
            offered = f"Sec-WebSocket-Protocol: openclaw.v1, bearer.{token}"
            answer = await front.once(upgrade(offered, token=None))
            assert (answer.status, answer.body) == (401, same.body)


async def test_failures_at_the_handshake_are_throttled_with_all_others() -> None:
    async with running(limits={"AUTH_FAILURES_FREE": 2}) as front:
        for _ in range(4):
            assert (await front.once(upgrade(token="tk_acme_" + "0" * 32))).status == 401
        await open_socket(front)
        delays = [line["delay"] for line in front.log if line["event"] == "authentication failed"]
        assert delays[-1] > 0


async def test_a_handshake_waits_for_its_turn_and_the_rest_is_kept_for_it() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/rpc", rpc_body()) + upgrade() + message("m", 2)[:7])
        call = await worker.next_call()
        await client.send(message("m", 2)[7:])
        worker.result(call, b"1")
        assert (await client.response()).json["result"] == 1
        assert (await client.head()).status == 101


async def test_a_token_revoked_between_handshake_and_turn_is_refused() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(request("/rpc", rpc_body()) + upgrade())
        call = await worker.next_call()
        await front.update(TenantsUpdate(gone=["acme"]))
        worker.result(call, b"1")
        assert (await client.response()).status == 200
        assert (await client.response()).status == 401


async def test_a_token_without_the_right_to_read_cannot_subscribe() -> None:
    digest = names.digest(GLOBEX).hex()
    nothing = TenantAccess(
        tenant="globex", enabled=True, tokens={digest: TokenGrant(id="tok_1", scopes=0)}
    )
    async with running(tenants=[nothing]) as front:
        client = await open_socket(front, token=GLOBEX)
        answer = await client.ask(message("events.subscribe"))
        assert answer["error"]["data"]["code"] == "FORBIDDEN"


async def test_only_listed_pages_and_the_gateway_s_own_get_one() -> None:
    async with running(settings={"allowed_origins": ("https://app.example.org",)}) as front:
        for origin in ("http://localhost", "https://app.example.org", "HTTPS://APP.example.ORG"):
            client = await open_socket(front, f"Origin: {origin}")
            await client.close()
        for origin in ("null", "", "http://localhost:81", "https://app.example.org:8443", "x"):
            answer = await front.once(upgrade(f"Origin: {origin}"))
            assert (answer.status, answer.code) == (403, "FORBIDDEN"), origin


async def test_a_foreign_page_hears_no_more_than_that_it_is_foreign() -> None:
    async with running() as front:
        for token in (ACME, "tk_acme_" + "0" * 32):
            answer = await front.once(upgrade("Origin: https://evil.example", token=token))
            assert answer.status == 403
        named = await front.once(upgrade("Origin: http://evil.example", host="evil.example"))
        assert named.status == 403
