"""Egress in a real gateway: killed under calls, bounded for each tenant, told of changes."""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway, Reply, ends
from tests.upstream.fake import FakeUpstream

CONCURRENT = 2
CONTEXT = 100_000
HANGS = "fake/fault:hang"


class House(NamedTuple):
    """A gateway with a fake upstream behind it, and the tenants' tokens."""

    gateway: Gateway
    upstream: FakeUpstream
    acme: str
    globex: str

    def ask(self, token: str, model: str, **more: Any) -> Reply:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}
        return self.gateway.post("/v1/chat/completions", token, body)

    def configure(self, **changes: Any) -> None:
        """Write another configuration and have it be in force."""
        (self.gateway.state_dir / "config.yaml").write_text(json.dumps(config(self) | changes))
        done = self.gateway.openclaw("gateway", "reload")
        assert done.returncode == 0, done.stderr


def config(house: House) -> dict[str, Any]:
    return configuration(house.upstream)


def configuration(upstream: FakeUpstream) -> dict[str, Any]:
    return {
        "gateway": {"port": 0},
        "providers": {"fake": {"type": "openai", "base_url": upstream.base_url}},
        "models": {"fake": {"provider": "fake"}, HANGS: {"provider": "fake"}},
        "billing": {"unpriced": "allow"},
        "egress": {"allow_hosts": [upstream.host_port], "concurrent": CONCURRENT},
    }


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    state_dir = make_state_dir()
    try:
        with FakeUpstream() as upstream:
            (state_dir / "config.yaml").write_text(json.dumps(configuration(upstream)))
            with Gateway(state_dir) as gateway:
                yield House(gateway, upstream, gateway.create("acme"), gateway.create("globex"))
    finally:
        remove_tree(state_dir)


def test_killed_its_calls_fail_as_ones_to_try_again_and_workers_live_on(house: House) -> None:
    gateway = house.gateway
    assert house.ask(house.acme, "fake").status == 200
    assert house.ask(house.globex, "fake").status == 200
    workers = [gateway.process(f"openclaw: worker {name}").pid for name in ("acme", "globex")]
    egress = gateway.process("openclaw: egress")
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(house.ask, token, HANGS) for token in (house.acme, house.globex)]
        house.upstream.wait(answering=2)
        with ends(egress):
            egress.send_signal(signal.SIGKILL)
        for answer in asked:
            reply = answer.result()
            assert reply.status == 503, reply.body
            assert "retry-after" in reply.headers
    for token in (house.acme, house.globex):  # it waits for the next one
        assert house.ask(token, "fake").status == 200
        key = gateway.rpc(token, "sessions.create", message="hello")["runId"]
        assert gateway.rpc(token, "agent.wait", runId=key)["status"] == "ok"
    assert workers == [
        gateway.process(f"openclaw: worker {name}").pid for name in ("acme", "globex")
    ]
    assert gateway.process("openclaw: egress").pid != egress.pid


def test_a_tenant_has_so_many_calls_out_and_its_neighbour_does_not_wait(house: House) -> None:
    house.upstream.reset()
    with ThreadPoolExecutor() as pool:
        hanging = [pool.submit(house.ask, house.acme, HANGS) for _ in range(CONCURRENT)]
        house.upstream.wait(answering=CONCURRENT)
        waits = pool.submit(house.ask, house.acme, "fake")
        assert house.ask(house.globex, "fake").status == 200
        assert not waits.done()
        assert house.upstream.seen()["models"].get("fake") == 1  # the neighbour's
        egress = house.gateway.process("openclaw: egress")
        with ends(egress):
            egress.kill()
        assert [each.result().status for each in hanging] == [503] * CONCURRENT
        assert waits.result().status == 503


def test_models_are_listed_and_chosen_among(house: House) -> None:
    gateway, token = house.gateway, house.acme
    listed = gateway.rpc(token, "models.list")
    assert listed["default"] == "builtin/echo"
    assert [model["id"] for model in listed["models"]] == ["builtin/echo", "fake", HANGS]
    refused = gateway.rpc_reply(token, "config.set", {"raw": '{"agent": {"model": "gpt-9"}}'})
    assert refused.status == 400
    assert refused.json["error"]["data"]["field"] == "raw.agent.model"
    gateway.rpc(token, "config.set", raw='{"agent": {"model": "fake"}}')
    assert gateway.rpc(token, "models.list")["default"] == "fake"
    assert answer(gateway, token) == "You said: hello"
    gateway.rpc(token, "config.set", raw="{}")


def test_what_is_configured_changes_live(house: House) -> None:
    gateway, token = house.gateway, house.globex
    pid = gateway.process("openclaw: egress").pid
    assert house.ask(token, "other").status == 404
    house.configure(
        models={"other": {"provider": "fake", "upstream_model": "fake", "context_window": CONTEXT}},
        agents={"model": "other"},
    )
    assert house.ask(token, "other").status == 200
    assert house.ask(token, "fake").status == 404
    listed = gateway.rpc(token, "models.list")
    assert listed["default"] == "other"
    assert [model.get("contextWindow") for model in listed["models"]] == [None, CONTEXT]
    assert answer(gateway, token) == "You said: hello"
    # What a tenant has chosen is gone: its turns fail by its name until it chooses again.
    gateway.rpc(token, "config.set", raw='{"agent": {"model": "other"}}')
    house.configure()
    assert "there is no model other" in failure(gateway, token)
    gateway.rpc(token, "config.set", raw="{}")
    assert answer(gateway, token) == "echo: hello"
    assert gateway.process("openclaw: egress").pid == pid


def turn(gateway: Gateway, token: str) -> tuple[str, dict[str, Any]]:
    made = gateway.rpc(token, "sessions.create", message="hello")
    return made["key"], gateway.rpc(token, "agent.wait", runId=made["runId"])


def answer(gateway: Gateway, token: str) -> str:
    key, ended = turn(gateway, token)
    assert ended["status"] == "ok", ended
    said = gateway.rpc(token, "chat.history", sessionKey=key)["messages"][-1]
    text: str = "".join(part["text"] for part in said["content"])
    return text


def failure(gateway: Gateway, token: str) -> str:
    _, ended = turn(gateway, token)
    assert ended["status"] == "error", ended
    return json.dumps(ended)


def test_a_tenant_is_not_told_what_an_earlier_one_of_its_id_has_used(house: House) -> None:
    gateway = house.gateway
    ask = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "user": "ann"}
    first = gateway.create("again")
    assert gateway.post("/v1/chat/completions", first, ask).status == 200
    report = {"period": "current-month", "format": "json"}
    assert len(gateway.rpc(first, "usage.report", **report)["rows"]) == 1
    gateway.openclaw("tenants", "delete", "again", "--confirm")
    second = gateway.create("again")
    assert gateway.rpc(second, "usage.report", **report)["rows"] == []
    crafted = {**report, "cursor": f"0.0.{2**40}"}
    assert gateway.rpc(second, "usage.report", **crafted)["rows"] == []
    assert gateway.rpc(second, "sessions.usage")["sessions"] == []
    assert gateway.post("/v1/chat/completions", second, ask).status == 200
    assert len(gateway.rpc(second, "usage.report", **report)["rows"]) == 1
