import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from protocol.spawn import FrontSettings
from supervisor import tls
from tests.certificates import paths
from tests.supervisor.front.harness import (
    PATIENCE_SECONDS,
    SETTINGS,
    Client,
    Front,
    request,
    rpc,
    running,
    soon,
)
from tests.supervisor.front.raw_socket import CLOSE, RawSocket, frame, message, upgrade


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    tls.stage(paths.FIRST, paths.FIRST_KEY, tmp_path / "tls", None)
    return tmp_path / "tls"


def _trust(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


async def _connect(front: Front, context: ssl.SSLContext) -> Client:
    opening = asyncio.open_connection(
        "127.0.0.1", front.port, ssl=context, server_hostname="localhost"
    )
    return Client(*await soon(opening))


async def test_requests_over_tls_are_served(staged: Path) -> None:
    async with running(settings={"tls_directory": str(staged)}) as front:
        await front.worker(echo=True)
        client = await _connect(front, _trust(paths.FIRST))
        for text in ("x", "y" * 500_000):
            answer = await client.ask(rpc("m", 1, text=text))
            assert answer.json["result"] == {"text": text}
        assert client.writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        await client.send(request("/healthz", None, "Connection: close", token=None))
        assert (await client.response()).status == 200
        assert await client.at_end()
        await client.close()


async def test_a_websocket_over_tls(staged: Path) -> None:
    async with running(settings={"tls_directory": str(staged)}) as front:
        await front.worker(echo=True)
        client = await _connect(front, _trust(paths.FIRST))
        await client.send(upgrade() + message("m", 0))
        assert (await client.head()).status == 101
        opened = RawSocket(client)
        assert (await opened.receive()).json["id"] == 0
        for number, text in enumerate(("x", "y" * 500_000)):
            answer = await opened.ask(message("m", number, params={"text": text}))
            assert answer["result"] == {"text": text}
        await opened.send(frame(b"", CLOSE))
        assert (await opened.receive()).opcode == CLOSE
        assert await client.at_end()


async def test_a_renewed_certificate_is_used_without_a_pause(staged: Path) -> None:
    settings = {"tls_directory": str(staged)}
    async with running(settings=settings) as front:
        await front.worker(echo=True)
        before = await _connect(front, _trust(paths.FIRST))
        tls.stage(paths.SECOND, paths.SECOND_KEY, staged, None)
        renewed = FrontSettings(
            allowed_hosts=SETTINGS.allowed_hosts, tls_directory=settings["tls_directory"]
        )
        await soon(front.end.call("front.configure", renewed))
        after = await _connect(front, _trust(paths.SECOND))
        with pytest.raises(ssl.SSLCertVerificationError):
            await _connect(front, _trust(paths.FIRST))
        for client in (before, after):
            assert (await client.ask(rpc())).status == 200
            await client.close()


async def test_who_does_not_speak_tls_hears_nothing(staged: Path) -> None:
    async with running(settings={"tls_directory": str(staged)}) as front:
        for data in (request("/healthz", token=None), b"\x16\x03\x01\x02\x00\x01\xff", b"\0" * 999):
            client = await front.connect()
            await client.send(data)
            client.writer.write_eof()
            said = await _rest(client)
            assert b"HTTP" not in said
            assert len(said) < 64  # an alert at the most
        client = await _connect(front, _trust(paths.FIRST))
        assert (await client.ask(request("/healthz", token=None))).status == 200
        await client.close()


async def _rest(client: Client) -> bytes:
    try:
        return await soon(client.reader.read())
    except ConnectionResetError:
        return b""


async def test_handshakes_take_places_and_end(staged: Path) -> None:
    limits = {"TLS_HANDSHAKE_SECONDS": 1.0}
    settings = {"tls_directory": str(staged), "connections_per_address_max": 2}
    async with running(limits=limits, settings=settings) as front:
        silent = [await front.connect() for _ in range(2)]
        refused = socket.create_connection(("127.0.0.1", front.port))
        with refused:
            await soon(asyncio.to_thread(_ends, refused))
        for client in silent:
            await _rest(client)
        client = await _connect_when_there_is_room(front)
        assert (await client.ask(request("/healthz", token=None))).status == 200
        await client.close()


async def _connect_when_there_is_room(front: Front) -> Client:
    # Who was cut off hears so a moment before the place is free.
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with contextlib.suppress(ConnectionError):
                return await _connect(front, _trust(paths.FIRST))


def _ends(sock: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        assert sock.recv(1) == b""


async def test_a_drain_waits_for_a_handshake_no_longer_than_it_may_take(staged: Path) -> None:
    settings = {"tls_directory": str(staged)}
    async with running(limits={"TLS_HANDSHAKE_SECONDS": 1.0}, settings=settings) as front:
        silent = await front.connect()
        # Whoever came after it is served, so it has been accepted too.
        client = await _connect(front, _trust(paths.FIRST))
        assert (await client.ask(request("/healthz", token=None))).status == 200
        await client.close()
        front.drain(0.5)
        await _rest(silent)
        assert await front.exit_code() == 0
