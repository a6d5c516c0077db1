"""`/metrics`: what is counted, in Prometheus' text format.

The library is imported at the first scrape; a gateway that nobody scrapes does without it. Names
follow https://prometheus.io/docs/practices/naming/. No series carries a tenant's name: their number
would be the callers' to choose. `openclaw top` and `/v1/status` tell of each tenant.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from protocol import meters
from protocol.meters import FrontMeters, Histogram
from supervisor.status import usage
from supervisor.version import VERSION

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Meters(msgspec.Struct, kw_only=True):
    """Counted by the supervisor since its start."""

    wakes: Counter[str] = msgspec.field(default_factory=Counter)
    """Starts of a tenant's worker that somebody waited for, by how they ended."""
    wake_seconds: Histogram = msgspec.field(default_factory=meters.latency)
    deaths: Counter[str] = msgspec.field(default_factory=Counter)
    """Workers that ended unasked, by what ended them: `exit`, `signal` or `start`."""
    restarts: Counter[str] = msgspec.field(default_factory=Counter)
    """Restarts by an operator, by how they ended."""
    respawns: Counter[str] = msgspec.field(default_factory=Counter)
    """Shared processes that were started again, by their name."""
    loop_lag: Histogram = msgspec.field(default_factory=meters.lag)
    worker_lag: Histogram = msgspec.field(default_factory=meters.lag)
    """How long workers took to answer a ping: their loops' lag, and the way."""


class Snapshot(msgspec.Struct, kw_only=True):
    """What is told at one scrape. `pids` are those of the shared processes, by name."""

    counted: Meters
    front: FrontMeters | None
    states: Mapping[str, int]
    pids: Mapping[str, int]


def exposition(snapshot: Snapshot) -> bytes:
    """Write a snapshot in the text format."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - see above

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    return generate_latest(registry)


class _Collector:
    """See `prometheus_client.registry.Collector`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot: Final = snapshot

    def collect(self) -> "Iterable[Metric]":
        """Give every metric family."""
        yield from self._gateway()
        yield from self._processes()
        if self._snapshot.front is not None:
            yield from self._front(self._snapshot.front)

    def _gateway(self) -> "Iterator[Metric]":
        counted = self._snapshot.counted
        yield _gauge("openclaw_build_info", "The version that runs.", ("version",), {VERSION: 1})
        yield _gauge(
            "openclaw_tenants", "Tenants by the state of their worker.", ("state",), self._states
        )
        yield _counter("openclaw_wakes", "Waits for a worker's start.", ("outcome",), counted.wakes)
        yield _histogram(
            "openclaw_wake_seconds", "From a wake to a worker that serves.", counted.wake_seconds
        )
        yield _counter(
            "openclaw_worker_deaths", "Workers that ended unasked.", ("how",), counted.deaths
        )
        yield _counter(
            "openclaw_worker_restarts", "Restarts by operators.", ("outcome",), counted.restarts
        )
        yield _counter(
            "openclaw_respawns", "Shared processes started again.", ("process",), counted.respawns
        )
        lags = {"supervisor": counted.loop_lag, "worker": counted.worker_lag}
        if self._snapshot.front is not None:
            lags["front"] = self._snapshot.front.loop_lag
        yield _histograms("openclaw_loop_lag_seconds", "How late loops are.", "process", lags)

    @property
    def _states(self) -> Mapping[str, int]:
        return self._snapshot.states

    def _processes(self) -> "Iterator[Metric]":
        used = {name: usage(pid) for name, pid in self._snapshot.pids.items()}
        memory = {name: taken[0] for name, taken in used.items() if taken is not None}
        cpu = {name: taken[1] for name, taken in used.items() if taken is not None}
        yield _gauge(
            "openclaw_process_resident_bytes", "Memory of shared processes.", ("process",), memory
        )
        yield _counter(
            "openclaw_process_cpu_seconds", "CPU time of shared processes.", ("process",), cpu
        )

    def _front(self, front: FrontMeters) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415 - see above

        requests = CounterMetricFamily(
            "openclaw_requests", "Answers by route and HTTP status.", labels=("route", "status")
        )
        for route, statuses in front.requests.items():
            for status, count in statuses.items():
                requests.add_metric((route, str(status)), count)
        yield requests
        yield _histograms("openclaw_request_seconds", "Time to an answer.", "route", front.seconds)
        yield _counter(
            "openclaw_auth_failures", "Credentials refused.", (), {"": front.auth_failures}
        )
        yield _histogram(
            "openclaw_hold_seconds", "How long calls waited for a worker.", front.hold_seconds
        )
        now = {
            "connections": front.connections,
            "websockets": front.websockets,
            "calls_held": front.held,
            "calls_in_flight": front.in_flight,
        }
        yield _gauge("openclaw_front", "What the front has at this moment.", ("what",), now)


def _labels(label: str) -> tuple[str, ...]:
    return (label,) if label else ()


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[str, float]) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 - see above

    family = GaugeMetricFamily(name, text, labels=labels)
    for label, value in values.items():
        family.add_metric(_labels(label), value)
    return family


def _counter(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[str, float]
) -> "Metric":
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415 - see above

    family = CounterMetricFamily(name, text, labels=labels)
    for label, value in values.items():
        family.add_metric(_labels(label), value)
    return family


def _histogram(name: str, text: str, values: Histogram) -> "Metric":
    return _histograms(name, text, "", {"": values})


def _histograms(name: str, text: str, label: str, values: Mapping[str, Histogram]) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415 - see above

    family = HistogramMetricFamily(name, text, labels=_labels(label))
    for of, histogram in values.items():
        buckets, below = [], 0
        for bound, count in zip(
            (*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True
        ):
            below += count
            buckets.append((bound, below))
        family.add_metric(_labels(of), buckets, histogram.total)
    return family
