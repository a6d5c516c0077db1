"""Quotas through the real gateway: refused at the front, also after the front or all of it died."""

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import REQUEST_SECONDS, Reply
from tests.e2e.restarting import Restarting, Stream, session, talk

HOUR_SECONDS = 3600
SLOW = "always-slow"


class House:
    """One gateway for all tests here; one of them starts it again."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.gateway = Restarting(state_dir)

    def restart(self) -> None:
        assert self.gateway.stop()[0] == 0
        self.gateway = Restarting(self.state_dir)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    state_dir = make_state_dir()
    house = House(state_dir)
    yield house
    house.gateway.close()
    remove_tree(state_dir)


def within_an_hour(work: Callable[[int], None]) -> None:
    """Do it again, with another number, if the hour that it counts in was over meanwhile."""
    for number in range(3):
        hour = time.time() // HOUR_SECONDS
        try:
            work(number)
        except AssertionError:
            if time.time() // HOUR_SECONDS == hour:
                raise
        else:
            return


def asked(house: House, token: str) -> Reply:
    return house.gateway.rpc_reply(token, "tenants.get", {})


def answered(house: House, token: str, method: str = "tenants.get", **params: str) -> Reply:
    """Ask until there is a front that answers: the connection to a killed one breaks."""
    while True:
        with contextlib.suppress(ConnectionError, http.client.RemoteDisconnected):
            return house.gateway.rpc_reply(token, method, params)


def has_worker(house: House, tenant: str) -> bool:
    return f"openclaw: worker {tenant}" in house.gateway.processes()


def used(house: House, token: str) -> Any:
    status = house.gateway.rpc(token, "tenants.quota.status")
    (window,) = [each for each in status["windows"] if each["metric"] == "requestsPerHour"]
    return window["used"]


def test_requests_are_counted_over_every_death_and_nobody_is_woken(house: House) -> None:
    def count(number: int) -> None:
        tenant = f"acme-{number}"
        line = ("tenants", "create", tenant, "--quota.requests-per-hour", "6")
        token = house.gateway.openclaw_json(*line)["token"]
        assert asked(house, token).status == 200
        assert used(house, token) == 2
        house.gateway.process("openclaw: front").kill()
        assert answered(house, token).status == 200
        assert used(house, token) == 4
        house.restart()
        assert used(house, token) == 5
        assert asked(house, token).status == 200
        refused = asked(house, token)
        assert refused.status == 429
        data = refused.json["error"]["data"]
        assert (data["metric"], data["limit"], data["used"]) == ("requestsPerHour", 6, 6)
        assert 0 < int(refused.headers["retry-after"]) <= HOUR_SECONDS
        blocked = house.gateway.openclaw_json("tenants", "quota", tenant)
        assert (blocked["isBlocked"], blocked["blockedBy"]) == (True, "requestsPerHour")
        assert blocked["nextWindowAt"] == data["nextWindowAt"]
        said = house.gateway.openclaw("tenants", "quota", tenant, "--quota.requests-per-hour", "7")
        assert "requestsPerHour       6 of 7 (85.71 %), next window" in said.stdout
        assert asked(house, token).status == 200
        assert asked(house, token).status == 429
        house.gateway.openclaw_json("tenants", "quota", tenant, "--quota.requests-per-hour", "none")
        assert asked(house, token).status == 200
        assert not has_worker(house, tenant)

    within_an_hour(count)


def test_who_has_used_up_his_tokens_is_refused_over_every_death_and_nobody_is_woken(
    house: House,
) -> None:
    def spend(number: int) -> None:
        tenant = f"spender-{number}"
        line = ("tenants", "create", tenant, "--quota.tokens-per-day", "100")
        token = house.gateway.openclaw_json(*line)["token"]
        first = house.gateway.inbound(token, "hello")
        assert (first.status, first.json["status"]) == (200, "error")
        assert first.json["error"].startswith(
            "quota exceeded: tokensPerDay is 100, used 0, and more"
        )
        while house.gateway.inbound(token, "hello").status != HTTPStatus.TOO_MANY_REQUESTS:
            pass  # egress has said so, and the front hears of it in a moment

        def check_refused() -> None:
            for method, params in (
                ("chat.send", {"sessionKey": "agent:main:main", "message": "hi"}),
                ("agent", {"message": "hi", "idempotencyKey": "1"}),
            ):
                refused = answered(house, token, method, **params)
                assert refused.status == HTTPStatus.TOO_MANY_REQUESTS
                data = refused.json["error"]["data"]
                assert (data["code"], data["metric"]) == ("QUOTA_EXCEEDED", "tokensPerDay")
                assert data["nextWindowAt"].endswith("T00:00:00.000Z")
                assert int(refused.headers["retry-after"]) <= 86_400
            status = answered(house, token, "tenants.quota.status").json["result"]
            assert (status["isBlocked"], status["blockedBy"]) == (True, "tokensPerDay")

        check_refused()
        for title in ("openclaw: front", "openclaw: egress"):
            house.gateway.process(title).kill()
            check_refused()
        house.restart()
        check_refused()
        assert not has_worker(house, tenant)
        (row,) = house.gateway.openclaw_json("tenants", "status", tenant)
        assert row["blocked"].startswith("quota exceeded: tokensPerDay is 100")
        assert answered(house, token, "sessions.list").status == HTTPStatus.OK
        said = house.gateway.openclaw_json(
            *("tenants", "quota", tenant, "--quota.tokens-per-day", "1_000_000")
        )
        assert not said["isBlocked"]
        assert house.gateway.inbound(token, "hello").json["status"] == "ok"

    within_an_hour(spend)


def test_an_operator_changes_a_quota_by_a_method_and_no_tenant_does(house: House) -> None:
    gateway = house.gateway
    token = gateway.create("globex")
    params = {"tenantId": "globex", "quota": {"concurrentRuns": 0}}
    refused = gateway.rpc_reply(token, "tenants.quota.update", params)
    assert refused.status == 403
    assert "admin key" in refused.json["error"]["message"]
    assert gateway.rpc_reply("ak_" + "0" * 64, "tenants.quota.update", params).status == 401
    result = gateway.rpc(gateway.admin_key, "tenants.quota.update", **params)
    assert result == {"tenantId": "globex", "updated": True, "quota": {"concurrentRuns": 0}}
    reply = gateway.inbound(token, "hello")
    assert (reply.status, reply.json["error"]["data"]["metric"]) == (429, "concurrentRuns")
    assert gateway.rpc(token, "tenants.get")["quota"] == {"concurrentRuns": 0}
    assert not has_worker(house, "globex")
    gateway.rpc(gateway.admin_key, "tenants.quota.update", tenantId="globex", quota={})
    change = {"concurrentRuns": None}
    gateway.rpc(gateway.admin_key, "tenants.quota.update", tenantId="globex", quota=change)
    assert gateway.inbound(token, "hello").status == 200
    audit = (gateway.state_dir / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in audit.splitlines()]
    changes = [
        (line["actor"], line["detail"]["before"]["quota"], line["detail"]["after"]["quota"])
        for line in lines
        if line["action"] == "tenant.updated" and line["tenant"] == "globex"
    ]
    assert changes == [
        ("admin", {}, {"concurrentRuns": 0}),
        ("admin", {"concurrentRuns": 0}, {}),
    ]


def test_so_many_runs_at_a_time_as_the_quota_says_now(house: House) -> None:
    gateway = house.gateway
    line = ("tenants", "create", SLOW, "--quota.concurrent-runs", "1")
    token = gateway.openclaw_json(*line)["token"]
    first = Stream(gateway, token, session(gateway, token, "a"), talk(1, 60.0)).under_way()
    second = Stream(gateway, token, session(gateway, token, "b"), talk(2, 60.0))
    second.start()
    while gateway.rpc(token, "health", probe=True)["sessions"]["turnsQueued"] == 0:
        pass
    assert not second.begun.is_set()
    gateway.openclaw_json("tenants", "update", SLOW, "--quota.concurrent-runs", "2")
    assert second.begun.wait(REQUEST_SECONDS)
    for key in ("a", "b"):
        gateway.rpc(token, "chat.abort", sessionKey=f"agent:main:test:{key}")
    assert {first.result()["status"], second.result()["status"]} == {"interrupted"}
