"""`/v1/chat/completions` through the gateway against the same requests to the upstream itself.

Client, upstream and all processes of the gateway share the machine. Rounds are in turn.
"""

import asyncio
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.benchmark import cost, load
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway
from tests.upstream.fake import FakeUpstream

CHUNKS: Final = 200
WORD: Final = b"word "
STREAMS: Final = 64
PACE_MS: Final = 10
PATH: Final = "/v1/chat/completions"


class Streamed(NamedTuple):
    """One round of streams; times in ms. `gaps`: between the pieces of one stream."""

    gaps_p50: float
    gaps_p99: float
    first_p50: float
    pieces_per_second: float
    failures: int


def body(model: str, *, stream: bool) -> bytes:
    """Give a request of a few hundred bytes."""
    asked = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. " * 4},
            {"role": "user", "content": "Tell me something about the sea, in a few words."},
        ],
        "max_tokens": 400,
        "stream": stream,
    }
    return json.dumps(asked).encode()


class _Stream(asyncio.Protocol):
    """Asks for streams one after another, and notes when their pieces come."""

    def __init__(self, request: bytes, times: int) -> None:
        self.done: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        self.gaps: Final[list[float]] = []
        self.first: Final[list[float]] = []
        self.failures = 0
        self.pieces = 0
        self._request: Final = request
        self._left = times
        self._tail = b""
        self._last = 0.0
        self._begun = self._answered = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses
        self._send()

    def _send(self) -> None:
        self._begun = self._answered = False
        self._last = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.failures += not self._answered and b" 200 " not in data[:15]
        self._answered = True
        seen = self._tail + data
        count = seen.count(WORD)
        self._tail = seen[seen.rfind(WORD) + len(WORD) if count else 0 :][-len(WORD) :]
        for _ in range(count):
            (self.gaps if self._begun else self.first).append(now - self._last)
            self._begun = True
            self._last = now
        self.pieces += count
        if seen.endswith(b"0\r\n\r\n"):
            self._left -= 1
            self._tail = b""
            if self._left:
                self._send()
            else:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.failures += exc is not None or self._left > 0
        if not self.done.done():
            self.done.set_result(None)


def streams(address: tuple[str, int], request: bytes, times: int) -> Streamed:
    """Have `STREAMS` connections stream so many answers each."""

    async def drive() -> list[_Stream]:
        loop = asyncio.get_running_loop()
        opened = [
            (await loop.create_connection(partial(_Stream, request, times), *address))[1]
            for _ in range(STREAMS)
        ]
        await asyncio.gather(*(stream.done for stream in opened))
        return opened

    started = time.perf_counter()
    opened = uvloop.run(drive())
    elapsed = time.perf_counter() - started
    gaps = [gap for stream in opened for gap in stream.gaps]
    first = [gap for stream in opened for gap in stream.first]
    return Streamed(
        load.percentile(gaps, 50) * 1000,
        load.percentile(gaps, 99) * 1000,
        load.percentile(first, 50) * 1000,
        sum(stream.pieces for stream in opened) / elapsed,
        sum(stream.failures for stream in opened),
    )


def figures(rounds: int, seconds: float) -> dict[str, Any]:
    """Measure whole answers at 1 and 64 connections, and streams at 64."""
    state_dir = make_state_dir()
    try:
        with FakeUpstream() as upstream:
            models = ("fake", f"fake/chunks:{CHUNKS}", f"fake/chunks:{CHUNKS}/pace:{PACE_MS}")
            config = {
                "providers": {"fake": {"type": "openai", "base_url": upstream.base_url}},
                "models": {model: {"provider": "fake"} for model in models},
                "billing": {"rate_card": {"fake*": {"input": 1, "output": 2}}},
                "egress": {"allow_hosts": [upstream.host_port]},
            }
            (state_dir / "config.yaml").write_text(json.dumps(config))
            with Gateway(state_dir) as gateway:
                return _measure(gateway, upstream, models, rounds, seconds)
    finally:
        remove_tree(state_dir)


def _measure(
    gateway: Gateway,
    upstream: FakeUpstream,
    models: tuple[str, str, str],
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    token = gateway.create("bench")
    host, port = gateway.address.split(":")
    ours, direct = (host, int(port)), ("127.0.0.1", upstream.port)
    plain, burst, paced = models
    found: dict[str, Any] = {}
    request = load.post(PATH, body(plain, stream=False), token)
    load.run(ours, [request], 64, 1)  # what is made at the first call is made
    processes = {name: process.pid for name, process in gateway.processes().items()}
    for connections in (1, 64):
        found[f"connections_{connections}"] = _whole(
            ours, direct, request, connections, rounds, seconds, processes
        )
    for name, model, times in (("burst", burst, 4), ("paced", paced, 2)):
        request = load.post(PATH, body(model, stream=True), token)
        found[f"{name}_streams_{STREAMS}"] = _streamed(ours, direct, request, times, rounds)
    return found


def _whole(
    ours: tuple[str, int],
    direct: tuple[str, int],
    request: bytes,
    connections: int,
    rounds: int,
    seconds: float,
    processes: dict[str, int],
) -> dict[str, Any]:
    through, bare = [], []
    spent: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(rounds):
        bare.append(load.run(direct, [request], connections, seconds))
        before = {name: cost.used([pid]) for name, pid in processes.items()}
        through.append(load.run(ours, [request], connections, seconds))
        count = round(through[-1].requests_per_second * seconds)
        for name, pid in processes.items():
            spent[name].append((cost.used([pid]) - before[name]).per(count)["cpu_us"])
    return {
        "gateway": load.summary(through),
        "direct": load.summary(bare),
        "added_p50_ms": round(
            statistics.median(
                one.p50_ms - other.p50_ms for one, other in zip(through, bare, strict=True)
            ),
            3,
        ),
        "cpu_us_per_request": {
            name.removeprefix("openclaw: "): round(statistics.median(each), 1)
            for name, each in spent.items()
            if statistics.median(each) >= 1
        },
    }


def _streamed(
    ours: tuple[str, int], direct: tuple[str, int], request: bytes, times: int, rounds: int
) -> dict[str, Any]:
    through, bare = [], []
    for _ in range(rounds):
        bare.append(streams(direct, request, times))
        through.append(streams(ours, request, times))
    shown: dict[str, Any] = {}
    for name, measured in (("gateway", through), ("direct", bare)):
        shown[name] = {
            "gap_p50_ms": round(statistics.median(each.gaps_p50 for each in measured), 3),
            "gap_p99_ms": round(statistics.median(each.gaps_p99 for each in measured), 3),
            "first_p50_ms": round(statistics.median(each.first_p50 for each in measured), 3),
            "pieces_per_second": round(
                statistics.median(each.pieces_per_second for each in measured)
            ),
            "failures": sum(each.failures for each in measured),
        }
    shown["added_gap_p50_ms"] = round(
        statistics.median(
            one.gaps_p50 - other.gaps_p50 for one, other in zip(through, bare, strict=True)
        ),
        3,
    )
    return shown


if __name__ == "__main__":
    print(json.dumps(figures(rounds=3, seconds=3.0), indent=2))
