"""A front as its neighbours see it: the test plays the supervisor, the workers and the clients."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from protocol import aio, descriptors, frames, names
from protocol.errors import GatewayError
from protocol.link import ANSWERS, LIVENESS, REQUESTS
from protocol.methods import ALL_SCOPES
from protocol.quotas import NO_QUOTA, Quota
from protocol.spawn import (
    ControlRequest,
    ControlResponse,
    FrontSettings,
    FrontSpec,
    LinkLost,
    TenantAccess,
    TenantsUpdate,
    TokenGrant,
    WakeParams,
    WorkerLink,
)

NOTICES: Final = ("nothing is isolated",)
REPOSITORY: Final = Path(__file__).parents[3]
SETTINGS: Final = FrontSettings(allowed_hosts=("127.0.0.1", "localhost", "[::1]"))
PATIENCE_SECONDS: Final = 20.0
ACME: Final = "tk_acme_" + "a1" * 16
GLOBEX: Final = "tk_globex_" + "b2" * 16

T = TypeVar("T")


async def soon(waited: Awaitable[T]) -> T:
    """Wait, but not for ever."""
    return await asyncio.wait_for(waited, PATIENCE_SECONDS)


def access(
    tenant: str,
    *tokens: str,
    enabled: bool = True,
    expires_at: int | None = None,
    quota: Quota = NO_QUOTA,
) -> TenantAccess:
    digests = {
        names.digest(token).hex(): TokenGrant(
            id=f"tok_{number:016x}", scopes=int(ALL_SCOPES), expires_at=expires_at
        )
        for number, token in enumerate(tokens)
    }
    return TenantAccess(tenant=tenant, enabled=enabled, tokens=digests, quota=quota)


BOTH: Final = (access("acme", ACME), access("globex", GLOBEX))


class Worker:
    """A worker's end of a link to the front, played by the test."""

    def __init__(self) -> None:
        self.end: aio.LinkEnd
        self.calls: asyncio.Queue[frames.Call] = asyncio.Queue()
        self.cancelled: asyncio.Queue[int] = asyncio.Queue()
        self.credited: asyncio.Queue[int] = asyncio.Queue()
        self.listening: asyncio.Queue[bool] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.echo = False
        self.served = 0

    async def next_call(self) -> frames.Call:
        return await soon(self.calls.get())

    def result(self, call: frames.Call, body: bytes) -> None:
        self.end.link.result(call.id, body)
        self.end.flush()

    def fail(self, call: frames.Call, error: GatewayError) -> None:
        self.end.fail(call.id, error)

    def chunk(self, call: frames.Call, data: bytes) -> None:
        self.end.link.chunk(call.id, data)
        self.end.flush()

    def stop(self, call: frames.Call, body: bytes) -> None:
        self.end.link.end(call.id, body)
        self.end.flush()

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        if self.echo:
            self.served += 1
            self.result(call, call.params)
        else:
            self.calls.put_nowait(call)

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        self.cancelled.put_nowait(call_id)

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        self.credited.put_nowait(call_id)

    def on_notice(self, end: aio.LinkEnd, frame: frames.Frame) -> None:
        assert isinstance(frame, frames.Event)
        assert frame.topic == "listen"
        self.listening.put_nowait(json.loads(frame.body))

    def event(self, name: str, payload: Any, cursor: str = "1-1-1") -> None:
        body = json.dumps({"cursor": cursor, "payload": payload}).encode()
        self.end.link.send(frames.Event(name, body))
        self.end.flush()

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        self.closed.set()


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The string code of a refusal."""
        body = self.json
        return str(body["error"]["data"]["code"] if "error" in body else body["code"])

    @property
    def events(self) -> list[tuple[str, Any]]:
        blocks = self.body.decode().split("\n\n")
        assert blocks.pop() == ""
        parsed = []
        for block in blocks:
            kind, data = block.split("\n")
            parsed.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        return parsed


class Client:
    """A raw connection to the front."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader: Final = reader
        self.writer: Final = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await soon(self.writer.drain())

    async def head(self) -> Response:
        """Read the head of a response."""
        text = (await soon(self.reader.readuntil(b"\r\n\r\n"))).decode("ascii")
        first, *lines = text.removesuffix("\r\n\r\n").split("\r\n")
        fields = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in fields}
        assert len(headers) == len(lines), text
        return Response(int(first.split(" ")[1]), headers, b"")

    async def response(self, *, to_head: bool = False) -> Response:
        head = await self.head()
        body = b""
        if head.headers.get("transfer-encoding") == "chunked":
            while chunk := await self.chunk():
                body += chunk
        elif "content-length" in head.headers:
            size = 0 if to_head else int(head.headers["content-length"])
            body = await soon(self.reader.readexactly(size))
        elif head.status not in (100, 204):
            body = await soon(self.reader.read())
        return head._replace(body=body)

    async def chunk(self) -> bytes:
        """Read one chunk of a chunked body; empty at its end."""
        size = int((await soon(self.reader.readuntil(b"\r\n"))), 16)
        data = await soon(self.reader.readexactly(size + 2))
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def at_end(self) -> bool:
        """Whether the front has closed without another byte."""
        with contextlib.suppress(ConnectionResetError):
            return await soon(self.reader.read()) == b""
        return True

    def stop_reading(self) -> None:
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()

    def go_on_reading(self) -> None:
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.resume_reading()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await soon(self.writer.wait_closed())

    async def ask(self, data: bytes) -> Response:
        await self.send(data)
        return await self.response()


