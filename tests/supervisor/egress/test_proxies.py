"""The proxy of sandboxes in one process: what it counts, and how doors end."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from protocol import descriptors, egress, limits
from protocol.errors import ErrorCode, GatewayError
from supervisor.egress.proxies import Proxies
from supervisor.front.log import Log

SECONDS = 10.0


class Rig:
    """A proxy with one door, a server that its profile opens, and what was charged."""

    def __init__(self) -> None:
        self.charges: list[tuple[str, str, int]] = []
        self.charged = asyncio.Event()
        self.settings = egress.Settings(ledger_directory="/nowhere")
        self.is_blocked = False
        self.proxies = Proxies(lambda: self.settings, self._moved, self._may_spend, Log())
        self.launcher, theirs = descriptors.pair()
        self.proxies.use(theirs)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.place = ""

    def _moved(self, tenant: str, what: str, count: int) -> None:
        self.charges.append((tenant, what, count))
        self.charged.set()

    def _may_spend(self, tenant: str) -> None:
        assert tenant == "acme"
        if self.is_blocked:
            raise GatewayError(ErrorCode.QUOTA_EXCEEDED, "all is spent")

    async def serve(self) -> asyncio.Server:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(limits.KIB):
                writer.write(data)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        self.place = "{}:{}".format(*server.sockets[0].getsockname())
        self.settings = msgspec.structs.replace(
            self.settings, sandbox_hosts={"echo": (self.place,)}, allow_hosts=(self.place,)
        )
        return server

    def hand(self, message: msgspec.Struct, *given: int) -> None:
        descriptors.send(self.launcher, msgspec.msgpack.encode(message), given)

    def open(self, profile: str = "echo") -> None:
        listener = egress.Listener(tenant="acme", sandbox_id="one", profile=profile)
        self.hand(listener, self.listener.fileno())

    async def tunnel(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.listener.getsockname())
        writer.write(f"CONNECT {self.place} HTTP/1.1\r\n\r\n".encode())
        self.said = await reader.readuntil(b"\r\n\r\n")
        return reader, writer


async def end_of(reader: asyncio.StreamReader) -> None:
    """Wait until the other end has gone."""
    with contextlib.suppress(ConnectionResetError):
        await reader.read()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    server = await made.serve()
    async with asyncio.timeout(SECONDS):
        yield made
    made.proxies.close()
    made.launcher.close()
    made.listener.close()
    server.close()
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left, timeout=SECONDS)


async def test_a_sandbox_is_one_charge_however_many_connections_it_had(rig: Rig) -> None:
    rig.open()
    for _ in range(5):
        reader, writer = await rig.tunnel()
        writer.write(b"x" * 100)
        assert await reader.readexactly(100) == b"x" * 100
        writer.close()
    assert not rig.charges
    rig.hand(egress.Closed(sandbox_id="one"))
    await rig.charged.wait()
    assert rig.charges == [("acme", "sandbox", 1000)]


async def test_much_is_charged_before_the_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PROXY_CHARGE_BYTES", 1000)
    rig.open()
    _, writer = await rig.tunnel()
    writer.write(b"x" * 1000)
    await rig.charged.wait()
    assert rig.charges[0][2] >= 1000
    writer.close()


async def test_connections_end_with_their_door(rig: Rig) -> None:
    rig.open()
    reader, writer = await rig.tunnel()
    rig.hand(egress.Closed(sandbox_id="one"))
    await end_of(reader)
    writer.close()


async def test_another_launcher_has_doors_of_its_own(rig: Rig) -> None:
    rig.open()
    reader, writer = await rig.tunnel()
    rig.launcher.close()
    rig.launcher, theirs = descriptors.pair()
    rig.proxies.use(theirs)
    await end_of(reader)
    writer.close()
    rig.open()
    _, writer = await rig.tunnel()
    assert rig.said.startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_profile_that_is_gone_opens_nothing(rig: Rig) -> None:
    rig.open("other")
    _, writer = await rig.tunnel()
    assert rig.said.startswith(b"HTTP/1.1 403")
    writer.close()


async def test_what_is_opened_is_what_is_in_force(rig: Rig) -> None:
    rig.open()
    rig.settings = msgspec.structs.replace(rig.settings, allow_hosts=())
    _, writer = await rig.tunnel()
    assert rig.said.startswith(b"HTTP/1.1 403")
    writer.close()


async def test_who_may_spend_nothing_reaches_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PROXY_CHARGE_BYTES", 1000)
    rig.open()
    reader, writer = await rig.tunnel()
    rig.is_blocked = True
    _, refused = await rig.tunnel()
    assert rig.said.startswith(b"HTTP/1.1 429")
    refused.close()
    # One that is there ends with the next charge.
    writer.write(b"x" * 1000)
    await end_of(reader)
    assert rig.charges
    writer.close()
