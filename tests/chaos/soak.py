"""Requests of every kind for a long time, and what each process holds before and after.

The base is taken when the warm-up has been answered, every connection is closed and each process
has had a while to give back what it gives back later: the caches are full by then. What is held at
the end is taken in the same way.
"""

import asyncio
import contextlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple

import psutil
import uvloop

from tests.e2e.gateway import Gateway

CLIENTS: Final = 16
TENANT: Final = "soaked"
SETTLE_SECONDS: Final = 12.0
"""Longer than what lingers: connections, throttled answers, a cut-off socket."""
SAY_EVERY: Final = 20_000
KEYS: Final = 50
ANSWER_SECONDS: Final = 30.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Held(NamedTuple):
    """What a process holds."""

    rss: int
    descriptors: int
    threads: int


class Soak:
    """One gateway under requests of every kind.

    Args:
        gateway: Which.
        say: Told of progress in a line.
    """

    def __init__(self, gateway: Gateway, say: Callable[[str], None]) -> None:
        self._gateway = gateway
        self._say = say
        self._token = gateway.create(TENANT)
        gateway.rpc(self._token, "health")
        host, port = gateway.address.split(":")
        self._address = host, int(port)
        self._left = 0
        self.counts: Counter[str] = Counter()
        self.base: dict[str, Held] = {}
        self.after: dict[str, Held] = {}

    def run(self, warm_up: int, requests: int, growth_max: float) -> list[str]:
        """Send the warm-up, take the base, send the requests; gives what has grown or failed."""
        self._drive(warm_up)
        self.base = self._held()
        self._drive(requests)
        self.after = self._held()
        broken = [f"{what}: {n} times" for what, n in self.counts.items() if what.startswith("!")]
        if self.base.keys() != self.after.keys():
            broken.append(f"other processes: {sorted(self.base)} then {sorted(self.after)}")
        for name in self.base.keys() & self.after.keys():
            before, after = self.base[name], self.after[name]
            if after.rss > before.rss * (1 + growth_max):
                broken.append(f"{name}: RSS grew from {before.rss} to {after.rss} bytes")
            if after[1:] > before[1:]:
                broken.append(f"{name}: descriptors, threads grew from {before[1:]} to {after[1:]}")
        return broken

    def figures(self) -> dict[str, object]:
        """Give what was held before and after, by process, and what was asked."""
        found: dict[str, object] = {"requests": dict(sorted(self.counts.items()))}
        for name, before in self.base.items():
            after = self.after.get(name)
            if after is not None:
                found[name] = (
                    f"RSS {before.rss / 2**20:.2f} -> {after.rss / 2**20:.2f} MiB"
                    f" ({after.rss / before.rss - 1:+.2%}),"
                    f" descriptors {before.descriptors} -> {after.descriptors},"
                    f" threads {before.threads} -> {after.threads}"
                )
        return found

    def _held(self) -> dict[str, Held]:
        threading.Event().wait(SETTLE_SECONDS)
        processes = {"supervisor": psutil.Process(self._gateway.pid)}
        for title, process in self._gateway.processes().items():
            processes[title.removeprefix("openclaw: ")] = process
        return {
            name: Held(process.memory_info().rss, process.num_fds(), process.num_threads())
            for name, process in processes.items()
        }

    def _rss(self) -> str:
        found = self._gateway.processes().items()
        each = ((title, process.memory_info().rss / 2**20) for title, process in found)
        return ", ".join(f"{title.removeprefix('openclaw: ')} {rss:.2f}" for title, rss in each)

    def _drive(self, requests: int) -> None:
        self._left = requests
        uvloop.run(self._all())

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        acts: list[Callable[[int], Awaitable[int]]] = [
            *[self._keep_alive] * 12,
            self._new_connections,
            self._socket,
            self._errors,
            self._aborted,
            self._cut_stream,
        ]
        for turn, act in enumerate(itertools.cycle(acts[number % 4 :] + acts[: number % 4])):
            if self._left <= 0:
                return
            async with asyncio.timeout(ANSWER_SECONDS):
                done = await act(number * 1000 + turn % KEYS)
            self.counts[act.__name__.strip("_")] += done
            before, self._left = self._left, self._left - done
            if before // SAY_EVERY != self._left // SAY_EVERY:
                self._say(f"{self._left} requests are left; RSS in MiB: {self._rss()}")

    def _request(self, method: str, params: object, *, token: str = "", accept: str = "") -> bytes:
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        body = json.dumps(call).encode()
        head = (
            "POST /rpc HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {token or self._token}\r\nContent-Length: {len(body)}\r\n"
        )
        if accept:
            head += f"Accept: {accept}\r\n"
        return head.encode() + b"\r\n" + body

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Streams]:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _ask(self, streams: Streams, request: bytes, *statuses: int) -> None:
        reader, writer = streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        _, _, length = head.lower().partition(b"content-length:")
        await reader.readexactly(int(length.split(b"\r\n", 1)[0]))
        status = int(head.split(b" ", 2)[1])
        if status not in statuses:
            self.counts[f"! status {status} instead of {statuses}"] += 1

    async def _keep_alive(self, number: int) -> int:
        """Read and write on one connection."""
        key = f"agent:main:soak:{number % KEYS}"
        async with self._connection() as streams:
            for method, params in (
                ("health", {}),
                ("sessions.create", {"key": key}),
                ("sessions.list", {"limit": 5}),
                ("chat.history", {"sessionKey": key, "limit": 5}),
                ("sessions.patch", {"key": key, "label": f"label {number}"}),
            ) * 4:
                await self._ask(streams, self._request(method, params), 200)
        return 20

    async def _new_connections(self, number: int) -> int:
        """One connection for each request."""
        del number
        for _ in range(5):
            async with self._connection() as streams:
                await self._ask(streams, self._request("health", {}), 200)
        return 5

    async def _socket(self, number: int) -> int:
        """Open a WebSocket, subscribe, and leave without a word."""
        del number
        head = (
            "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Authorization: Bearer {self._token}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        async with self._connection() as (reader, writer):
            writer.write(head.encode())
            await reader.readuntil(b"\r\n\r\n")
            for method in (b"events.subscribe", b"health"):
                call = b'{"jsonrpc":"2.0","id":1,"method":"%b"}' % method
                writer.write(b"\x81" + bytes([0x80 | len(call)]) + bytes(4) + call)
                first, size = await reader.readexactly(2)
                if size == 126:
                    size = int.from_bytes(await reader.readexactly(2), "big")
                await reader.readexactly(size)
                if first != 0x81:
                    self.counts[f"! a frame that begins with {first:#x}"] += 1
        return 3

    async def _errors(self, number: int) -> int:
        """Ask for what is refused, but for one bad token, which is slowed."""
        async with self._connection() as streams:
            await self._ask(streams, self._request("no.such", {}), 404)
            await self._ask(streams, self._request("health", {f"x{number}": 1}), 400)
            await self._ask(streams, self._request("sessions.get", {"key": "agent:main:no"}), 404)
            await self._ask(streams, b"GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404)
            await self._ask(streams, b"BAD \x00\r\n\r\n", 400)
        return 5

    async def _aborted(self, number: int) -> int:
        """Leave in the middle of a head, of a body, and before the answer."""
        whole = self._request("sessions.list", {"limit": number % 50 + 1})
        for size in (40, len(whole) - 3, len(whole)):
            async with self._connection() as (_, writer):
                writer.write(whole[:size])
                await asyncio.sleep(0)
        return 3

    async def _cut_stream(self, number: int) -> int:
        """Leave a stream that has begun."""
        key = f"agent:main:soak:{number % KEYS}"
        async with self._connection() as (reader, writer):
            # A transcript that grew would be what grows.
            for method in ("sessions.create", "sessions.reset"):
                await self._ask((reader, writer), self._request(method, {"key": key}), 200)
            request = self._request(
                "sessions.send", {"key": key, "message": "word " * 2000}, accept="text/event-stream"
            )
            writer.write(request)
            await reader.readuntil(b"\r\n\r\n")
        return 3
