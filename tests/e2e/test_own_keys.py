"""A key that a tenant brings: it is used for that tenant alone, and is nowhere else."""

import contextlib
import json
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest

from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import REQUEST_SECONDS, Gateway, ends
from tests.e2e.memory import holds
from tests.upstream.fake import FakeUpstream

OPERATORS = "sk-canary-operator-51c7a0b3"
OWN = "sk-canary-own-9e04d7f26b18"


class House(NamedTuple):
    """A gateway, and the tenant `acme` that has brought a key; `globex` has none."""

    gateway: Gateway
    upstream: FakeUpstream
    state_dir: Path
    acme: str
    globex: str

    def say(self, token: str, text: str = "hello") -> Any:
        return self.gateway.inbound(token, text).json

    def replace_egress(self) -> None:
        """Kill it, and wait until workers are answered by the next."""
        with ends(process := self.gateway.process("openclaw: egress")):
            process.kill()
        deadline = time.monotonic() + REQUEST_SECONDS
        for token in (self.acme, self.globex):
            while self.gateway.rpc_reply(token, "models.list", {}).status != HTTPStatus.OK:
                assert time.monotonic() < deadline

    def asked_with(self) -> str:
        key: str = self.upstream.seen()["last"]["headers"]["authorization"]
        return key.removeprefix("Bearer ")

    def rows(self, file: str, query: str) -> list[tuple[Any, ...]]:
        path = str(self.state_dir / "ledger" / file)
        flags = apsw.SQLITE_OPEN_READONLY
        with contextlib.closing(apsw.Connection(path, flags=flags)) as db:
            return list(db.execute(query))


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    state_dir = make_state_dir()
    with contextlib.ExitStack() as stack:
        stack.callback(remove_tree, state_dir)
        upstream = stack.enter_context(FakeUpstream())
        provider = {"type": "openai", "base_url": upstream.base_url, "api_key": OPERATORS}
        config = {
            "providers": {"fake": provider},
            "models": {"fake": {"provider": "fake"}},
            "agents": {"model": "fake"},
            "billing": {"rate_card": {"fake": {"input": 1, "output": 2}}},
            "egress": {"allow_hosts": [upstream.host_port], "retries": 0},
        }
        (state_dir / "config.yaml").write_text(json.dumps(config))
        gateway = stack.enter_context(Gateway(state_dir))
        acme, globex = gateway.create("acme"), gateway.create("globex")
        said = gateway.rpc(acme, "models.keys.set", provider="fake", apiKey=OWN)
        assert said == {"ok": True, "provider": "fake"}
        yield House(gateway, upstream, state_dir, acme, globex)


def test_it_pays_for_its_tenants_calls_alone(house: House) -> None:
    for token, key in ((house.acme, OWN), (house.globex, OPERATORS)):
        assert house.say(token)["status"] == "ok"
        assert house.asked_with() == key
    query = "SELECT tenant, own_key, cost_micro_usd > 0, input_tokens > 0 FROM entries ORDER BY id"
    assert house.rows("ledger.sqlite", query) == [("acme", 1, 0, 1), ("globex", 0, 1, 1)]
    assert house.gateway.rpc(house.acme, "tenants.usage")["totalCostMicroUsd"] == 0
    assert house.gateway.rpc(house.acme, "tenants.usage")["totalTokens"] > 0
    assert house.gateway.rpc(house.globex, "models.keys.list") == {"keys": []}
    told = house.gateway.openclaw("billing", "report", "acme", "--json").stdout
    assert json.loads(told)["ownKey"] is True
    assert house.gateway.openclaw("billing", "reconcile").returncode == 0


def test_it_outlives_egress(house: House) -> None:
    house.replace_egress()
    assert house.say(house.acme)["status"] == "ok"
    assert house.asked_with() == OWN


def test_nobody_is_told_it_and_nothing_keeps_it(house: House) -> None:
    answers = [
        json.dumps(house.gateway.rpc(house.acme, method))
        for method in ("models.keys.list", "usage.status", "usage.report", "config.get", "health")
    ]
    answers += [
        json.dumps(house.say(house.acme, f"[[fault:{each}]]")) for each in ("key", "key-400")
    ]
    for key in (OWN + " ", OWN + "\n", f"{OWN}ä", OWN * 400):
        params = {"provider": "fake", "apiKey": key}
        refused = house.gateway.rpc_reply(house.acme, "models.keys.set", params)
        assert refused.status == 400
        answers.append(refused.body.decode())
    assert not any(OWN in answer for answer in answers)
    searched = [path for path in house.state_dir.rglob("*") if path.is_file()]
    assert any(path.name == "keys.sqlite" for path in searched)
    assert not any(OWN.encode() in path.read_bytes() for path in searched)


@pytest.mark.root
def test_it_is_in_no_ones_memory_but_egress_s(house: House) -> None:
    # The call that brought it went through these; what a process has freed may still lie there.
    house.gateway.openclaw("tenants", "restart", "acme")
    assert house.say(house.acme)["status"] == "ok"
    assert house.say(house.globex)["status"] == "ok"
    processes = house.gateway.processes()
    assert {"openclaw: worker acme", "openclaw: worker globex"} <= processes.keys()
    holders = {title for title, process in processes.items() if holds(process.pid, OWN)}
    assert holders <= {"openclaw: egress", "openclaw: front"}
    assert not any(holds(spare.pid, OWN) for spare in house.gateway.spares())


def test_moved_to_another_tenant_it_does_not_open_and_it_goes_with_its_own(house: House) -> None:
    path = str(house.state_dir / "ledger" / "keys.sqlite")
    with contextlib.closing(apsw.Connection(path)) as db:
        db.execute(
            "INSERT INTO keys SELECT 'globex', provider, nonce, sealed, created_at FROM keys"
        )
    house.replace_egress()
    said = house.say(house.globex)
    assert "does not open" in said["error"]
    assert house.gateway.rpc(house.globex, "models.keys.delete", provider="fake")["deleted"]
    assert house.say(house.globex)["status"] == "ok"
    assert house.asked_with() == OPERATORS
    assert house.gateway.rpc(house.acme, "tenants.delete", confirm="acme")["deleted"]
    again = house.gateway.create("acme")
    assert house.say(again)["status"] == "ok"
    assert house.asked_with() == OPERATORS
    assert house.rows("keys.sqlite", "SELECT * FROM keys") == []
