"""The client, where it depends on what comes when: servers that wait for the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from protocol import egress
from supervisor.egress.client import Body, Client
from supervisor.egress.upstream import BrokenOffError, Target
from tests.supervisor.egress import asking

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def answered(then: bytes, *, ends: bool) -> AsyncIterator[tuple[Body, asyncio.Event]]:
    """A body whose first chunk is `hello`; with the event it goes on with `then`."""
    go_on, over = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"5\r\nhello\r\n")
        await go_on.wait()
        writer.write(then)
        if not ends:
            await over.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = egress.Settings(ledger_directory="/", allow_hosts=(host,))
    client = Client(settings, trust=asking.TRUST)
    model = egress.Model(provider="p", upstream_model="m")
    url = f"http://{host}"
    target = Target("m", model, egress.Provider(type="openai", base_url=url), "")
    try:
        response = await client.post(target, url, {}, b"{}")
        yield client.body(response, "id"), go_on
        response.close()
    finally:
        over.set()
        await client.close()
        server.close()


@pytest.mark.parametrize(
    ("then", "ends"),
    [(b"zz\r\nno chunk\r\n0\r\n\r\n", False), (b"", True), (b"5\r\nhel", True), (b"fffff", True)],
)
async def test_a_body_that_breaks_is_told_at_once(then: bytes, ends: bool) -> None:
    async with answered(then, ends=ends) as (body, go_on):
        assert await body.read() == b"hello"
        go_on.set()
        with pytest.raises(BrokenOffError):
            await body.whole()


async def test_a_body_that_ends_is_at_its_end() -> None:
    async with answered(b"1\r\n!\r\n0\r\n\r\n", ends=True) as (body, go_on):
        assert await body.read() == b"hello"
        go_on.set()
        assert await body.whole() == b"!"