class Front:
    """A running front."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes]
        self.port: int
        self.end: aio.LinkEnd
        self.calls: asyncio.Queue[frames.Call] = asyncio.Queue()
        self.notices: asyncio.Queue[frames.Frame] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.log: list[dict[str, Any]] = []
        self._channel: socket.socket
        self._listener: socket.socket
        self._stderr: asyncio.Task[None]
        self._opened: list[Client | Worker] = []
        self._generation = 0

    async def start(
        self, limits: dict[str, Any], settings: FrontSettings, supervised: frozenset[str]
    ) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        ours, theirs = socket.socketpair()
        self._channel, channel = descriptors.pair()
        program = (sys.executable, "-m", "tests.supervisor.front.program", json.dumps(limits))
        with theirs, channel:
            given = (theirs.fileno(), channel.fileno())
            self.process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [*program, *map(str, given)],
                pass_fds=given,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=REPOSITORY,
            )
        spec = msgspec.msgpack.encode(
            FrontSpec(
                settings=settings,
                version="1.2.3",
                notices=NOTICES,
                jail=b"",
                supervised=supervised,
            )
        )
        descriptors.send(self._channel, spec, [self._listener.fileno()])
        self.end = await aio.attach(
            ours, REQUESTS | ANSWERS | LIVENESS | {frames.Drained, frames.Event}, self
        )
        self._stderr = asyncio.create_task(self._read_log())

    async def stop(self) -> None:
        """End the front as the supervisor's death does; whatever it did must have gone well."""
        self.end.close()
        assert await self.exit_code() == 0
        assert [line for line in self.log if line["level"] == "error"] == []

    async def exit_code(self) -> int:
        await soon(self.closed.wait())
        await soon(self._stderr)
        return await soon(asyncio.to_thread(self.process.wait))

    async def release(self) -> None:
        """Leave nothing behind, whatever has happened."""
        if self.process.poll() is None:
            self.kill()
        self.end.close()
        await self.exit_code()
        for opened in self._opened:
            if isinstance(opened, Client):
                await opened.close()
            else:
                opened.end.close()
                await soon(opened.closed.wait())
        self._channel.close()
        self._listener.close()
        for line in self.log:
            sys.stdout.write(f"{line}\n")  # pytest shows it with a failure

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    async def _read_log(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        pipe = self.process.stderr
        assert pipe is not None
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        async for line in reader:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"level": "error", "event": line.decode()})
        transport.close()

    # As the supervisor.

    async def update(self, change: TenantsUpdate) -> None:
        await soon(self.end.call("tenants.update", change))

    async def next_call(self, method: str) -> frames.Call:
        call = await soon(self.calls.get())
        assert call.method == method
        return call

    async def next_wake(self) -> tuple[frames.Call, str]:
        call = await self.next_call("worker.wake")
        return call, msgspec.json.decode(call.params, type=WakeParams).tenant

    async def next_control(self) -> tuple[frames.Call, ControlRequest]:
        call = await self.next_call("control.request")
        return call, msgspec.json.decode(call.params, type=ControlRequest)

    def answer_control(self, call: frames.Call, status: int, body: Any) -> None:
        answer = ControlResponse(status=status, body=msgspec.Raw(json.dumps(body).encode()))
        self.answer(call, msgspec.json.encode(answer))

    def answer(self, call: frames.Call, body: bytes = b"{}") -> None:
        self.end.link.result(call.id, body)
        self.end.flush()

    async def next_lost_link(self) -> LinkLost:
        notice = await soon(self.notices.get())
        assert isinstance(notice, frames.Event)
        assert notice.topic == "worker.link_lost"
        return msgspec.json.decode(notice.body, type=LinkLost)

    def drain(self, seconds: float) -> None:
        self.end.link.send(frames.Drain(seconds))
        self.end.flush()

    def give_link(self, tenant: str, generation: int | None = None) -> socket.socket:
        """Hand the front a link, to the next generation; gives the worker's end of it."""
        if generation is None:
            self._generation = generation = self._generation + 1
        ours, theirs = socket.socketpair()
        link = WorkerLink(tenant=tenant, generation=generation)
        with theirs:
            descriptors.send(self._channel, msgspec.msgpack.encode(link), [theirs.fileno()])
        return ours

    def send_on_channel(self, payload: bytes, descriptor: int | None = None) -> None:
        given = [] if descriptor is None else [descriptor]
        descriptors.send(self._channel, payload, given)

    async def worker(
        self, tenant: str = "acme", *, echo: bool = False, generation: int | None = None
    ) -> Worker:
        worker = Worker()
        worker.echo = echo
        accepts = REQUESTS | {frames.Event}
        worker.end = await aio.attach(self.give_link(tenant, generation), accepts, worker)
        self._opened.append(worker)
        return worker

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        self.calls.put_nowait(call)

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        raise AssertionError(call_id)

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        raise AssertionError(call_id)

    def on_notice(self, end: aio.LinkEnd, frame: frames.Frame) -> None:
        self.notices.put_nowait(frame)

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        self.closed.set()

    async def next_in_the_queue(self) -> bytes:
        """What the next client in the listening socket's queue has sent."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        sock, _ = await soon(loop.sock_accept(self._listener))
        with sock:
            return await soon(loop.sock_recv(sock, 65536))

    # As clients.

    async def connect(self, *, receive_buffer: int = 0) -> Client:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await soon(asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port)))
        # A small limit, so that what the client does not read stays in the kernel.
        client = Client(*await asyncio.open_connection(sock=sock, limit=64 * 1024))
        self._opened.append(client)
        return client

    async def once(self, data: bytes) -> Response:
        """Ask on a connection of its own."""
        client = await self.connect()
        answer = await client.ask(data)
        await client.close()
        return answer


@contextlib.asynccontextmanager
async def running(
    *,
    limits: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    tenants: Iterable[TenantAccess] = BOTH,
    complete: bool = True,
    supervised: frozenset[str] = frozenset(),
) -> AsyncIterator[Front]:
    """A front that knows `tenants`."""
    front = Front()
    chosen = msgspec.structs.replace(SETTINGS, **(settings or {}))
    await front.start(limits or {}, chosen, supervised)
    try:
        await front.update(TenantsUpdate(known=list(tenants), complete=complete))
        yield front
        await front.stop()
    finally:
        await front.release()


def request(
    target: str = "/rpc",
    body: bytes | None = None,
    *extra: str,
    verb: str | None = None,
    token: str | None = ACME,
    host: str = "localhost",
) -> bytes:
    """Give the bytes of one request; with a body it is a POST of JSON."""
    lines = [f"{verb or ('GET' if body is None else 'POST')} {target} HTTP/1.1", f"Host: {host}"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *extra, "", ""]).encode("latin-1") + (body or b"")


def rpc_body(method: str = "echo", request_id: Any = 1, **params: Any) -> bytes:
    return json.dumps(
        {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    ).encode()


def rpc(method: str = "echo", request_id: Any = 1, *extra: str, **params: Any) -> bytes:
    return request("/rpc", rpc_body(method, request_id, **params), *extra)
