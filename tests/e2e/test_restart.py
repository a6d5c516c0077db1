"""One tenant's worker is replaced under load, by generations: nobody's request is lost."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.restarts import Restarts
from tests.e2e.gateway import REQUEST_SECONDS, ZYGOTE, ends
from tests.e2e.restarting import Restarting, Stream, session, talk
from tests.e2e.traffic import Traffic, text_of, transcripts
from tests.workers import slow

RESTARTS = 5
STREAM_SECONDS = 2.0
CLIENTS = 4
TENANT = "always-slow"


@pytest.fixture
def gateway(state_dir: Path) -> Iterator[Restarting]:
    with Restarting(state_dir) as running:
        yield running


# --- nothing is lost


@pytest.mark.timeout(60 + RESTARTS * (STREAM_SECONDS + 10))
def test_restarts_under_load(gateway: Restarting) -> None:
    """The short form of `scripts/chaos restart`."""
    said: list[str] = []
    restarts = Restarts(gateway, CLIENTS, STREAM_SECONDS, said.append)
    assert restarts.run(RESTARTS) == [], said


def test_a_turn_that_waits_in_the_old_generation_is_answered_by_the_new(
    gateway: Restarting,
) -> None:
    token = gateway.create(TENANT)
    key = session(gateway, token, "s")
    first = Stream(gateway, token, key, talk(1, 1.0)).under_way()
    with ThreadPoolExecutor(1) as pool:
        # It waits behind the first in the old generation, which starts nothing more.
        waiting = Stream(gateway, token, key, "and then?")
        waiting.start()
        while gateway.rpc(token, "health", probe=True)["sessions"]["turnsQueued"] == 0:
            pass
        restarted = pool.submit(gateway.restart, TENANT)
        assert first.result()["status"] == "ok"
        assert text_of(waiting.result()["reply"]) == "echo: and then?"
        assert restarted.result()[0] == 200


# --- runs of the generation that drains


def test_abort_and_wait_reach_the_draining_generation(gateway: Restarting) -> None:
    token = gateway.create(TENANT)
    key = session(gateway, token, "s")
    stream = Stream(gateway, token, key, talk(1, 20.0)).under_way()
    assert gateway.restart(TENANT)[0] == 200
    waited = gateway.rpc(token, "agent.wait", runId=stream.run_id, timeoutMs=0)
    assert waited["status"] == "timeout"
    assert waited["startedAt"]
    assert "endedAt" not in waited
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gateway.rpc, token, "agent.wait", runId=stream.run_id)
        queued = gateway.rpc(token, "sessions.send", key=key, message="never said")
        assert queued["status"] == "queued"
        aborted = gateway.rpc(token, "chat.abort", sessionKey=key)
        assert aborted["aborted"] is True
        assert set(aborted["runIds"]) == {stream.run_id, queued["runId"]}
        ended = waiting.result()
    assert ended["status"] == "interrupted"
    assert ended["endedAt"] >= ended["startedAt"]
    assert "aborted" in ended["error"]
    result = stream.result()
    assert result["status"] == "interrupted"
    assert slow.answer_of(talk(1, 20.0)).startswith(stream.text)
    never = gateway.rpc(token, "agent.wait", runId=queued["runId"])
    assert (never["status"], "startedAt" in never) == ("interrupted", False)
    assert gateway.rpc(token, "chat.abort", sessionKey=key)["aborted"] is False


def test_wait_hears_of_the_end_of_a_draining_generations_run(gateway: Restarting) -> None:
    token = gateway.create(TENANT)
    stream = Stream(
        gateway, token, session(gateway, token, "s"), talk(1, STREAM_SECONDS)
    ).under_way()
    assert gateway.restart(TENANT)[0] == 200
    waited = gateway.rpc(token, "agent.wait", runId=stream.run_id)
    assert (waited["runId"], waited["status"]) == (stream.run_id, "ok")
    assert stream.result()["status"] == "ok"


# --- a next generation that cannot start


@pytest.mark.parametrize("how", ["exits-1", "exits-78", "never-ready"])
def test_a_next_generation_that_cannot_start_changes_nothing(gateway: Restarting, how: str) -> None:
    token = gateway.create(TENANT)
    gateway.rpc(token, "sessions.create")
    before = gateway.status(TENANT)
    gateway.next_start(TENANT, how)
    with Traffic(gateway, token, 1) as traffic:
        done = gateway.openclaw("tenants", "restart", TENANT)
    assert done.returncode == 1
    assert "the next generation did not start" in done.stderr
    assert "serves on" in done.stderr
    assert traffic.failures == []
    after = gateway.status(TENANT)
    assert (after["state"], after["pid"]) == ("ready", before["pid"])
    assert after["deaths"] == 1
    said = gateway.openclaw("tenants", "status", TENANT).stdout
    assert f"{TENANT}: last death: {after['lastDeath']}" in said
    gateway.next_start(TENANT, None)
    status, row = gateway.restart(TENANT)
    assert status == 200
    assert row["pid"] != before["pid"]


def _damage(path: Path) -> None:
    path.write_text("agent: [")


def _take_more(path: Path) -> None:
    path.write_text("worker: {memory_bytes: 1}\n")


def _lead_elsewhere(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def _forbid(path: Path) -> None:
    path.write_text("{}\n")
    path.chmod(0)


@pytest.mark.parametrize("spoil", [_damage, _take_more, _lead_elsewhere, _forbid, Path.mkdir])
def test_a_configuration_that_cannot_be_used_keeps_the_next_generation_out(
    gateway: Restarting, spoil: Callable[[Path], None]
) -> None:
    token = gateway.create("acme")
    before = gateway.rpc(token, "health")["generation"]
    path = gateway.state_dir / "tenants" / "acme" / "config.yaml"
    spoil(path)
    done = gateway.openclaw("tenants", "restart", "acme")
    assert (done.returncode, "configuration" in done.stderr) == (1, True)
    assert "config.yaml" in gateway.output_of("acme")
    assert gateway.rpc(token, "health")["generation"] == before
    path.rmdir() if spoil is Path.mkdir else path.unlink()
    assert gateway.openclaw("tenants", "restart", "acme").returncode == 0
    assert gateway.rpc(token, "health")["generation"] > before


def test_a_store_that_is_too_new_keeps_the_next_generation_out(gateway: Restarting) -> None:
    token = gateway.create(TENANT)
    key = session(gateway, token, "s")
    before = gateway.status(TENANT)
    gateway.schema_of_tomorrow(TENANT)
    done = gateway.openclaw("tenants", "restart", TENANT)
    assert done.returncode == 1
    assert "exited with 78" in done.stderr
    assert gateway.status(TENANT)["pid"] == before["pid"]
    assert gateway.status(TENANT)["lastDeath"].startswith("exited with 78; its configuration")
    assert gateway.rpc(token, "chat.history", sessionKey=key)["messages"] == []
    assert "schema version 99" in gateway.output_of(TENANT)


# --- which tenant, in which state


def test_all_are_restarted_two_at_once(gateway: Restarting) -> None:
    names = ["acme", "globex", "initech", "umbrella"]
    for name in names:
        gateway.rpc(gateway.create(name), "health")
    gateway.create("sleeper")
    before = {name: gateway.status(name)["pid"] for name in names}
    rows = gateway.openclaw_json("tenants", "restart", "--all", "--at-once", "2")
    assert [row["tenantId"] for row in rows] == names
    assert all(row["pid"] != before[row["tenantId"]] for row in rows)
    assert gateway.status("sleeper")["state"] == "absent"


def test_two_restarts_at_once(gateway: Restarting) -> None:
    token = gateway.create("acme")
    gateway.rpc(token, "health")
    before = gateway.status("acme")["pid"]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(gateway.restart, ["acme", "acme"]))
    assert sorted(status for status, _ in answers) in ([200, 200], [200, 409])
    assert gateway.status("acme")["pid"] != before
    assert len(gateway.workers("acme")) <= 2
    assert gateway.rpc(token, "health")["ok"] is True


def test_a_tenant_without_a_worker_gets_one(gateway: Restarting) -> None:
    token = gateway.create("acme")
    assert gateway.status("acme")["state"] == "absent"
    status, row = gateway.restart("acme")
    assert (status, row["state"]) == (200, "ready")
    assert gateway.rpc(token, "health")["generation"] == row["generation"]


def test_a_suspended_tenant_is_not_restarted(gateway: Restarting) -> None:
    token = gateway.create("acme")
    gateway.rpc(token, "health")
    assert gateway.openclaw("tenants", "suspend", "acme").returncode == 0
    done = gateway.openclaw("tenants", "restart", "acme")
    assert (done.returncode, "suspended" in done.stderr) == (1, True)
    assert gateway.workers("acme") == []
    assert gateway.openclaw("tenants", "resume", "acme").returncode == 0
    assert gateway.rpc(token, "health")["ok"] is True


def test_a_worker_that_is_not_forked_yet_is_ended_all_the_same(gateway: Restarting) -> None:
    """A tenant that is suspended and taken back while the zygote does not answer has one worker."""
    tenant = "acme"
    token = gateway.create(tenant)
    zygote, spares = gateway.process(ZYGOTE), gateway.spares()
    zygote.suspend()
    with ends(*spares):
        for spare in spares:
            spare.kill()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(gateway.rpc_reply, token, "health", {})
        gateway.wait_for(tenant, lambda row: row["state"] == "starting")
        suspended = pool.submit(gateway.control, "POST", f"/v1/tenants/{tenant}/suspend")
        gateway.wait_for(tenant, lambda row: row["state"] == "suspending")
        resumed = pool.submit(gateway.control, "POST", f"/v1/tenants/{tenant}/resume")
        gateway.wait_for(tenant, lambda row: row["state"] == "parking")
        second = pool.submit(gateway.rpc_reply, token, "health", {})
        gateway.wait_for(tenant, lambda row: row["state"] == "starting")
        zygote.resume()
        assert (suspended.result().status, resumed.result().status) == (200, 200)
        # The first was held when the token's tenant went out of service: nobody's token any more.
        assert (first.result().status, second.result().status) == (401, 200)
    assert [worker.pid for worker in gateway.workers(tenant)] == [gateway.status(tenant)["pid"]]
    assert gateway.restart(tenant)[0] == 200


def test_a_failed_tenant_is_restarted_once_its_cause_is_gone(gateway: Restarting) -> None:
    token = gateway.create(TENANT)
    gateway.next_start(TENANT, "exits-78")
    refused = gateway.rpc_reply(token, "health", {})
    assert refused.status == 503
    assert gateway.status(TENANT)["state"] == "failed"
    status, body = gateway.restart(TENANT)
    assert status == 503
    assert "exited with 78" in body["detail"]
    gateway.next_start(TENANT, None)
    assert gateway.restart(TENANT)[0] == 200
    assert gateway.rpc(token, "health")["ok"] is True


# --- a crash is no restart


def test_calls_in_flight_at_a_crash_can_be_made_again(gateway: Restarting) -> None:
    token = gateway.create(TENANT)
    key = session(gateway, token, "s")
    text = talk(1, 5.0)
    cut = Stream(gateway, token, key, text, **{"Idempotency-Key": "once"}).under_way()
    (worker,) = gateway.workers(TENANT)
    with ends(worker):
        worker.kill()
    cut.join(REQUEST_SECONDS)
    error = cut.response["error"]["data"]
    assert (error["code"], error["retryable"]) == ("UNAVAILABLE", True)
    again = gateway.post(
        "/rpc",
        token,
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "sessions.send",
            "params": {"key": key, "message": text},
        },
        **{"Idempotency-Key": "once"},
    )
    result = again.json["result"]
    assert (result["runId"], result["status"]) == (cut.run_id, "interrupted")
    (rows,) = transcripts(gateway, token).values()
    assert [text_of(row) for row in rows if row["role"] == "user"] == [text]
