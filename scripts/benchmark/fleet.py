"""What many tenants cost: waking those that sleep, starting with many, serving many in turn."""

import http.client
import json
import os
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protocol.quotas import Quota
from scripts.benchmark import cost, load
from supervisor.config import Config
from supervisor.state import LOCK_WAIT_SECONDS, StateRoot
from supervisor.tenants import TenantDesk
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway

IDLE_SECONDS = 2.0
PARKED_SECONDS_MAX = 60.0
POLL_SECONDS = 0.2
APART_SECONDS = 0.1
WEBHOOK = "/channels/webhook/default"
ROWS_OF_A_PAGE = 50
HEALTH = b'{"jsonrpc":"2.0","id":1,"method":"health","params":{}}'


class Client:
    """One kept connection, so that what is measured is the request alone."""

    def __init__(self, gateway: Gateway) -> None:
        self._connection = http.client.HTTPConnection(gateway.address, timeout=60)

    def post(self, token: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Send a request; gives status and body."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def health(self, token: str) -> float:
        """Ask a tenant's worker how it is; gives the seconds until the answer."""
        started = time.perf_counter()
        status, answer = self.post(token, "/rpc", HEALTH)
        elapsed = time.perf_counter() - started
        if status != http.client.OK:
            raise RuntimeError(f"health: {status} {answer!r}")
        return elapsed

    def call(self, token: str, method: str, expected: int = http.client.OK, **params: Any) -> Any:
        """Call a method; gives its result, or None where it had to be refused with `expected`."""
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        status, answer = self.post(token, "/rpc", json.dumps(call).encode())
        if status != expected:
            raise RuntimeError(f"{method}: {status} {answer!r}")
        return json.loads(answer).get("result")

    def mixed(self, token: str) -> int:
        """Do a little of all that a tenant does; gives how many calls that were."""
        key = self.call(token, "sessions.create", label=f"mixed {time.perf_counter_ns()}")["key"]
        runs = [self.call(token, "sessions.send", key=key, message=f"hello {n}") for n in range(3)]
        self.call(token, "agent.wait", runId=runs[-1]["runId"], timeoutMs=10_000)
        self.call(token, "chat.abort", sessionKey=key)
        for _ in range(3):
            self.call(token, "sessions.list")
            self.call(token, "sessions.get", key=key)
            self.call(token, "chat.history", sessionKey=key)
        self.call(token, "health", probe=True)
        self.call(token, "no.such.method", expected=http.client.NOT_FOUND)
        self.call(token, "sessions.get", expected=http.client.BAD_REQUEST, kye=key)
        self.call(token, "rpc.discover")
        message = {"user": {"id": "u1"}, "content": {"type": "text", "text": "hello"}}
        status, answer = self.post(token, WEBHOOK, json.dumps(message).encode())
        if status >= http.client.BAD_REQUEST:
            raise RuntimeError(f"inbound: {status} {answer!r}")
        return 20


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
    """The rate of one tenant, and that of many in turn on as many connections.

    For an empty call, where waking a process that the caches have forgotten is nearly all of it;
    for the newest page of a transcript; and for what a tenant is there for: a message that comes in
    and the turn that answers it. The client never stops what it measures by being woken.
    """
    state_dir = make_state_dir()
    try:
        tokens = register(state_dir, tenants)
        with Gateway(state_dir) as gateway, load.giving_way():
            client = Client(gateway)
            for token in tokens:
                client.post(token, WEBHOOK, inbound(0))
                key = client.call(token, "sessions.list")["sessions"][0]["key"]
                for number in range(ROWS_OF_A_PAGE):
                    client.call(token, "chat.inject", sessionKey=key, message=f"note {number}")
            page = {"sessionKey": key, "limit": ROWS_OF_A_PAGE}
            history = {"jsonrpc": "2.0", "id": 1, "method": "chat.history", "params": page}
            works = {
                "health": ("/rpc", [HEALTH]),
                "history": ("/rpc", [json.dumps(history).encode()]),
                # Conversations side by side, as they are when they are many tenants'.
                "inbound": (WEBHOOK, [inbound(user) for user in range(1, tenants + 1)]),
            }
            figures = {
                name: in_turn(gateway, tokens, path, bodies, rounds, seconds)
                for name, (path, bodies) in works.items()
            }
    finally:
        remove_tree(state_dir)
    return {"tenants": tenants, "connections": tenants, **figures}


def inbound(user: int) -> bytes:
    """A message of one user."""
    message = {"user": {"id": f"u{user}"}, "content": {"type": "text", "text": "hello"}}
    return json.dumps(message).encode()


def in_turn(
    gateway: Gateway,
    tokens: list[str],
    path: str,
    bodies: list[bytes],
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Measure one kind of request, of one tenant and of many, in rounds by turns."""
    host, port = gateway.address.split(":")
    running = gateway.processes().items()
    groups = {
        group: [process.pid for title, process in running if f"openclaw: {group}" in title]
        for group in ("front", "worker")
    } | {"client": [os.getpid()]}
    requests = {
        "one": [load.post(path, body, tokens[0]) for body in bodies],
        "many": [load.post(path, bodies[0], token) for token in tokens],
    }
    measured: dict[str, list[load.Load]] = {"one": [], "many": []}
    costs: dict[str, list[dict[str, Any]]] = {"one": [], "many": []}
    for _ in range(rounds):
        for name, asked in requests.items():
            before = {group: cost.used(pids) for group, pids in groups.items()}
            figures = load.run((host, int(port)), asked, len(tokens), seconds)
            measured[name].append(figures)
            count = round(figures.requests_per_second * seconds)
            costs[name].append(
                {
                    group: (cost.used(pids) - before[group]).per(count)
                    for group, pids in groups.items()
                }
            )
    pairs = zip(measured["many"], measured["one"], strict=True)
    return {
        "one_per_second": load.summary(measured["one"])["requests_per_second"],
        "many_per_second": load.summary(measured["many"])["requests_per_second"],
        "rate_ratio": round(
            statistics.median(m.requests_per_second / o.requests_per_second for m, o in pairs), 3
        ),
        "failures": sum(r.failures for r in (*measured["one"], *measured["many"])),
        "per_request": {name: cost.medians(rows) for name, rows in costs.items()},
    }


def quantiles_ms(seconds: list[float]) -> dict[str, float]:
    """Give p50 and p99 in ms."""
    return {
        "p50_ms": round(load.percentile(seconds, 50) * 1000, 2),
        "p99_ms": round(load.percentile(seconds, 99) * 1000, 2),
    }
