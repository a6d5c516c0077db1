"""What many tenants cost: waking those that sleep, starting with many, serving many in turn."""

import http.client
import json
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protocol.control.shapes import Quota
from scripts.benchmark import load
from supervisor.config import Config
from supervisor.state import LOCK_WAIT_SECONDS, StateRoot
from supervisor.tenants import TenantDesk
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway

IDLE_SECONDS = 2.0
PARKED_SECONDS_MAX = 60.0
POLL_SECONDS = 0.2
APART_SECONDS = 0.1
CONNECTIONS = 64
HEALTH = b'{"jsonrpc":"2.0","id":1,"method":"health","params":{}}'


class Client:
    """One kept connection, so that what is measured is the request alone."""

    def __init__(self, gateway: Gateway) -> None:
        self._connection = http.client.HTTPConnection(gateway.address, timeout=60)

    def health(self, token: str) -> float:
        """Ask a tenant's worker how it is; gives the seconds until the answer."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        started = time.perf_counter()
        self._connection.request("POST", "/rpc", HEALTH, headers)
        response = self._connection.getresponse()
        answer = response.read()
        elapsed = time.perf_counter() - started
        if response.status != http.client.OK:
            raise RuntimeError(f"health: {response.status} {answer!r}")
        return elapsed


def register(state_dir: Path, count: int) -> list[str]:
    """Make tenants while no gateway runs; gives their tokens."""
    state = StateRoot(state_dir)
    state.prepare()
    with state.acquire(LOCK_WAIT_SECONDS):
        desk = TenantDesk(state, Config())
        try:
            return [
                desk.create(f"tenant-{number}", actor="benchmark", quota=Quota()).token
                for number in range(count)
            ]
        finally:
            desk.close()


def wake(tenants: int) -> dict[str, Any]:
    """First request to answer of absent tenants, and of the same when they have parked.

    One after the other, as fast as they are answered, which uses up what is made ahead; and apart.
    """
    state_dir = make_state_dir()
    (state_dir / "config.yaml").write_text(f"worker:\n  idle_seconds: {IDLE_SECONDS}\n")
    try:
        tokens = register(state_dir, tenants)
        with Gateway(state_dir) as gateway:
            client = Client(gateway)
            # None of this may park before the last has been asked for the first time.
            absent = [client.health(token) for token in tokens]
            wait_until_parked(gateway, tenants)
            parked = [client.health(token) for token in tokens]
            awake = [client.health(tokens[-1]) for _ in range(100)]
            wait_until_parked(gateway, tenants)
            apart = [client.health(token) for token in spread(tokens)]
    finally:
        remove_tree(state_dir)
    return {
        "tenants": tenants,
        "absent": quantiles_ms(absent),
        "parked": quantiles_ms(parked),
        "parked_apart": quantiles_ms(apart),
        "awake": quantiles_ms(awake),
    }


def spread(tokens: list[str]) -> Iterator[str]:
    """Give them with a pause after each."""
    never = threading.Event()
    for token in tokens:
        yield token
        never.wait(APART_SECONDS)


def wait_until_parked(gateway: Gateway, count: int) -> None:
    """Ask the control plane until every tenant sleeps.

    Raises:
        TimeoutError: some do not.
    """
    key = (gateway.state_dir / "admin.key").read_text().strip()
    deadline = time.monotonic() + PARKED_SECONDS_MAX
    never = threading.Event()
    while time.monotonic() < deadline:
        rows = json.loads(gateway.request("GET", "/v1/status", token=key).body)["tenants"]
        if sum(row["state"] == "parked" for row in rows) == count:
            return
        never.wait(POLL_SECONDS)
    raise TimeoutError("workers do not park")


def start_with(registered: int, rounds: int) -> dict[str, Any]:
    """From the start of the command to its banner, with many tenants and with none."""
    figures: dict[str, Any] = {}
    for count in (0, registered):
        state_dir = make_state_dir()
        try:
            tokens = register(state_dir, count)
            seconds = []
            for _ in range(rounds):
                started = time.perf_counter()
                with Gateway(state_dir) as gateway:
                    seconds.append(time.perf_counter() - started)
                    if tokens:
                        Client(gateway).health(tokens[-1])
            figures[f"registered_{count}"] = {"ready_s": round(statistics.median(seconds), 3)}
        finally:
            remove_tree(state_dir)
    return figures


def round_robin(tenants: int, rounds: int, seconds: float) -> dict[str, Any]:
    """The rate of one tenant's `health`, and of as many requests spread over many tenants."""
    state_dir = make_state_dir()
    try:
        tokens = register(state_dir, tenants)
        with Gateway(state_dir) as gateway:
            host, port = gateway.address.split(":")
            client = Client(gateway)
            for token in tokens:
                client.health(token)
            requests = [load.post("/rpc", HEALTH, token) for token in tokens]
            one, many = [], []
            for _ in range(rounds):
                one.append(load.run((host, int(port)), requests[:1], CONNECTIONS, seconds))
                many.append(load.run((host, int(port)), requests, CONNECTIONS, seconds))
    finally:
        remove_tree(state_dir)
    return {
        "tenants": tenants,
        "connections": CONNECTIONS,
        "one_per_second": round(statistics.median(r.requests_per_second for r in one)),
        "many_per_second": round(statistics.median(r.requests_per_second for r in many)),
        "rate_ratio": round(
            statistics.median(
                m.requests_per_second / o.requests_per_second
                for m, o in zip(many, one, strict=True)
            ),
            3,
        ),
        "failures": sum(r.failures for r in (*one, *many)),
    }


def quantiles_ms(seconds: list[float]) -> dict[str, float]:
    """Give p50 and p99 in ms."""
    return {
        "p50_ms": round(load.percentile(seconds, 50) * 1000, 2),
        "p99_ms": round(load.percentile(seconds, 99) * 1000, 2),
    }
