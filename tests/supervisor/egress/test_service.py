"""A real egress, asked by ends of links as workers have them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from protocol import aio, frames
from protocol.egress import Place, Settings
from protocol.errors import GatewayError
from protocol.link import ANSWERS
from protocol.models import ModelAnswer, ModelPiece
from protocol.quotas import NO_QUOTA
from protocol.spawn import LinkLost
from supervisor.child import Exit
from supervisor.egress import confinement
from supervisor.egress_process import EgressProcess
from tests.supervisor.egress.tilling import rows

SECONDS = 20.0
HELLO = [{"role": "user", "content": [{"type": "text", "text": "one two three four"}]}]
GOOD: dict[str, dict[str, Any]] = {
    "model": {"model": "builtin/echo", "messages": HELLO},
    "embed": {"model": "builtin/echo", "texts": ["hello"]},
    "fetch": {"url": "http://example.org/"},
    "key.set": {"provider": "openai", "key": "sk-of-its-own"},
}


class End:
    """A worker's end of its link; it hears nothing but answers."""

    def __init__(self) -> None:
        self.link: aio.LinkEnd
        self.closed = asyncio.Event()

    async def ask(self, method: str, **params: Any) -> Any:
        async with asyncio.timeout(SECONDS):
            return json.loads(await self.link.call(method, params))

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None: ...

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None: ...

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None: ...

    def on_notice(self, end: aio.LinkEnd, frame: object) -> None: ...

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        self.closed.set()


class House:
    """An egress, and what it says of links."""

    def __init__(self, ledger: Path) -> None:
        self.ledger = ledger
        self.lost: asyncio.Queue[LinkLost] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.process = EgressProcess(
            self.lost.put_nowait, lambda _: None, self._on_exit, structlog.get_logger()
        )

    def _on_exit(self, _process: EgressProcess, _status: Exit) -> None:
        self.ended.set()

    async def worker(self, tenant: str, generation: int = 1) -> End:
        ours, theirs = socket.socketpair()
        with theirs:
            place = Place(tenant=tenant, generation=generation, quota=NO_QUOTA)
            self.process.place(place, theirs)
        end = End()
        end.link = await aio.attach(ours, ANSWERS, end)
        return end


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[House]:
    house = House(directory)
    await house.process.start(
        Settings(ledger_directory=str(directory), policy=confinement.policy())
    )
    try:
        yield house
    finally:
        await house.process.stop()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with running(tmp_path) as house:
        yield house


async def test_a_tenant_is_the_links_whatever_a_call_says(house: House) -> None:
    acme, globex = await house.worker("acme"), await house.worker("globex")
    for name in ("tenant", "tenantId", "tenant_id"):
        for method, good in GOOD.items():
            with pytest.raises(GatewayError) as refusal:
                await acme.ask(method, **good, **{name: "globex"})
            assert refusal.value.code.name == "INVALID_REQUEST"
            assert name in refusal.value.message
    answer = await acme.ask("model", model="builtin/echo", messages=HELLO, session_key="globex")
    assert answer["text"] == "echo: one two three four"
    assert [entry.tenant for entry in rows(house.ledger)] == ["acme"]
    await globex.ask("models")  # its link is as it was


async def test_pieces_come_as_they_are_taken_and_a_cancelled_call_is_settled(house: House) -> None:
    acme = await house.worker("acme")
    replies: asyncio.Queue[aio.Reply] = asyncio.Queue()
    body = json.dumps({"model": "builtin/echo", "messages": HELLO, "stream": True}).encode()

    async def next_reply() -> aio.Reply:
        async with asyncio.timeout(SECONDS):
            return await replies.get()

    call = acme.link.start_call("model", body, replies.put_nowait, credit=1)
    first = await next_reply()
    assert isinstance(first, frames.Chunk)
    said = msgspec.json.decode(first.data, type=ModelPiece).text
    await acme.ask("models")  # all that could have come by now has
    assert replies.empty()
    acme.link.link.grant(call, 16)
    acme.link.flush()
    while isinstance(reply := await next_reply(), frames.Chunk):
        said += msgspec.json.decode(reply.data, type=ModelPiece).text
    assert isinstance(reply, frames.End)
    assert said == "echo: one two three four"
    assert msgspec.json.decode(reply.body, type=ModelAnswer).spent.output > 0

    call = acme.link.start_call("model", body, replies.put_nowait, credit=1)
    assert isinstance(await next_reply(), frames.Chunk)
    acme.link.link.cancel(call)
    acme.link.flush()
    failure = await next_reply()
    assert isinstance(failure, frames.Failure)
    assert failure.code == "CANCELLED"
    cut = rows(house.ledger)[-1]
    assert cut.estimated


async def test_who_breaks_a_link_is_told_of_and_who_closes_it_is_not_blamed(house: House) -> None:
    breaks, closes = await house.worker("acme", 7), await house.worker("globex", 8)
    breaks.link.start_call("quotas", b"{}", lambda _: None)
    async with asyncio.timeout(SECONDS):
        lost = await house.lost.get()
    assert (lost.tenant, lost.generation) == ("acme", 7)
    assert lost.reason == "a call of 'quotas', which egress does not have"
    closes.link.close()
    async with asyncio.timeout(SECONDS):
        lost = await house.lost.get()
    assert (lost.tenant, lost.generation, lost.reason) == ("globex", 8, None)
