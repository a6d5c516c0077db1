"""A closed-loop HTTP client: every connection sends its next request when the last is answered."""

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple, cast

import uvloop

_BODY_MARK: Final = b"\r\n\r\n"


class Load(NamedTuple):
    """What one round measured; latencies in ms."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    failures: int


class _Connection(asyncio.Protocol):
    def __init__(self, request: bytes, latencies: list[float], stop_at: float) -> None:
        self.done: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        self.failures = 0
        self._request: Final = request
        self._latencies: Final = latencies
        self._stop_at: Final = stop_at
        self._buffer = b""
        self._expected = 0
        self._transport: asyncio.Transport
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._expected:
            head, mark, _ = self._buffer.partition(_BODY_MARK)
            if not mark:
                return
            lower = head.lower()
            length = lower.index(b"content-length:") + len(b"content-length:")
            end = lower.find(b"\r\n", length)
            size = int(lower[length : end if end >= 0 else None])
            self._expected = len(head) + len(mark) + size
            if b" 200 " not in head[:15]:
                self.failures += 1
        if len(self._buffer) < self._expected:
            return
        now = time.perf_counter()
        self._latencies.append(now - self._sent_at)
        self._buffer = b""
        self._expected = 0
        if now < self._stop_at:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or self._expected:
            self.failures += 1
        if not self.done.done():
            self.done.set_result(None)


def post(path: str, body: bytes, token: str) -> bytes:
    """Give the bytes of a request."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def run(
    address: tuple[str, int], requests: Sequence[bytes], connections: int, seconds: float
) -> Load:
    """Send requests over and over, each connection one of them; gives rate and latencies.

    A client keeps its connection and its token, so the requests are dealt out once.
    """
    latencies: list[float] = []

    async def drive() -> int:
        loop = asyncio.get_running_loop()
        stop_at = time.perf_counter() + seconds
        opened = [
            (
                await loop.create_connection(
                    partial(_Connection, requests[number % len(requests)], latencies, stop_at),
                    *address,
                )
            )[1]
            for number in range(connections)
        ]
        await asyncio.gather(*(connection.done for connection in opened))
        return sum(connection.failures for connection in opened)

    started = time.perf_counter()
    failures = uvloop.run(drive())
    elapsed = time.perf_counter() - started
    return Load(
        len(latencies) / elapsed,
        percentile(latencies, 50) * 1000,
        percentile(latencies, 99) * 1000,
        failures,
    )


def summary(rounds: list[Load]) -> dict[str, float]:
    """Give the median round."""
    return {
        "requests_per_second": round(statistics.median(r.requests_per_second for r in rounds)),
        "p50_ms": round(statistics.median(r.p50_ms for r in rounds), 3),
        "p99_ms": round(statistics.median(r.p99_ms for r in rounds), 3),
        "failures": sum(r.failures for r in rounds),
    }


@contextlib.contextmanager
def giving_way() -> Iterator[None]:
    """Have this process take no processor from one that has just got it (sched(7))."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def percentile(values: list[float], percent: float) -> float:
    """Give the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
