"""`GET /metrics` of a real gateway: it counts what happens, and nothing that a caller chooses."""

import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from protocol.errors import STATUS_PHRASES, ErrorCode
from protocol.meters import LAG_BOUNDS, LATENCY_BOUNDS, RouteName
from supervisor.lifecycle import State
from supervisor.version import VERSION
from tests.e2e.gateway import Reply
from tests.e2e.test_websocket import websocket
from tests.workers.crowd import Crowd

WAIT_SECONDS = 20.0
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations"
SERIES_MAX = 500
OUTCOMES = {"ok", *(code.name.lower() for code in ErrorCode)}
LABELS = {
    "le": {*map(str, (*LATENCY_BOUNDS, *LAG_BOUNDS)), "+Inf"},
    "version": {VERSION},
    "route": set(get_args(RouteName)),
    "status": {str(status) for status in STATUS_PHRASES} | {"101"},
    "process": {"supervisor", "front", "zygote", "launcher", "disk", "egress", "worker"},
    "state": {state.value for state in State} | {"held", "in_flight"},
    "protocol": {"http", "websocket"},
    "how": {"exit", "signal", "start"},
    "outcome": OUTCOMES,
}

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Metered(Crowd):
    """The tests' gateway, scraped."""

    def scrape(self) -> Series:
        reply = self.control("GET", "/metrics")
        assert reply.status == 200, reply.body
        assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(reply.body.decode())
            for sample in family.samples
        }

    def told(self, name: str, **labels: str) -> float:
        return self.scrape().get((name, frozenset(labels.items())), 0.0)

    def wait_told(self, least: float, name: str, **labels: str) -> None:
        """Scrape until a series is at least so much; nobody tells of a change."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self.told(name, **labels) < least:
            assert time.monotonic() < deadline, (name, labels, self.scrape())


@pytest.fixture
def gateway(state_dir: Path) -> Iterator[Metered]:
    with Metered(state_dir) as running:
        yield running


def test_it_counts_what_happens(gateway: Metered) -> None:
    before = gateway.scrape()
    for series in (
        ("openclaw_wakes_total", {"outcome": "ok"}),
        ("openclaw_worker_deaths_total", {"how": "signal"}),
        ("openclaw_worker_restarts_total", {"outcome": "ok"}),
        ("openclaw_respawns_total", {"process": "front"}),
        ("openclaw_auth_failures_total", {}),
        ("openclaw_hold_seconds_count", {}),
    ):
        # A rate is told of the first one only if there was a zero before it.
        assert before[series[0], frozenset(series[1].items())] == 0

    token = gateway.create("acme")
    gateway.rpc(token, "health")  # nothing runs yet: it is held, and wakes the worker
    for name in ("openclaw_hold_seconds_count", "openclaw_wake_seconds_count"):
        assert gateway.told(name) == 1
    assert gateway.told("openclaw_wakes_total", outcome="ok") == 1
    assert gateway.told("openclaw_tenants", state="ready") == 1
    assert gateway.told("openclaw_spawn_seconds_count") > 0

    assert gateway.rpc_reply(token, "no.such.method", {}).status == 404
    assert gateway.told("openclaw_requests_total", route="rpc", status="200") == 1
    assert gateway.told("openclaw_requests_total", route="rpc", status="404") == 1
    assert gateway.told("openclaw_request_seconds_count", route="rpc") == 2

    call = {"jsonrpc": "2.0", "id": 1, "method": "health"}
    gateway.post("/rpc", token, [call, {**call, "method": "none"}])
    assert gateway.told("openclaw_requests_total", route="batch", status="200") == 1
    assert gateway.told("openclaw_requests_total", route="batch", status="404") == 1
    assert gateway.told("openclaw_request_seconds_count", route="rpc") == 3

    with websocket(gateway, token) as client:
        client.send(json.dumps(call))
        client.recv()
        assert gateway.told("openclaw_connections", protocol="websocket") == 1
    assert gateway.told("openclaw_requests_total", route="ws", status="101") == 1
    assert gateway.told("openclaw_requests_total", route="ws", status="200") == 1

    assert gateway.rpc_reply("tk_acme_" + "0" * 32, "health", {}).status == 401
    assert gateway.told("openclaw_auth_failures_total") == 1

    assert gateway.control("POST", "/v1/tenants/acme/restart", {}).status == 200
    assert gateway.told("openclaw_worker_restarts_total", outcome="ok") == 1

    (worker,) = gateway.workers("acme")[-1:]
    worker.kill()
    gateway.wait_told(1, "openclaw_worker_deaths_total", how="signal")
    for process in ("supervisor", "front", "worker"):
        gateway.wait_told(1, "openclaw_loop_lag_seconds_count", process=process)

    gateway.process("openclaw: front").kill()
    gateway.wait_told(1, "openclaw_respawns_total", process="front")
    after = gateway.scrape()
    assert after["openclaw_wakes_total", frozenset({("outcome", "ok")})] >= 1
    # The front's own counters begin anew, as counters may.
    assert ("openclaw_requests_total", frozenset({("route", "ws"), ("status", "101")})) not in after


def test_it_is_for_the_operator_alone(gateway: Metered) -> None:
    token = gateway.create("acme")
    for credential in (None, token, "x"):
        reply = gateway.request("GET", "/metrics", token=credential)
        assert reply.status == 401
        assert reply.headers["content-type"] == "application/problem+json"
        assert b"openclaw_" not in reply.body
    reply = gateway.control("POST", "/metrics", {})
    assert (reply.status, reply.headers["allow"]) == (405, "GET")
    assert gateway.control("GET", "/metrics?name=acme").status == 400


def _hammer(gateway: Metered, token: str, canary: str) -> None:
    """Ask for much that a caller can choose, all of it with `canary` in it."""
    asked: list[Reply] = [
        *(gateway.request(verb, f"/{canary}") for verb in ("GET", "POST", "BREW", "PUT", "TRACE")),
        gateway.request("GET", f"/v1/tenants/{canary}"),
        gateway.control("GET", f"/v1/tenants/{canary}"),
        gateway.control("GET", f"/{canary}/metrics"),
        gateway.request("GET", f"/metrics?{canary}", token=canary),
        gateway.request("GET", "/healthz", headers={"Host": f"{canary}.example"}),
        gateway.rpc_reply(token, canary, {canary: canary}),
        gateway.rpc_reply(f"tk_{canary}_" + "0" * 32, canary, {}),
        gateway.post(f"/channels/webhook/{canary}", token, {canary: canary}),
        gateway.post("/rpc", token, [{"jsonrpc": "2.0", "id": canary, "method": canary}]),
    ]
    assert all(reply.status for reply in asked)


def test_no_series_is_a_callers_to_make(gateway: Metered) -> None:
    tenant = "t" + secrets.token_hex(8)
    token = gateway.create(tenant)
    gateway.rpc(token, "health")
    canaries = ["c" + secrets.token_hex(6) for _ in range(9)]
    _hammer(gateway, token, canaries[0])
    gateway.scrape()  # which is an answer too, and counted in the next
    first = gateway.scrape()
    for canary in canaries[1:]:
        _hammer(gateway, token, canary)
    last = gateway.scrape()
    assert last.keys() == first.keys()
    assert len(last) < SERIES_MAX
    text = gateway.control("GET", "/metrics").body.decode()
    for secret in (tenant, token, gateway.admin_key, *canaries):
        assert secret not in text
    for _, labels in last:
        for label, value in labels:
            assert label in LABELS, label
            allowed = LABELS[label]
            assert value in allowed, (label, value)


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads((OPERATIONS / "grafana.json").read_text())["panels"]
    return panels


def test_dashboard_and_page_name_what_there_is(gateway: Metered) -> None:
    token = gateway.create("acme")
    gateway.rpc(token, "health")
    text = gateway.control("GET", "/metrics").body.decode()
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    queries = [target["expr"] for panel in _panels() for target in panel["targets"]]
    assert len(queries) > len(_panels()) > 0
    for query in queries:
        (name,) = re.findall(r"openclaw_\w+", query)
        assert name in labels, query
        wanted = {label for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(", ")}
        wanted |= set(re.findall(r"(\w+)=~?\"", query))
        assert wanted <= labels[name], query
    page = (OPERATIONS / "monitoring.md").read_text()
    families = set(re.findall(r"^# TYPE (openclaw_\w+) ", text, re.MULTILINE))
    assert set(re.findall(r"^\| `(openclaw_\w+)", page, re.MULTILINE)) == families
    in_alerts = set(re.findall(r"openclaw_\w+", page))
    assert in_alerts <= labels.keys() | families
