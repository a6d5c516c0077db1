"""`/metrics`: what is counted, in Prometheus' text format.

Imported at the first scrape, for the library's sake: a gateway that nobody scrapes does without it.
Names follow https://prometheus.io/docs/practices/naming/. No series carries a tenant's name: their
number would be the callers' to choose. `openclaw top` and `/v1/status` tell of each tenant.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from protocol.meters import FrontMeters, Histogram
from supervisor.meters import Snapshot
from supervisor.status import usage
from supervisor.version import VERSION


def exposition(snapshot: Snapshot) -> str:
    """Write a snapshot in the text format, version 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    return generate_latest(registry).decode()


class _Collector:
    """See `prometheus_client.registry.Collector`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot: Final = snapshot

    def collect(self) -> Iterable[Metric]:
        """Give every metric family."""
        yield from self._workers()
        yield from self._disk()
        yield from self._processes()
        if self._snapshot.front is not None:
            yield from _front(self._snapshot.front)

    def _workers(self) -> Iterator[Metric]:
        counted = self._snapshot.counted
        yield _gauge("openclaw_tenants", "Tenants by worker state.", "state", self._snapshot.states)
        yield _counter("openclaw_wakes", "Wakes asked for.", "outcome", counted.wakes)
        yield _histogram(
            "openclaw_wake_seconds", "From a wake to a worker that serves.", counted.wake_seconds
        )
        yield _counter("openclaw_worker_deaths", "Workers that died.", "how", counted.deaths)
        yield _counter(
            "openclaw_worker_restarts", "Operators' restarts.", "outcome", counted.restarts
        )

    def _disk(self) -> Iterator[Metric]:
        stopped = {"": self._snapshot.stopped}
        yield _gauge("openclaw_tenants_stopped", "Tenants that may not write.", "", stopped)
        status = os.statvfs(self._snapshot.disk)
        free = {"": status.f_bavail * status.f_frsize}
        yield _gauge("openclaw_disk_free_bytes", "What tenants can still write.", "", free)

    def _processes(self) -> Iterator[Metric]:
        counted, front = self._snapshot.counted, self._snapshot.front
        yield _gauge("openclaw_build_info", "What runs.", "version", {VERSION: 1})
        yield _counter(
            "openclaw_respawns", "Shared processes replaced.", "process", counted.respawns
        )
        lags = {"supervisor": counted.loop_lag, "worker": counted.worker_lag}
        if front is not None:
            lags["front"] = front.loop_lag
        yield _histograms("openclaw_loop_lag_seconds", "How late loops are.", "process", lags)
        yield _histogram(
            "openclaw_spawn_seconds", "The zygote's time for a process.", counted.spawn_seconds
        )
        used = {name: usage(pid) for name, pid in self._snapshot.pids.items()}
        memory = {name: taken[0] for name, taken in used.items() if taken is not None}
        cpu = {name: taken[1] for name, taken in used.items() if taken is not None}
        yield _gauge(
            "openclaw_process_resident_bytes", "Memory of shared processes.", "process", memory
        )
        yield _counter(
            "openclaw_process_cpu_seconds", "CPU time of shared processes.", "process", cpu
        )


def _front(front: FrontMeters) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "openclaw_requests", "Answers by route and HTTP status.", labels=("route", "status")
    )
    for route, answers in front.answers.items():
        for status, count in answers.statuses.items():
            requests.add_metric((route, str(status)), count)
    yield requests
    seconds: dict[str, Histogram] = {
        route: answers.seconds for route, answers in front.answers.items()
    }
    yield _histograms("openclaw_request_seconds", "From turn to answer.", "route", seconds)
    yield _counter(
        "openclaw_auth_failures", "Credentials that were not good.", "", {"": front.auth_failures}
    )
    yield _counter(
        "openclaw_connections_refused",
        "Connections for which there was no place.",
        "",
        {"": front.refused_connections},
    )
    yield _histogram(
        "openclaw_hold_seconds", "How long calls waited for a worker.", front.hold_seconds
    )
    connections = {"http": front.connections, "websocket": front.websockets}
    yield _gauge("openclaw_connections", "Open connections.", "protocol", connections)
    calls = {"held": front.held, "in_flight": front.in_flight}
    yield _gauge("openclaw_calls", "Calls that are not answered yet.", "state", calls)


def _labels(label: str) -> tuple[str, ...]:
    return (label,) if label else ()


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=_labels(label))
    for value, number in values.items():
        family.add_metric(_labels(value), number)
    return family


def _counter(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=_labels(label))
    for value, number in values.items():
        family.add_metric(_labels(value), number)
    return family


def _histogram(name: str, text: str, values: Histogram) -> Metric:
    return _histograms(name, text, "", {"": values})


def _histograms(name: str, text: str, label: str, values: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=_labels(label))
    for value, histogram in values.items():
        buckets, below = [], 0
        bounds = (*map(str, histogram.bounds), "+Inf")
        for bound, count in zip(bounds, histogram.counts, strict=True):
            below += count
            buckets.append((bound, below))
        family.add_metric(_labels(value), buckets, histogram.total)
    return family
