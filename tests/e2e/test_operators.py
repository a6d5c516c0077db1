"""What an operator sees of tenants, of their deaths, and in the log."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.lifecycle import DEATHS_KEPT
from tests.e2e.gateway import Gateway, ends
from tests.workers.crowd import Crowd


@pytest.fixture
def gateway(state_dir: Path) -> Iterator[Crowd]:
    with Crowd(state_dir) as running:
        yield running


def kill(gateway: Crowd, tenant: str) -> int:
    """End a tenant's worker from outside; gives its pid."""
    (worker,) = gateway.workers(tenant)
    with ends(worker):
        worker.kill()
    return worker.pid


def test_status_says_how_a_worker_is(gateway: Crowd) -> None:
    gateway.create("sleeper")
    token = gateway.create("acme")
    gateway.rpc(token, "health")
    (row,) = gateway.openclaw_json("tenants", "status", "acme")
    assert row["state"] == "ready"
    assert [worker.pid for worker in gateway.workers("acme")] == [row["pid"]]
    assert row["uptimeSeconds"] > 0
    assert row["memoryBytes"] > 2**16  # of its own, where its cgroup says it
    assert row["cpuSeconds"] >= 0
    assert (row["inFlight"], row["held"], row["deaths"]) == (0, 0, 0)
    assert "lastDeath" not in row
    everyone = gateway.openclaw("tenants", "status").stdout.splitlines()
    assert everyone[0].split() == [
        *("TENANT", "STATE", "PID", "UPTIME", "RESTARTS", "DEATHS"),
        *("MEMORY", "CPU", "PIDS", "DISK", "INODES", "IN", "FLIGHT", "WAKES"),
    ]
    assert [line.split()[:2] for line in everyone[1:]] == [["acme", "ready"], ["sleeper", "absent"]]


def test_deaths_are_told_one_by_one(gateway: Crowd) -> None:
    token = gateway.create("acme")
    gateway.rpc(token, "health")
    seen: set[int] = set()
    for _ in range(2):
        seen.add(kill(gateway, "acme"))
        gateway.wait_for("acme", lambda row: row.get("pid") not in {None, *seen})
    row = gateway.wait_for_state("acme", "ready", deaths=2)
    assert row["restarts"] == 2
    first, second = row["deathHistory"]
    for death in (first, second):
        assert (death["signal"], death["cause"]) == (signal.SIGKILL, "killed by SIGKILL")
        assert "exitCode" not in death
    assert second["atMs"] >= first["atMs"]
    assert second["generation"] > first["generation"]
    assert first["uptimeSeconds"] > 0
    assert "outOfMemory" not in second  # the kernel has not been ending anybody
    assert row["lastDeath"] == second["cause"]
    printed = gateway.openclaw("tenants", "status", "acme").stdout
    assert printed.count("killed by SIGKILL") == 3  # the last one, and one by one
    assert "OOM" in printed
    assert "deathHistory" not in gateway.openclaw_json("tenants", "status")[0]


def test_the_last_hundred_deaths_are_kept(gateway: Crowd) -> None:
    tenant = "always-exits-78"
    gateway.create(tenant)
    for _ in range(DEATHS_KEPT + 3):
        assert gateway.control("POST", f"/v1/tenants/{tenant}/restart").status == 503
    row = gateway.status(tenant)
    history = row["deathHistory"]
    assert len(history) == DEATHS_KEPT
    assert {death["exitCode"] for death in history} == {78}
    generations = [death["generation"] for death in history]
    assert generations == sorted(set(generations))
    assert row["reason"].startswith("exited with 78; its configuration")


def test_a_tenant_that_never_gets_ready_fails_and_says_why(gateway: Crowd) -> None:
    """Its starts take 3 s each; in none of that time is it served."""
    tenant = "always-never-ready"
    token = gateway.create(tenant)
    gateway.rpc_reply(token, "health", {})
    row = gateway.wait_for(tenant, lambda row: row["state"] == "failed")
    assert row["deaths"] == 6
    assert row["reason"].startswith("6 deaths within 60 s of service; last: killed by ")
    assert row["reason"].endswith("it was not ready in time")
    assert "tenant failed" in [line["event"] for line in gateway.log_of(tenant)]


def test_a_deleted_tenants_worker_ends_also_if_it_stands_still(gateway: Crowd) -> None:
    gateway.rpc(gateway.create("acme"), "health")
    (worker,) = gateway.workers("acme")
    with ends(worker):
        worker.suspend()
        assert gateway.openclaw("tenants", "delete", "acme", "--confirm").returncode == 0
    assert gateway.openclaw_json("tenants", "status") == []


def test_a_tenants_lines_are_found_by_what_its_tokens_start_with(state_dir: Path) -> None:
    with Gateway(state_dir) as gateway:
        token = gateway.create("acme")
        gateway.rpc(token, "health")
        with ends(gateway.process("openclaw: worker acme")):
            gateway.process("openclaw: worker acme").kill()
        gateway.rpc_reply(f"tk_acme_{'0' * 32}", "health", {})
        gateway.stop()
        found = subprocess.run(
            ["/bin/grep", "tk_acme_", str(state_dir / "gateway.log")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert '"event": "worker died"' in found
        assert token not in (state_dir / "gateway.log").read_text()
        logged = gateway.openclaw("logs", "--tenant", "acme").stdout
        assert set(logged.splitlines()) <= set(found.splitlines())
        assert "worker died" in logged


@pytest.mark.root
def test_a_full_disk_keeps_no_generation_from_serving(state_dir: Path) -> None:
    """The next generation reads what is there; what has to be written is refused by both alike."""
    subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "x", state_dir], check=True
    )
    (state_dir / "config.yaml").write_text("caps: {disk_floor_bytes: 0}\n")
    try:
        with Crowd(state_dir) as gateway:
            token = gateway.create("acme")
            key = gateway.inbound(token, "hello").json["sessionKey"]
            before = gateway.status("acme")["pid"]
            with pytest.raises(OSError, match="No space"):
                (state_dir / "full").write_bytes(bytes(16 * 2**20))
            done = gateway.openclaw("tenants", "restart", "acme")
            after = gateway.status("acme")
            assert after["state"] == "ready"
            assert (done.returncode == 0) == (after["pid"] != before)
            assert len(gateway.rpc(token, "chat.history", sessionKey=key)["messages"]) == 2
            (state_dir / "full").unlink()
            assert gateway.inbound(token, "again").status == 200
    finally:
        subprocess.run(["/bin/umount", state_dir], check=True)
