"""All benchmarks: a table on standard error, JSON on standard output.

Every figure stands beside a baseline that was measured in the same run, round by round in turn:
machines differ and are shared, ratios hold better than numbers.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.benchmark import (
    bills,
    command,
    cost,
    fleet,
    load,
    neighbours,
    passthrough,
    sandboxes,
    sockets,
    till,
)
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway

SESSIONS = 50
MIXED_CALLS = 200
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=100, help="that start and stay idle")
    parser.add_argument("--parked", type=int, default=50, help="tenants that sleep and are woken")
    parser.add_argument("--registered", type=int, default=10_000, help="tenants at a start")
    parser.add_argument("--awake", type=int, default=200, help="tenants that are served in turn")
    parser.add_argument("--sockets", type=int, default=5000, help="WebSockets that stay idle")
    parser.add_argument("--docker", type=int, default=20, help="runs under Docker, likewise")
    parser.add_argument("--sandboxes", type=int, default=100, help="runs one after another")
    options = parser.parse_args()
    state_dir = make_state_dir()
    try:
        with Gateway(state_dir) as gateway:
            figures = {
                "forward": forward(gateway, options.rounds, options.seconds),
                "websocket": sockets.against_http(gateway, options.rounds, options.seconds),
                "idle_websockets": sockets.idle(gateway, options.sockets),
                "cold_start": cold_start(gateway, options.workers),
                "memory": memory(gateway, options.workers),
                "memory_after_use": memory_after_use(gateway),
            }
    finally:
        remove_tree(state_dir)
    figures["wake"] = fleet.wake(options.parked)
    figures["start"] = fleet.start_with(options.registered, options.rounds)
    figures["command_line"] = command.calls(2 * options.rounds + 1)
    figures["neighbours"] = neighbours.windows(options.rounds, options.seconds / 2)
    figures["round_robin"] = fleet.round_robin(options.awake, options.rounds, options.seconds)
    figures["sandboxes"] = sandboxes.figures(options.sandboxes)
    figures["sandboxes_under_docker"] = sandboxes.docker_figures(options.docker)
    figures["till"] = till.figures(options.rounds)
    figures["bills"] = bills.figures(options.rounds)
    figures["passthrough"] = passthrough.figures(options.rounds, options.seconds)
    table(figures)
    print(json.dumps(figures, indent=2))


def forward(gateway: Gateway, rounds: int, seconds: float) -> dict[str, Any]:
    """`sessions.list` of 50 sessions against a bare forwarder with an answer of the same size."""
    token = gateway.create("bench")
    for number in range(SESSIONS):
        gateway.rpc(token, "sessions.create", label=f"session {number}")
    call = b'{"jsonrpc":"2.0","id":1,"method":"sessions.list","params":{}}'
    request = load.post("/rpc", call, token)
    answer = gateway.request("POST", "/rpc", token=token, body=call).body
    host, port = gateway.address.split(":")
    figures: dict[str, Any] = {"answer_bytes": len(answer)}
    processes = [gateway.pid, *(process.pid for process in gateway.processes().values())]
    with baseline(answer) as (baseline_port, baseline_processes):
        for connections in (1, 64):
            ours: list[load.Load] = []
            bare: list[load.Load] = []
            ours_cpu: list[float] = []
            bare_cpu: list[float] = []
            for _ in range(rounds):
                for address, measured, cpu, pids in (
                    ((host, int(port)), ours, ours_cpu, processes),
                    (("127.0.0.1", baseline_port), bare, bare_cpu, baseline_processes),
                ):
                    before = cost.used(pids)
                    measured.append(load.run(address, [request], connections, seconds))
                    count = round(measured[-1].requests_per_second * seconds)
                    cpu.append((cost.used(pids) - before).per(count)["cpu_us"])
            figures[f"connections_{connections}"] = {
                "gateway": load.summary(ours),
                "bare_forwarder": load.summary(bare),
                "rate_ratio": round(
                    statistics.median(
                        one.requests_per_second / other.requests_per_second
                        for one, other in zip(ours, bare, strict=True)
                    ),
                    3,
                ),
                "p50_ratio": round(
                    statistics.median(
                        one.p50_ms / other.p50_ms for one, other in zip(ours, bare, strict=True)
                    ),
                    3,
                ),
                "cpu_us_per_request": {
                    "gateway": round(statistics.median(ours_cpu), 1),
                    "bare_forwarder": round(statistics.median(bare_cpu), 1),
                },
            }
    return figures


@contextlib.contextmanager
def baseline(answer: bytes) -> Iterator[tuple[int, list[int]]]:
    """Run the bare forwarder; gives its port and its processes."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(answer)
        file.flush()
        command = [sys.executable, str(HERE / "baseline.py"), file.name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                port = int(process.stdout.readline())
                children = psutil.Process(process.pid).children()
                yield port, [process.pid, *(child.pid for child in children)]
            finally:
                process.terminate()


def cold_start(gateway: Gateway, workers: int) -> dict[str, Any]:
    """First request to answer on tenants without a process, against one exec'd interpreter each."""
    tokens = [gateway.create(f"cold-{number}") for number in range(workers)]
    ours, bare = [], []
    for token in tokens:
        started = time.perf_counter()
        gateway.rpc(token, "health")
        ours.append(time.perf_counter() - started)
    for _ in range(min(workers, 20)):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-c", "import worker.main"], check=True)
        bare.append(time.perf_counter() - started)
    return {
        "gateway": fleet.quantiles_ms(ours),
        "exec_and_import_only": fleet.quantiles_ms(bare),
        "p50_ratio": round(load.percentile(ours, 50) / load.percentile(bare, 50), 3),
    }


def memory(gateway: Gateway, workers: int) -> dict[str, Any]:
    """PSS of the workers that `cold_start` left idle, and of the shared processes, in MB."""
    if os.geteuid() != 0:
        return {"skipped": "only root may read the memory maps of processes that are not dumpable"}
    found = gateway.processes()
    idle = [pss_mb(p.pid) for title, p in found.items() if "worker cold-" in title]
    shared = {
        title.removeprefix("openclaw: "): round(pss_mb(process.pid), 1)
        for title, process in found.items()
        if "worker" not in title
    }
    shared["spares"] = round(sum(pss_mb(spare.pid) for spare in gateway.spares()), 1)
    shared["supervisor"] = round(pss_mb(gateway.pid), 1)
    with subprocess.Popen(
        [sys.executable, "-I", "-c", "import worker.main; print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as execed:
        assert execed.stdout is not None
        execed.stdout.readline()
        bare = pss_mb(execed.pid)
        execed.communicate(b"\n")
    return {
        "idle_workers": len(idle),
        "idle_worker_pss_mb": {
            "p50": round(load.percentile(idle, 50), 2),
            "max": round(max(idle), 2),
        },
        "exec_and_import_only_pss_mb": round(bare, 2),
        "shared_pss_mb": {**shared, "total": round(sum(shared.values()), 1)},
        "wanted_workers": workers,
    }


def memory_after_use(gateway: Gateway) -> dict[str, Any]:
    """PSS of the same workers when each has answered `MIXED_CALLS` calls of all kinds."""
    if os.geteuid() != 0:
        return {"skipped": "only root may read the memory maps of processes that are not dumpable"}
    client = fleet.Client(gateway)
    found = gateway.processes()
    tenants = [title.split()[-1] for title in found if "worker cold-" in title]
    for tenant in tenants:
        token = gateway.openclaw_json("tenants", "token", "rotate", tenant)["token"]
        calls = 0
        while calls < MIXED_CALLS:
            calls += client.mixed(token)
    used = [pss_mb(p.pid) for title, p in gateway.processes().items() if "worker cold-" in title]
    return {
        "workers": len(used),
        "calls_each": MIXED_CALLS,
        "worker_pss_mb": {
            "p50": round(load.percentile(used, 50), 2),
            "max": round(max(used), 2),
        },
    }


def pss_mb(pid: int) -> float:
    """Give a process's proportional set size."""
    size: int = psutil.Process(pid).memory_full_info().pss
    return size / 2**20


def table(figures: dict[str, Any], prefix: str = "") -> None:
    """Print every number on a line of its own."""
    for name, value in figures.items():
        if isinstance(value, dict):
            table(value, f"{prefix}{name}.")
        else:
            print(f"{prefix + name:<64} {value:>12}", file=sys.stderr)


if __name__ == "__main__":
    main()
