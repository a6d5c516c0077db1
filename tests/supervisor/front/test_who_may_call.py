"""Origins, proxies, connections of one address, and that all of it can change while it serves."""

import pytest

from protocol.errors import GatewayError
from protocol.spawn import FrontSettings
from tests.supervisor.front.harness import Front, request, rpc, running, soon
from tests.supervisor.front.raw_socket import CLOSE, frame, open_socket

APP = "https://app.example"
WRONG = "tk_acme_" + "0" * 32


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (APP, 200),
        ("HTTPS://APP.example", 200),
        ("http://localhost", 200),  # a page of the gateway's own: `Host` is localhost
        ("http://app.example", 403),
        ("https://app.example:8443", 403),
        ("https://app.example.evil.example", 403),
        ("https://evil.example", 403),
        ("http://localhost:3000", 403),
        ("http://127.0.0.1", 403),
        ("null", 403),
        ("", 403),
        ("file://", 403),
    ],
)
async def test_pages_of_known_origins_may_call(origin: str, status: int) -> None:
    async with running(settings={"allowed_origins": (APP,)}) as front:
        await front.worker(echo=True)
        answer = await front.once(rpc("m", 1, f"Origin: {origin}"))
        assert answer.status == status
        if status == 200:
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["vary"] == "Origin"
        else:
            assert answer.code == "FORBIDDEN"
            assert "access-control-allow-origin" not in answer.headers


async def test_what_is_no_browser_needs_no_origin() -> None:
    async with running() as front:
        await front.worker(echo=True)
        answer = await front.once(rpc())
        assert answer.status == 200
        assert "access-control-allow-origin" not in answer.headers


async def test_a_browser_may_ask_first() -> None:
    asks = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")
    async with running(settings={"allowed_origins": (APP,)}) as front:
        for origin, status in ((APP, 204), ("https://evil.example", 403)):
            ask = request("/rpc", None, f"Origin: {origin}", *asks, verb="OPTIONS", token=None)
            answer = await front.once(ask)
            assert answer.status == status
        answer = await front.once(request("/rpc", None, f"Origin: {APP}", verb="OPTIONS"))
        assert "authorization" in answer.headers["access-control-allow-headers"]
        assert answer.body == b""
        answer = await front.once(request("/rpc", None, verb="OPTIONS"))
        assert answer.status == 405


async def _failed_address(front: Front, *forwarded: str) -> str:
    before = len(front.log)
    fields = [f"X-Forwarded-For: {value}" for value in forwarded]
    assert (await front.once(request("/rpc", b"{}", *fields, token=WRONG))).status == 401
    while not any(line["event"] == "authentication failed" for line in front.log[before:]):
        await front.once(request("/healthz", token=None))
    (line,) = [line for line in front.log[before:] if line["event"] == "authentication failed"]
    return str(line["address"])


async def test_a_trusted_proxy_says_whom_it_calls_for() -> None:
    async with running(settings={"trusted_proxies": ("127.0.0.0/8",)}) as front:
        assert await _failed_address(front) == "127.0.0.1"
        assert await _failed_address(front, "10.9.8.7") == "10.9.8.7"
        assert await _failed_address(front, "1.1.1.1", "10.9.8.7, 127.0.0.9") == "10.9.8.7"


async def test_one_address_has_so_many_connections() -> None:
    async with running(settings={"connections_per_address_max": 2}) as front:
        first, second = await front.connect(), await front.connect()
        for client in (first, second):
            assert (await client.ask(request("/healthz", token=None))).status == 200
        answer = await front.once(request("/healthz", token=None))
        assert (answer.status, answer.code) == (503, "UNAVAILABLE")
        await first.close()
        await second.ask(request("/healthz", token=None))
        assert (await front.once(request("/healthz", token=None))).status == 200


async def test_a_websocket_keeps_the_place_of_its_connection() -> None:
    async with running(settings={"connections_per_address_max": 1}) as front:
        client = await open_socket(front)
        answer = await front.once(request("/healthz", token=None))
        assert (answer.status, answer.code) == (503, "UNAVAILABLE")
        await client.send(frame(b"", CLOSE))
        assert (await client.receive()).opcode == CLOSE
        await client.close()

        async def until_it_is_free() -> None:
            while (await front.once(request("/healthz", token=None))).status != 200:
                pass

        await soon(until_it_is_free())


async def test_the_connections_of_a_trusted_proxy_are_those_of_many() -> None:
    settings = {"connections_per_address_max": 1, "trusted_proxies": ("127.0.0.1",)}
    async with running(settings=settings) as front:
        clients = [await front.connect() for _ in range(5)]
        for client in clients:
            assert (await client.ask(request("/healthz", token=None))).status == 200


async def test_it_can_change_while_it_serves() -> None:
    async with running() as front:
        await front.worker(echo=True)
        client = await front.connect()
        assert (await client.ask(rpc())).status == 200
        settings = FrontSettings(allowed_hosts=("gateway.example",), allowed_origins=(APP,))
        await soon(front.end.call("front.configure", settings))
        assert (await client.ask(rpc())).status == 403
        ask = request("/healthz", None, f"Origin: {APP}", token=None, host="gateway.example")
        assert (await client.ask(ask)).status == 200


async def test_what_cannot_be_used_changes_nothing() -> None:
    async with running() as front:
        bad = FrontSettings(allowed_hosts=(), trusted_proxies=("10.0.0.1/8",))
        with pytest.raises(GatewayError, match="has host bits set"):
            await soon(front.end.call("front.configure", bad))
        assert (await front.once(request("/healthz", token=None))).status == 200
