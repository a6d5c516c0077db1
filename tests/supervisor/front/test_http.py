"""Strictness and limits of HTTP/1.1, as a raw client meets them."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from protocol import limits
from tests.supervisor.front.harness import (
    ACME,
    NOTICES,
    Client,
    Front,
    request,
    rpc,
    rpc_body,
    running,
)

HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
BEARER = b"Authorization: Bearer %b\r\n" % ACME.encode()
POST = b"POST /rpc HTTP/1.1\r\n" + HOST + JSON + BEARER

MALFORMED = {
    "no HTTP": b"nonsense\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in a field": b"GET / HTTP/1.1\r\nHost: local\0host\r\n\r\n",
    "control character in a field": b"GET / HTTP/1.1\r\n" + HOST + b"X: \x01\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: localhost\n\n",
    "bare CR": b"GET / HTTP/1.1\r\nHost: localhost\rX: y\r\n\r\n",
    "folded line": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
    "blank before the colon": b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "no field name": b"GET / HTTP/1.1\r\n" + HOST + b": x\r\n\r\n",
    "unknown verb": b"BREW /rpc HTTP/1.1\r\n" + HOST + b"\r\n",
    "lower-case verb": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 in the first line": b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "a Host that is none": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "an empty Host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "absolute form": b"GET http://localhost/healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    "asterisk form": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "upgrade": b"GET / HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "length and coding": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "a length beyond 64 bits": POST + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    "unknown coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding in HTTP/1.0": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n").replace(
        b"HTTP/1.1", b"HTTP/1.0"
    ),
    "a chunk beyond 64 bits": POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "a chunk with a bare LF": POST + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
    "unknown expectation": POST + b"Expect: miracles\r\nContent-Length: 2\r\n\r\n{}",
    "two credentials": POST + BEARER + b"Content-Length: 2\r\n\r\n{}",
    "a token in the URL": b"GET /rpc?token=%b HTTP/1.1\r\n" % ACME.encode() + HOST + b"\r\n",
}


async def _refused_and_closed(client: Client, status: int, code: str) -> None:
    answer = await client.response()
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["connection"] == "close"
    assert await client.at_end()


async def test_what_is_no_proper_request_is_refused_and_the_connection_closed() -> None:
    async with running() as front:
        for name, data in MALFORMED.items():
            client = await front.connect()
            await client.send(data)
            answer = await client.response()
            assert (answer.status, answer.code) == (400, "MALFORMED_REQUEST"), name
            assert answer.headers["connection"] == "close", name
            assert await client.at_end(), name
            assert ACME not in answer.body.decode(), name
        assert ACME not in json.dumps(front.log)
        assert (await front.once(request("/healthz", token=None))).status == 200


OVERSIZE = {
    "target": (b"GET /%b HTTP/1.1\r\n" % (b"a" * 3000) + HOST + b"\r\n", 414, "TARGET_TOO_LONG"),
    "one field": (
        b"GET / HTTP/1.1\r\n" + HOST + b"X: %b\r\n\r\n" % (b"a" * 20_000),
        431,
        "HEADERS_TOO_LARGE",
    ),
    "many fields": (
        b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * limits.HTTP_HEADER_COUNT_MAX + b"\r\n",
        431,
        "HEADERS_TOO_LARGE",
    ),
    "never ending head": (b"GET / HTTP/1.1\r\nX: " + b"a" * 400_000, 431, "HEADERS_TOO_LARGE"),
    "declared body": (
        POST + b"Content-Length: %d\r\n\r\n" % (limits.HTTP_BODY_BYTES_MAX + 1),
        413,
        "PAYLOAD_TOO_LARGE",
    ),
    "declared control body": (
        b"POST /v1/tenants HTTP/1.1\r\n"
        + HOST
        + JSON
        + BEARER
        + b"Content-Length: %d\r\n\r\n" % (limits.HTTP_CONTROL_BODY_BYTES_MAX + 1),
        413,
        "PAYLOAD_TOO_LARGE",
    ),
    "chunked control body": (
        b"POST /v1/tenants HTTP/1.1\r\n"
        + HOST
        + JSON
        + BEARER
        + b"Transfer-Encoding: chunked\r\n\r\n11000\r\n"
        + b"x" * 0x11000,
        413,
        "PAYLOAD_TOO_LARGE",
    ),
    "unauthorized body": (
        b"POST /rpc HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 1000000\r\n\r\n" + b"x" * 9999,
        401,
        "UNAUTHORIZED",
    ),
}


@pytest.mark.parametrize("name", OVERSIZE)
async def test_what_is_over_a_limit_is_refused_while_it_comes(name: str) -> None:
    data, status, code = OVERSIZE[name]
    async with running() as front:
        client = await front.connect()
        await client.send(data)
        await _refused_and_closed(client, status, code)


async def test_a_refused_client_that_sends_on_still_gets_its_answer() -> None:
    async with running() as front:
        client = await front.connect()
        await client.send(POST + b"Content-Length: 99999999\r\n\r\n" + b"x" * 2_000_000)
        assert (await client.response()).status == 413


ROUTES = [
    ("/nowhere", "GET", 404, "NOT_FOUND", None),
    ("/", "GET", 404, "NOT_FOUND", None),
    ("/rpc/", "POST", 404, "NOT_FOUND", None),
    ("/%72pc", "POST", 404, "NOT_FOUND", None),
    ("/RPC", "POST", 404, "NOT_FOUND", None),
    ("/v1/tenantsx", "GET", 404, "NOT_FOUND", None),
    ("/channels/webhook", "POST", 404, "NOT_FOUND", None),
    ("/channels/webhook/", "POST", 404, "NOT_FOUND", None),
    ("/channels/webhook/UPPER", "POST", 404, "NOT_FOUND", None),
    ("/channels/webhook/../../rpc", "POST", 404, "NOT_FOUND", None),
    ("/channels/webhook/a/b", "POST", 404, "NOT_FOUND", None),
    ("/channels/webhook/a%2Fb", "POST", 404, "NOT_FOUND", None),
    ("/rpc", "GET", 405, "METHOD_NOT_ALLOWED", "POST"),
    ("/rpc", "OPTIONS", 405, "METHOD_NOT_ALLOWED", "POST"),
    ("/rpc", "DELETE", 405, "METHOD_NOT_ALLOWED", "POST"),
    ("/healthz", "POST", 405, "METHOD_NOT_ALLOWED", "GET, HEAD"),
    ("/readyz", "DELETE", 405, "METHOD_NOT_ALLOWED", "GET, HEAD"),
    ("/channels/webhook/a", "GET", 405, "METHOD_NOT_ALLOWED", "POST"),
    ("/v1/tenants", "TRACE", 405, "METHOD_NOT_ALLOWED", "GET, POST"),
    ("/rpc?a=b", "POST", 400, "INVALID_REQUEST", None),
    ("/healthz?verbose", "GET", 400, "INVALID_REQUEST", None),
    ("/channels/webhook/a?b", "POST", 400, "INVALID_REQUEST", None),
]


async def test_unknown_paths_wrong_verbs_and_queries() -> None:
    async with running() as front:
        client = await front.connect()
        for target, verb, status, code, allowed in ROUTES:
            body = b"{}" if verb == "POST" else None
            answer = await client.ask(request(target, body, verb=verb))
            assert (answer.status, answer.code) == (status, code), target
            assert answer.headers.get("allow") == allowed, target


async def test_the_probes() -> None:
    async with running() as front:
        client = await front.connect()
        health = await client.ask(request("/healthz", token=None))
        assert (health.status, health.json) == (200, {"status": "ok"})
        ready = await client.ask(request("/readyz", token=None))
        assert ready.json == {"status": "ready", "notices": list(NOTICES)}
        await client.send(request("/healthz", token=None, verb="HEAD"))
        head = await client.response(to_head=True)
        assert head.headers["content-length"] == str(len(health.body))
        await client.send(request("/nowhere", token=None, verb="HEAD"))
        assert (await client.response(to_head=True)).status == 404
        assert (await client.ask(request("/healthz", token=None))).status == 200


async def test_only_known_hosts_are_served() -> None:
    async with running(
        settings={"allowed_hosts": ("localhost", "[::1]", "gateway.example")}
    ) as front:
        client = await front.connect()
        for host in ("localhost", "LOCALHOST:18789", "[::1]:80", "gateway.example"):
            answer = await client.ask(request("/healthz", token=None, host=host))
            assert answer.status == 200, host
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1", "localhost."):
            answer = await client.ask(request("/rpc", rpc_body(), host=host))
            assert (answer.status, answer.code) == (403, "FORBIDDEN"), host
            bad = request("/rpc", rpc_body(), host=host, token=None)
            assert (await client.ask(bad)).status == 403, host


async def test_a_body_must_be_declared_json() -> None:
    async with running() as front:
        await front.worker(echo=True)
        client = await front.connect()
        length = f"Content-Length: {len(rpc_body())}"
        for kind in ("", "text/plain", "application/jsonp", "application/x-www-form-urlencoded"):
            extra = (f"Content-Type: {kind}", length) if kind else (length,)
            data = request("/rpc", None, *extra, verb="POST") + rpc_body()
            answer = await client.ask(data)
            assert (answer.status, answer.code) == (415, "UNSUPPORTED_MEDIA_TYPE"), kind
            assert "application/json" in answer.json["error"]["message"]
        packed = ("Content-Type: application/json", "Content-Encoding: gzip", length)
        answer = await client.ask(request("/rpc", None, *packed, verb="POST") + rpc_body())
        assert (answer.status, answer.code) == (415, "UNSUPPORTED_MEDIA_TYPE")
        kind = "Content-Type: Application/JSON; charset=utf-8"
        answer = await client.ask(request("/rpc", None, kind, length, verb="POST") + rpc_body())
        assert answer.status == 200


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(
            rpc("one")
            + request("/healthz", token=None)
            + rpc("two", 1, "Connection: close")
            + rpc("never")
        )
        worker.result(await worker.next_call(), b'"one"')
        assert (await client.response()).json["result"] == "one"
        assert (await client.response()).json == {"status": "ok"}
        worker.result(await worker.next_call(), b'"two"')
        last = await client.response()
        assert last.json["result"] == "two"
        assert last.headers["connection"] == "close"
        assert await client.at_end()
        assert worker.calls.empty()


async def test_many_more_pipelined_requests_than_are_read_ahead() -> None:
    async with running() as front:
        await front.worker(echo=True)
        client = await front.connect()
        count = 2000
        pipelined = b"".join(rpc("m", number) for number in range(count))
        client.writer.write(pipelined)
        for number in range(count):
            assert (await client.response()).json["id"] == number


async def test_a_fault_after_good_requests_does_not_hurt_them() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(rpc("good") + b"nonsense\r\n\r\n")
        call = await worker.next_call()
        await front.once(request("/healthz", token=None))
        worker.result(call, b"1")
        assert (await client.response()).status == 200
        await _refused_and_closed(client, 400, "MALFORMED_REQUEST")


async def test_chunked_bodies_and_their_trailers() -> None:
    async with running() as front:
        await front.worker(echo=True)
        client = await front.connect()
        body = rpc_body("m", 1, text="x" * 100)
        chunks = b"".join(b"1;ext=1\r\n%c\r\n" % byte for byte in body)
        data = POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nX-Trailer: 1\r\n\r\n"
        for _ in range(2):
            assert (await client.ask(data)).json["result"] == {"text": "x" * 100}


async def test_expect_100_continue() -> None:
    async with running() as front:
        await front.worker(echo=True)
        client = await front.connect()
        body = rpc_body()
        head = request(
            "/rpc",
            None,
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Expect: 100-continue",
            verb="POST",
        )
        await client.send(head)
        assert (await client.head()).status == 100
        assert (await client.ask(body)).status == 200
        # Who does not wait for it gets it not in between.
        await client.send(head + body)
        assert (await client.response()).status == 200
        # A refusal comes instead of the leave to go on.
        await client.send(head.replace(b"/rpc", b"/nowhere"))
        await _refused_and_closed(client, 404, "NOT_FOUND")


async def test_the_leave_to_go_on_comes_after_earlier_answers() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        body = rpc_body("second")
        head = request(
            "/rpc",
            None,
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Expect: 100-continue",
            verb="POST",
        )
        await client.send(rpc("first") + head)
        worker.result(await worker.next_call(), b"1")
        assert (await client.response()).status == 200
        assert (await client.head()).status == 100
        await client.send(body)
        worker.result(await worker.next_call(), b"2")
        assert (await client.response()).json["result"] == 2


async def test_http_1_0_is_answered_and_closed() -> None:
    async with running() as front:
        client = await front.connect()
        await client.send(b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = await client.response()
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert await client.at_end()
        client = await front.connect()
        await client.send(b"GET /healthz HTTP/1.0\r\nHost: evil.example\r\n\r\n")
        assert (await client.response()).status == 403


SHORT: dict[str, Any] = {
    "HTTP_HEADER_SECONDS": 0.4,
    "HTTP_BODY_SECONDS": 0.4,
    "HTTP_IDLE_SECONDS": 0.4,
}


async def test_slow_heads_and_bodies_are_timed_out() -> None:
    async with running(limits=SHORT) as front:
        worker = await front.worker()
        slow_head, slow_body = await front.connect(), await front.connect()
        await slow_head.send(b"GET /healthz HTT")
        await slow_body.send(rpc()[:-5])
        await _refused_and_closed(slow_head, 408, "REQUEST_TIMEOUT")
        await _refused_and_closed(slow_body, 408, "REQUEST_TIMEOUT")
        assert worker.calls.empty()


async def test_idle_connections_are_closed_silently() -> None:
    async with running(limits=SHORT) as front:
        new, used, blank = [await front.connect() for _ in range(3)]
        assert (await used.ask(request("/healthz", token=None))).status == 200
        await blank.send(b"\r\n")
        for client in (new, used, blank):
            assert await client.at_end()


async def test_waiting_for_an_answer_is_not_being_idle() -> None:
    async with running(limits=SHORT) as front:
        worker = await front.worker()
        waits, idle = await front.connect(), await front.connect()
        await waits.send(rpc())
        call = await worker.next_call()
        assert await idle.at_end()
        worker.result(call, b"1")
        assert (await waits.response()).status == 200


async def test_connections_are_bounded() -> None:
    async with running(limits={"HTTP_CONNECTIONS_MAX": 3}) as front:
        clients = [await front.connect() for _ in range(3)]
        for client in clients:
            assert (await client.ask(request("/healthz", token=None))).status == 200
        late = await front.connect()
        await _refused_and_closed(late, 503, "UNAVAILABLE")
        await clients[0].close()
        await clients[1].ask(request("/healthz", token=None))
        assert (await front.once(request("/healthz", token=None))).status == 200


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    async with running(limits={"HTTP_WRITE_SECONDS": 0.3, "HTTP_CONNECTIONS_MAX": 1}) as front:
        await front.worker(echo=True)
        client = await front.connect(receive_buffer=4096)
        client.stop_reading()
        await client.send(rpc("m", text="x" * 7_000_000) + rpc("after that"))
        # It holds the only place until it is cut off.
        while (await front.once(request("/healthz", token=None))).status == 503:
            pass


async def test_a_client_that_sends_on_after_its_last_request_is_not_read() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(rpc("last", 1, "Connection: close"))
        call = await worker.next_call()
        sending = asyncio.create_task(client.send(b"x" * 50_000_000))
        for _ in range(20):
            await front.once(request("/healthz", token=None))
        assert not sending.done()
        worker.result(call, b"1")
        assert (await client.response()).status == 200
        sending.cancel()


def _resident_bytes(front: Front) -> int:
    statm = Path(f"/proc/{front.process.pid}/statm").read_text(encoding="ascii")
    return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_unauthorized_floods_of_body_cost_no_memory() -> None:
    async with running(limits={"AUTH_FAILURES_FREE": 1000}) as front:
        before = _resident_bytes(front)
        for _ in range(20):
            client = await front.connect()
            data = POST.replace(b"a1", b"00") + b"Content-Length: 8000000\r\n\r\n"
            await client.send(data + b"x" * 500_000)
            assert (await client.response()).status == 401
        assert _resident_bytes(front) - before < 8 * limits.MIB


async def test_the_forwarded_address_is_nobodys_word() -> None:
    async with running() as front:
        bad = request("/rpc", b"{}", "X-Forwarded-For: 10.9.8.7", token="tk_acme_" + "0" * 32)
        assert (await front.once(bad)).status == 401
        (failed,) = [line for line in front.log if line["event"] == "authentication failed"]
        assert failed["address"] == "127.0.0.1"
