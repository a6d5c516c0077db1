"""How a command acts for a tenant: with a token of its own, which ends with it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.acting import acting
from protocol.errors import ErrorCode, GatewayError
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway

WAIT_SECONDS = 20.0
# Says that it acts, then waits to be told to end. A shell that starts us with `&` has us ignore
# Ctrl-C, and those that we start.
HOLDER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from cli.acting import acting
with acting("acme", "test"):
    print("acts", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    state_dir = make_state_dir()
    try:
        with Gateway(state_dir) as running:
            running.create("acme")
            yield running
    finally:
        remove_tree(state_dir)


@pytest.fixture(autouse=True)
def here(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCLAW_STATE_DIR", str(gateway.state_dir))
    monkeypatch.delenv("OPENCLAW_ADMIN_KEY", raising=False)


def tokens(gateway: Gateway) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = gateway.openclaw_json("tenants", "token", "list", "acme")
    return [token for token in listed if token["name"].startswith("cli-")]


def audited(gateway: Gateway) -> list[dict[str, Any]]:
    lines = Path(gateway.state_dir / "audit.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["action"].startswith("token.")]


def test_a_command_has_the_tenants_methods_and_what_it_asked_for(gateway: Gateway) -> None:
    with acting("acme", "test", scopes=("read",), seconds=60) as acts:
        assert msgspec.json.decode(acts.call("health", {}))["ok"] is True
        (token,) = tokens(gateway)
        assert token["name"].startswith(f"cli-{os.getuid()}-test-")
        assert token["scopes"] == ["read"]
        assert "expiresAt" in token
        with pytest.raises(GatewayError) as refused:
            acts.call("chat.send", {"sessionKey": "agent:main:main", "message": "x"})
        assert refused.value.code is ErrorCode.FORBIDDEN
        assert refused.value.details == {"requiredScope": "write"}
        secret = acts.secret
    assert tokens(gateway) == []
    assert gateway.rpc_reply(secret, "health", {}).status == 401
    created, revoked = audited(gateway)[-2:]
    assert (created["action"], revoked["action"]) == ("token.created", "token.revoked")
    assert created["detail"]["after"]["name"] == token["name"]
    assert revoked["detail"]["before"]["tokenId"] == token["tokenId"]


def test_a_stream_comes_in_pieces_and_ends_with_its_result() -> None:
    with acting("acme", "test") as acts:
        params = {"sessionKey": "agent:main:main", "message": "one two three"}
        *pieces, (name, result) = acts.stream("chat.send", params)
        assert name == "result"
        assert msgspec.json.decode(result)["status"] == "ok"
        texts = [msgspec.json.decode(data)["deltaText"] for _, data in pieces]
        assert "one two three" in "".join(texts)
        with pytest.raises(GatewayError) as refused:
            list(acts.stream("chat.send", {"sessionKey": "agent:main:main"}))
        assert refused.value.code is ErrorCode.INVALID_REQUEST


def test_another_token_replaces_the_first(gateway: Gateway) -> None:
    with acting("acme", "test") as acts:
        first = acts.secret
        acts.renew()
        assert acts.secret != first
        assert len(tokens(gateway)) == 1
        assert gateway.rpc_reply(first, "health", {}).status == 401
        acts.call("health", {})
    assert tokens(gateway) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_does_not_leave_the_token(gateway: Gateway, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "acts\n"
        assert len(tokens(gateway)) == 1
        holder.send_signal(number)
        assert holder.wait(WAIT_SECONDS) != 0
    assert tokens(gateway) == []


def test_a_tenant_that_is_not_there_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, acting("nobody", "test"):
        pass
    assert left.value.code == 1
    assert "nobody" in capsys.readouterr().err


def test_without_a_gateway_there_is_nothing_to_act_with(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENCLAW_STATE_DIR", str(state_dir))
    with pytest.raises(SystemExit), acting("acme", "test"):
        pass
    assert "no gateway is running" in capsys.readouterr().err
