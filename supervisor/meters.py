"""What the supervisor counts."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec

from protocol import meters
from protocol.errors import GatewayError
from protocol.meters import LAG_INTERVAL_SECONDS, FrontMeters, Histogram
from supervisor.child import Exit

OK: Final = "ok"


def _counter(*labels: str) -> Counter[str]:
    """Give a counter that tells of these from the start: a rate needs the zero before the one."""
    return Counter(dict.fromkeys(labels, 0))


class Meters(msgspec.Struct, kw_only=True):
    """Counted since the supervisor's start; an outcome is `ok` or the code of the refusal."""

    wakes: Counter[str] = msgspec.field(default_factory=lambda: _counter(OK, "unavailable"))
    """What the front asked for, by how it ended."""
    wake_seconds: Histogram = msgspec.field(default_factory=meters.latency)
    """Of those that ended well."""
    deaths: Counter[str] = msgspec.field(
        default_factory=lambda: _counter("exit", "signal", "start")
    )
    """As a tenant's status counts them, by what ended them; `start` could not be started."""
    restarts: Counter[str] = msgspec.field(default_factory=lambda: _counter(OK, "unavailable"))
    """What operators asked for, by how it ended."""
    respawns: Counter[str] = msgspec.field(
        default_factory=lambda: _counter("front", "zygote", "launcher", "disk", "egress")
    )
    """Shared processes that were replaced because they had died, by their name."""
    loop_lag: Histogram = msgspec.field(default_factory=meters.lag)
    worker_lag: Histogram = msgspec.field(default_factory=meters.lag)
    """From a ping to its answer: the worker's lag, and the supervisor's. No worker's own word."""
    spawn_seconds: Histogram = msgspec.field(default_factory=meters.latency)
    """From an order to the zygote to the process id, spares too."""

    def died(self, status: Exit | None) -> None:
        """Count the death of a worker."""
        if status is None:
            self.deaths["start"] += 1
        else:
            self.deaths["exit" if status.signal is None else "signal"] += 1


class Snapshot(msgspec.Struct, kw_only=True):
    """What is told at one scrape.

    `front` is None while it is being replaced, `states` are tenants by the state of their worker,
    `pids` those of the shared processes by name; `stopped` is how many tenants may not write,
    `disk` a directory on what they write to.
    """

    counted: Meters
    front: FrontMeters | None
    stopped: int
    disk: str
    states: Mapping[str, int]
    pids: Mapping[str, int]


def outcome(refusal: GatewayError | None) -> str:
    """Give how something ended, as it is counted."""
    return OK if refusal is None else refusal.code.name.lower()


async def watch_loop(lag: Histogram) -> None:
    """Observe how late the running loop is. For ever."""
    now = asyncio.get_running_loop().time
    while True:
        due = now() + LAG_INTERVAL_SECONDS
        await asyncio.sleep(LAG_INTERVAL_SECONDS)
        lag.observe(max(0.0, now() - due))
