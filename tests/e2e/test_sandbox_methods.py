"""`sandbox.list|kill|status|explain`, choice and the tool `exec`, with a launcher that launches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway
from tests.e2e.sandboxes import Run, check_explained, running, wait_running

KEY = "agent:main:main"


class Two:
    """A gateway that allows bubblewrap alone, and two tenants."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.acme, self.globex = gateway.create("acme"), gateway.create("globex")


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    path = make_state_dir()
    (path / "config.yaml").write_text("sandbox: {allowed: [bubblewrap], wall_seconds: 100}\n")
    try:
        with Gateway(path) as gateway:
            yield Two(gateway)
    finally:
        remove_tree(path)


def test_a_sandbox_is_seen_and_ended_by_its_tenant_alone(two: Two) -> None:
    run = Run(two.gateway, two.acme, "sleep", "60")
    (found,) = wait_running(two.gateway, two.acme, 1)
    assert (found["argv"], found["name"], found["kind"]) == (["sleep", "60"], "main", "run")
    assert running(two.gateway, two.globex) == []
    theirs, absent = (
        two.gateway.rpc_reply(two.globex, "sandbox.kill", {"sandboxId": name})
        for name in (found["sandboxId"], "0" * len(found["sandboxId"]))
    )
    assert (theirs.status, theirs.body) == (404, absent.body)
    assert two.gateway.rpc(two.acme, "sandbox.status")["running"] == 1
    assert running(two.gateway, two.acme) == [found]
    assert two.gateway.rpc(two.acme, "sandbox.kill", sandboxId=found["sandboxId"]) == {"ok": True}
    run.join()
    assert (run.result["signal"], run.result["exitCode"]) == (9, None)
    assert run.result["sandboxId"] == found["sandboxId"]
    assert wait_running(two.gateway, two.acme, 0) == []
    gone = two.gateway.rpc_reply(two.acme, "sandbox.kill", {"sandboxId": found["sandboxId"]})
    assert gone.body == absent.body


def test_what_is_explained_is_what_a_program_finds(two: Two) -> None:
    check_explained(two.gateway, two.acme, "bubblewrap")


def test_each_value_says_who_said_it(two: Two) -> None:
    def sources(**asked: Any) -> dict[str, str]:
        told = two.gateway.rpc(two.globex, "sandbox.explain", **asked)["profile"]
        return {name: each["source"] for name, each in told.items()}

    plain = sources()
    assert set(plain.values()) == {"gateway"}
    limits = {"memoryBytes": 2**25, "pids": 10**6}
    called = sources(sandbox="bubblewrap", timeoutMs=500_000, limits=limits)
    assert (called["mode"], called["memoryBytes"]) == ("call", "call")
    assert (called["pids"], called["wallSeconds"]) == ("operator", "operator")
    two.gateway.rpc(two.globex, "config.set", raw="tools: {exec: {sandbox: bubblewrap}}")
    assert sources(tool="exec")["mode"] == "tool"
    assert sources()["mode"] == "gateway"


def test_a_mode_that_is_not_allowed_is_never_another_one(two: Two) -> None:
    for method, params, field in (
        ("sandbox.run", {"argv": ["touch", "here"], "sandbox": "docker"}, "sandbox"),
        ("sandbox.explain", {"sandbox": "docker"}, "sandbox"),
        ("config.set", {"raw": "sandbox: {mode: docker}"}, "raw.sandbox.mode"),
        ("config.set", {"raw": "tools: {exec: {sandbox: docker}}"}, "raw.tools.exec.sandbox"),
    ):
        reply = two.gateway.rpc_reply(two.acme, method, params)
        assert (reply.status, reply.json["error"]["data"]["field"]) == (400, field)
        assert "bubblewrap" in reply.json["error"]["message"]
    path = Path(two.gateway.state_dir, "tenants/acme")
    assert not list(path.glob("sandbox/*/here"))
    # Where the file was written while it was allowed, the call says so.
    (path / "config.yaml").write_text("sandbox: {mode: docker}\n")
    (path / "config.yaml").chmod(0o644)
    reply = two.gateway.rpc_reply(two.acme, "sandbox.run", {"argv": ["touch", "here"]})
    assert (reply.status, reply.json["error"]["data"]["field"]) == (409, "sandbox.mode")
    assert not list(path.glob("sandbox/*/here"))
    (path / "config.yaml").unlink()


def test_an_agent_runs_what_it_is_told_to(two: Two) -> None:
    def reply(text: str) -> str:
        answer = two.gateway.inbound(two.acme, text).json
        said: str = answer["reply"]["text"]
        return said

    said = reply("/run bash -c 'echo $((6*7)) > answer; cat answer; exit 3'")
    assert said.startswith("exit code 3 ")
    assert said.splitlines()[2] == "42"
    assert two.gateway.rpc(two.acme, "sandbox.files.get", path="answer")["data"] == "42\n"
    assert "exit code" not in reply("/run nosuchprogram") or "127" in reply("/run nosuchprogram")
