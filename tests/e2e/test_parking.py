"""A worker that nobody needs sleeps, and wakes for whoever comes, or at its own time."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.restarting import LIMITS, Stream, session, talk
from tests.e2e.traffic import said_once, text_of, transcripts
from tests.workers import slow
from tests.workers.crowd import PROGRAM, SETTINGS, Crowd

IDLE_SECONDS = 0.3
HAMMER_STEP_SECONDS = 0.005
HAMMERERS = 3
TENANT = "always-slow"


class Drowsy(Crowd):
    """The tests' gateway, whose workers sleep early."""

    def __init__(self, state_dir: Path) -> None:
        (state_dir / "config.yaml").write_text(f"worker:\n  idle_seconds: {IDLE_SECONDS}\n")
        settings = {**SETTINGS, "protocol.limits": LIMITS}
        Gateway.__init__(self, state_dir, command=(sys.executable, PROGRAM, json.dumps(settings)))
        self.admin_key = (state_dir / "admin.key").read_text().strip()

    def parked(self, tenant: str) -> None:
        row = self.wait_for(tenant, lambda row: row["state"] == "parked")
        assert "pid" not in row
        assert row["deaths"] == 0


@pytest.fixture
def gateway(state_dir: Path) -> Iterator[Drowsy]:
    with Drowsy(state_dir) as running:
        yield running


def test_an_idle_worker_is_parked_and_a_request_wakes_it(gateway: Drowsy) -> None:
    token = gateway.create("acme")
    key = gateway.inbound(token, "before").json["sessionKey"]
    before = gateway.status("acme")["pid"]
    gateway.parked("acme")
    assert gateway.workers("acme") == []
    assert gateway.inbound(token, "after").json["reply"]["text"] == "echo: after"
    assert gateway.status("acme")["pid"] != before
    history = gateway.rpc(token, "chat.history", sessionKey=key)["messages"]
    assert [text_of(row) for row in history] == ["before", "echo: before", "after", "echo: after"]
    assert "worker died" not in [line["event"] for line in gateway.log_of("acme")]


def test_parked_is_a_state_for_operators(gateway: Drowsy) -> None:
    token = gateway.create("acme")
    gateway.rpc(token, "health")
    gateway.parked("acme")
    status = gateway.control("POST", "/v1/tenants/acme/restart")
    assert (status.status, status.json["state"]) == (200, "ready")
    gateway.parked("acme")
    assert gateway.control("POST", "/v1/tenants/acme/suspend").status == 200
    assert gateway.status("acme")["state"] == "suspended"
    assert gateway.rpc_reply(token, "health", {}).status in (401, 403, 503)
    assert gateway.control("POST", "/v1/tenants/acme/resume").status == 200
    assert gateway.rpc(token, "health")["ok"] is True


def test_a_turn_keeps_a_worker_awake(gateway: Drowsy) -> None:
    token = gateway.create(TENANT)
    key = session(gateway, token, "s")
    text = talk(1, 4 * IDLE_SECONDS)
    sent = gateway.rpc(token, "sessions.send", key=key, message=text)
    pid = gateway.status(TENANT)["pid"]
    while (row := gateway.status(TENANT))["state"] == "ready":  # asking this is no work
        assert row["pid"] == pid
    ended = gateway.rpc(token, "agent.wait", runId=sent["runId"])
    assert ended["status"] == "ok"
    assert ended["endedAt"] - ended["startedAt"] >= 3 * IDLE_SECONDS * 1000


def test_a_stream_keeps_a_worker_awake(gateway: Drowsy) -> None:
    token = gateway.create(TENANT)
    text = talk(1, 4 * IDLE_SECONDS)
    stream = Stream(gateway, token, session(gateway, token, "s"), text).under_way()
    assert stream.result()["status"] == "ok"
    assert stream.text == slow.answer_of(text)


def test_a_request_that_comes_as_the_worker_falls_asleep_is_answered(gateway: Drowsy) -> None:
    """Requests around the moment at which it parks, from well before it to well after."""
    tokens = {name: gateway.create(name) for name in (f"t{n}" for n in range(HAMMERERS))}
    failures: list[object] = []
    pids: dict[str, set[int]] = {name: set() for name in tokens}

    def hammer(name: str, token: str) -> None:
        for step in range(-6, 12):
            text = f"{name} {step}"
            reply = gateway.inbound(token, text, message_id=text)
            if reply.status != 200 or reply.json["reply"]["text"] != f"echo: {text}":
                failures.append((text, reply))
            pids[name].add(gateway.status(name).get("pid", 0))
            moment = time.monotonic() + IDLE_SECONDS + step * HAMMER_STEP_SECONDS
            threading.Event().wait(moment - time.monotonic())

    threads = [threading.Thread(target=hammer, args=item) for item in tokens.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for name, token in tokens.items():
        (rows,) = transcripts(gateway, token).values()
        said_once(rows, [f"{name} {step}" for step in range(-6, 12)])
        assert len(pids[name]) > 2, "it never slept"
    assert "worker died" not in [line["event"] for line in gateway.log_lines()]


def test_a_worker_wakes_at_its_own_time(gateway: Drowsy) -> None:
    token = gateway.create("always-wakes")
    gateway.rpc_reply(token, "health", {})
    pids = set()
    for _ in range(2):
        row = gateway.wait_for("always-wakes", lambda row: row["state"] == "parked")
        assert abs(row["nextWakeAtMs"] / 1000 - time.time()) < slow.WAKES_AFTER_MS / 1000 + 0.1
        row = gateway.wait_for("always-wakes", lambda row: row["state"] == "ready")
        pids.add(row["pid"])
        assert row["deaths"] == 0
    assert len(pids) == 2
