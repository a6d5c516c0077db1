"""The till through the whole gateway: calls at once, an egress that is killed, a hostile worker."""

import contextlib
import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from supervisor import ledger_reading
from supervisor.egress.ledger_till import unix_ms
from supervisor.ledger_check import Reconciled, reconcile
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import REQUEST_SECONDS, ends
from tests.upstream.fake import FakeUpstream
from tests.workers.crowd import Crowd
from tests.workers.spenders import ASKED

CALLS = 200
ADMITTED = 37
HANGS = "fake/fault:hang"


class House(NamedTuple):
    """A gateway and the fake upstream behind it."""

    gateway: Crowd
    upstream: FakeUpstream
    state_dir: Path

    def limit(self, tenant: str, **quota: int | None) -> None:
        reply = self.gateway.control("PATCH", f"/v1/tenants/{tenant}", {"quota": quota})
        assert reply.status == 200, reply.body

    def reserved(self, tenant: str) -> list[int]:
        """The tokens of each call of a tenant that is under way."""
        with self.reading() as db:
            rows = db.execute("SELECT tokens FROM reservations WHERE tenant = ?", (tenant,))
            return [tokens for (tokens,) in rows]

    def entries(self, tenant: str) -> list[ledger_reading.Entry]:
        with self.reading() as db:
            return list(ledger_reading.entries(db, tenant=tenant))

    def reading(self) -> Any:
        db = ledger_reading.open_ledger(self.state_dir / "ledger")
        assert db is not None
        return closing(db)

    def reconcile(self) -> Reconciled:
        with self.reading() as db:
            return reconcile(db, unix_ms())


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(FakeUpstream())
        state_dir = make_state_dir()
        stack.callback(remove_tree, state_dir)
        config = {
            "providers": {"fake": {"type": "openai", "base_url": upstream.base_url}},
            "models": {name: {"provider": "fake"} for name in ("fake", HANGS)},
            "billing": {"rate_card": {"*": {"input": 1.5, "output": 2}}},
            "egress": {"allow_hosts": [upstream.host_port], "concurrent": 1024, "retries": 0},
        }
        (state_dir / "config.yaml").write_text(json.dumps(config))
        yield House(stack.enter_context(Crowd(state_dir)), upstream, state_dir)


class Caller(threading.Thread):
    """One client that asks once, and waits as long as it takes."""

    def __init__(self, house: House, token: str) -> None:
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection(house.gateway.address, timeout=REQUEST_SECONDS)
        self._token = token
        self.status = 0
        self.start()

    def run(self) -> None:
        said = [{"role": "user", "content": "hello"}]
        body = json.dumps({"model": HANGS, "messages": said, "max_tokens": 50})
        headers = {"authorization": f"Bearer {self._token}", "content-type": "application/json"}
        ignored = contextlib.suppress(OSError, http.client.HTTPException)
        with closing(self.connection), ignored:
            self.connection.request("POST", "/v1/chat/completions", body, headers)
            with self.connection.getresponse() as answer:
                self.status = answer.status

    def leave(self) -> None:
        if self.connection.sock is not None:
            self.connection.sock.shutdown(2)


def test_of_calls_at_once_exactly_those_that_fit_are_made(house: House) -> None:
    token = house.gateway.create("many")
    callers = [Caller(house, token)]
    before = house.upstream.wait(answering=1)["requests"] - 1
    (each,) = house.reserved("many")
    house.limit("many", tokensPerMonth=each * (ADMITTED + 1) - 1)
    callers += [Caller(house, token) for _ in range(CALLS - 1)]
    seen = house.upstream.wait(answering=ADMITTED)
    for caller in callers:
        caller.join(0 if caller.status == 0 else None)
    # Those that were refused have been answered; the others wait for their answer.
    while sum(caller.status != 0 for caller in callers) < CALLS - ADMITTED:
        next(caller for caller in callers if caller.status == 0).join(0.05)
    refused = [caller for caller in callers if caller.status]
    assert Counter(caller.status for caller in refused) == {429: CALLS - ADMITTED}
    assert house.upstream.seen()["requests"] - before == ADMITTED, seen
    assert house.reserved("many") == [each] * ADMITTED

    # Killed, all of them fail, what they had reserved is free, and nobody is charged.
    egress = house.gateway.process("openclaw: egress")
    with ends(egress):
        egress.kill()
    for caller in callers:
        caller.join()
    assert Counter(caller.status for caller in callers) == {429: CALLS - ADMITTED, 503: ADMITTED}
    house.upstream.wait(answering=0)
    again = [Caller(house, token) for _ in range(ADMITTED + 1)]
    house.upstream.wait(answering=ADMITTED)
    assert house.reserved("many") == [each] * ADMITTED
    assert house.entries("many") == []

    # Those who go are charged by estimate, and what they come to is within the limit.
    for caller in again:
        caller.leave()
    for caller in again:
        caller.join()
    house.upstream.wait(answering=0)
    while house.reserved("many"):
        again[0].join(0.05)
    rows = house.entries("many")
    assert [row.estimated for row in rows] == [1] * ADMITTED
    result = house.reconcile()
    assert (result.found, result.open_reservations) == (0, 0), result


def test_a_hostile_worker_at_its_limit_makes_no_call_and_touches_no_row(house: House) -> None:
    tenant = "always-spends"
    token = house.gateway.create(tenant)

    def acts(**wanted: str) -> Any:
        return house.gateway.rpc(token, "sessions.list", **wanted)

    assert acts(model="fake")["answers"] == {"ok": ASKED}
    spent = sum(row.input_tokens + row.output_tokens for row in house.entries(tenant))
    house.limit(tenant, tokensPerMonth=spent)
    rows, before = house.entries(tenant), house.upstream.seen()["requests"]
    assert acts(model="fake")["answers"] == {"QUOTA_EXCEEDED": ASKED}
    assert acts(model="builtin/echo")["answers"] == {"QUOTA_EXCEEDED": ASKED}
    assert acts(model="fake", search="claim")["answers"] == {"INVALID_REQUEST": ASKED}
    assert acts(search="ledger")["opened"] == []
    # It says what only the supervisor may say: that is its end.
    house.gateway.rpc_reply(token, "sessions.list", {"search": "quotas"})
    house.gateway.wait_for_state(tenant, "ready", deaths=1)
    assert acts(model="fake")["answers"] == {"QUOTA_EXCEEDED": ASKED}
    assert house.upstream.seen()["requests"] == before
    assert house.entries(tenant) == rows
    assert house.reconcile().found == 0


def test_a_sandboxs_seconds_are_on_its_tenants_bill(house: House) -> None:
    token = house.gateway.create("sandboxed")
    ran = house.gateway.rpc(token, "sandbox.run", argv=["/bin/sh", "-c", "exit 3"])
    assert ran["exitCode"] == 3
    while not (rows := house.entries("sandboxed")):
        threading.Event().wait(0.02)
    (row,) = rows
    assert (row.kind, row.provider, row.request_id) == ("sandbox", ran["mode"], ran["sandboxId"])
    assert row.wall_ms > 0
