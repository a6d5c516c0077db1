"""A turn that takes its worker down is never run again: the tenant lives on without it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workers.crowd import Crowd
from tests.workers.poison import GO, POISON

TENANT = "always-poisoned"
KEY = "agent:main:poison:s"


@pytest.fixture
def gateway(state_dir: Path) -> Iterator[Crowd]:
    with Crowd(state_dir) as running:
        yield running


def send(gateway: Crowd, token: str, text: str, key: str = KEY) -> dict[str, Any]:
    """Send until there is an answer, as a client that retries with its idempotency key does."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "sessions.send"}
    call["params"] = {"key": key, "message": text}
    while True:
        reply = gateway.post(
            "/rpc", token, call, **{"Idempotency-Key": f"{key}-{text}".replace(" ", "-")}
        )
        body: dict[str, Any] = reply.json
        if "result" in body:
            result: dict[str, Any] = body["result"]
            return result
        assert body["error"]["data"]["retryable"] is True, body


def ended(gateway: Crowd, token: str, run: str) -> str:
    """Wait for a turn's end through whatever the worker goes through."""
    while True:
        reply = gateway.rpc_reply(token, "agent.wait", {"runId": run, "timeoutMs": 20_000})
        if reply.status == 200:
            status: str = reply.json["result"]["status"]
            return status
        assert reply.json["error"]["data"]["retryable"] is True, reply.body


def let_it_act(gateway: Crowd) -> None:
    path = gateway.state_dir / "tenants" / TENANT / GO
    path.touch()
    path.chmod(0o644)


def test_it_is_not_resumed_and_its_retry_does_not_run_it(gateway: Crowd) -> None:
    token = gateway.create(TENANT)
    gateway.rpc(token, "sessions.create", key=KEY)
    first = send(gateway, token, POISON)
    let_it_act(gateway)
    assert ended(gateway, token, first["runId"]) == "interrupted"
    for _ in range(3):
        again = send(gateway, token, POISON)
        assert (again["runId"], again["status"]) == (first["runId"], "interrupted")
        assert "cut off" in again["error"]
    assert gateway.status(TENANT)["deaths"] == 1
    good = send(gateway, token, "hello")
    assert ended(gateway, token, good["runId"]) == "ok"
    assert gateway.status(TENANT)["deaths"] == 1


def test_a_session_of_poison_is_put_aside_after_the_second_crash(gateway: Crowd) -> None:
    token = gateway.create(TENANT)
    for key in (KEY, f"{KEY}2"):
        gateway.rpc(token, "sessions.create", key=key)
    runs = [send(gateway, token, f"{POISON} {number}")["runId"] for number in range(8)]
    good = send(gateway, token, "hello", f"{KEY}2")["runId"]
    let_it_act(gateway)
    assert [ended(gateway, token, run) for run in runs] == ["interrupted"] * 8
    assert ended(gateway, token, good) == "ok"
    row = gateway.status(TENANT)
    assert (row["state"], row["deaths"]) == ("ready", 2), row
    # Who asks anew is answered anew.
    assert ended(gateway, token, send(gateway, token, "and now?")["runId"]) == "ok"
