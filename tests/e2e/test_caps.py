"""What a tenant's processes may have together, as the kernel holds it; what is said without.

A sandbox or a worker that takes all it can get meets its tenant's caps, and is reported as that.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from supervisor.caps import place
from supervisor.caps.report import UNCAPPED
from tests import cgroups
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway
from tests.patience import PATIENCE
from tests.workers.crowd import PROGRAM, SETTINGS, WAIT_SECONDS, Crowd

MIB = 2**20
CAPS = {"cgroup": cgroups.SETTING, "memory_bytes": 128 * MIB, "pids": 64}
BALLOON = "kept = [bytearray(b'x' * 2**20) for _ in range(512)]"
BOMB = """
import os
while True:
    try:
        os.fork()
    except BlockingIOError:
        pass
"""
SPIN = """
import os
os.fork()
while True:
    pass
"""
RUN_MS = round(1500 * PATIENCE)


def configure(state_dir: Path) -> None:
    config = {"caps": CAPS, "sandbox": {"memory_bytes": 64 * MIB, "pids": 32}}
    (state_dir / "config.yaml").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    path = make_state_dir()
    configure(path)
    with Crowd(path) as gateway:
        yield gateway
    remove_tree(path)


def groups_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def root_of(gateway: Gateway) -> place.Cgroup:
    name = place.name_of(gateway.state_dir)
    return place.find(cgroups.SETTING).group.at(f"openclaw-{name}")


def names(group: place.Cgroup) -> set[str]:
    return {child.name for child in group.children()}


def test_what_holds_is_said(gateway: Gateway) -> None:
    notices = gateway.request("GET", "/readyz").json.get("notices", [])
    if cgroups.SETTING == "auto" and cgroups.refusal() is None:
        assert " · caps: cgroup v" in gateway.banner
        assert notices == []
    else:
        assert " · caps: single processes only (" in gateway.banner
        assert [notice for notice in notices if notice.startswith(UNCAPPED)]


def test_one_that_is_named_has_to_be_there(state_dir: Path) -> None:
    config = {"caps": {"cgroup": str(state_dir)}}
    (state_dir / "config.yaml").write_text(json.dumps(config))
    with pytest.raises(AssertionError, match="is no cgroup of version 2"):
        Gateway(state_dir)


def test_none_are_not_used(state_dir: Path) -> None:
    (state_dir / "config.yaml").write_text("caps: {cgroup: none}\n")
    with Gateway(state_dir) as gateway:
        assert "caps: single processes only (caps.cgroup is none)" in gateway.banner
        gateway.rpc(gateway.create("acme"), "health")
        assert "openclaw-" not in groups_of(gateway.process("openclaw: worker acme").pid)


@pytest.mark.cgroups
def test_everybody_is_where_their_caps_are(crowd: Crowd) -> None:
    crowd.rpc(crowd.create("acme"), "sandbox.run", argv=["true"])  # the launcher is there
    root = root_of(crowd)
    assert names(root) >= {"gateway", "tenant-acme"}
    own = f"/{root.name}/gateway\n"
    shared = ("openclaw: front", "openclaw: zygote", "openclaw: launcher")
    pids = [crowd.pid, *(crowd.process(title).pid for title in shared)]
    for pid in (*pids, *(spare.pid for spare in crowd.spares())):
        assert own in groups_of(pid)
    worker = crowd.process("openclaw: worker acme")
    assert f"/{root.name}/tenant-acme/worker\n" in groups_of(worker.pid)
    assert own not in groups_of(worker.pid)


@pytest.mark.cgroups
def test_nothing_is_left(state_dir: Path) -> None:
    configure(state_dir)
    with Gateway(state_dir) as gateway:
        gateway.rpc(gateway.create("acme"), "health")
        root = root_of(gateway)
        assert names(root) == {"gateway", "tenant-acme"}
        assert gateway.stop()[0] == 0
    assert not any(directory.exists() for directory in root.directories)


@pytest.mark.cgroups
def test_a_balloon_in_a_sandbox(crowd: Crowd) -> None:
    token = crowd.create("balloon")
    ran = crowd.rpc(token, "sandbox.run", argv=["python3", "-c", BALLOON])
    assert (ran["oomKilled"], ran["exitCode"]) in ((True, 137), (True, None)), ran
    assert ran["peakMemoryBytes"] <= 64 * MIB
    row = crowd.status("balloon")
    assert (row["state"], row["deaths"]) == ("ready", 0)


@pytest.mark.cgroups
def test_a_fork_bomb_in_a_sandbox(crowd: Crowd) -> None:
    token = crowd.create("bomb")
    ran = crowd.rpc(
        token, "sandbox.run", argv=["python3", "-c", BOMB], timeoutMs=round(1500 * PATIENCE)
    )
    assert ran["timedOut"] is True
    tenant = root_of(crowd).at("tenant-bomb")
    until = time.monotonic() + WAIT_SECONDS
    while any(  # all of it has ended, but for what waits there for the next sandbox
        child.usage().pids > 1 for child in tenant.children() if child.name != "worker"
    ):
        assert time.monotonic() < until
    assert crowd.rpc(token, "health")["ok"] is True


@pytest.mark.cgroups
def test_a_sandbox_that_computes_gets_what_it_may(crowd: Crowd) -> None:
    token = crowd.create("spin")
    argv = ["python3", "-c", SPIN]
    ran = crowd.rpc(token, "sandbox.run", argv=argv, limits={"cpus": 0.2}, timeoutMs=RUN_MS)
    assert ran["timedOut"] is True
    assert 0 < ran["cpuMs"] < ran["wallMs"] * 0.4


@pytest.mark.cgroups
def test_a_worker_that_its_cgroup_ends_is_told_as_that(crowd: Crowd) -> None:
    token = crowd.create("swallows")
    assert crowd.rpc(token, "health")["ok"] is True  # by the next generation
    row = crowd.wait_for_state("swallows", "ready", deaths=1)
    assert row["lastDeath"] == (
        "killed by SIGKILL; its tenant was out of the memory that it may have (134217728 bytes)"
    )
    assert row["deathHistory"][0]["outOfMemory"] is True


@pytest.mark.cgroups
def test_a_worker_that_somebody_kills_was_not_out_of_memory(crowd: Crowd) -> None:
    token = crowd.create("killed")
    crowd.rpc(token, "health")
    (worker,) = crowd.workers("killed")
    worker.kill()
    crowd.wait_for("killed", lambda row: row["deaths"] == 1)
    assert crowd.rpc(token, "health")["ok"] is True
    row = crowd.wait_for_state("killed", "ready", deaths=1)
    assert row["lastDeath"] == "killed by SIGKILL"
    assert "outOfMemory" not in row["deathHistory"][0]


@pytest.mark.cgroups
def test_caps_change_live_and_end_with_the_tenant(crowd: Crowd) -> None:
    token = crowd.create("changing")
    crowd.rpc(token, "health")
    tenant = root_of(crowd).at("tenant-changing")
    pids = next(each / "pids.max" for each in tenant.directories if (each / "pids.max").exists())
    assert pids.read_text() == "64\n"
    changed = crowd.control("PATCH", "/v1/tenants/changing", {"limits": {"pids": 99}})
    assert (changed.status, changed.json.get("warnings")) == (200, None), changed.body
    assert pids.read_text() == "99\n"
    assert crowd.control("POST", "/v1/tenants/changing/suspend").status == 200
    assert not pids.parent.exists()
    assert crowd.control("POST", "/v1/tenants/changing/resume").status == 200
    crowd.rpc(token, "health")
    assert pids.read_text() == "99\n"
    assert crowd.control("DELETE", "/v1/tenants/changing").status == 200
    assert not pids.parent.exists()


@pytest.mark.cgroups
def test_a_worker_that_cannot_be_capped_does_not_serve(state_dir: Path) -> None:
    configure(state_dir)
    settings = {
        **SETTINGS,
        "supervisor.caps.tenants": {"WORKER": "new\nline"},
    }  # which Linux refuses
    program = (sys.executable, PROGRAM, json.dumps(settings))
    with Gateway(state_dir, command=program) as gateway:
        token = gateway.create("acme")
        assert gateway.rpc_reply(token, "health", {}).status == 503
        (row,) = gateway.openclaw_json("tenants", "status", "acme")
        assert "it cannot be put into its cgroup" in row["lastDeath"]


@pytest.mark.cgroups
def test_what_a_killed_gateway_left_is_swept_by_the_next(state_dir: Path) -> None:
    configure(state_dir)
    with Gateway(state_dir) as gateway:
        gateway.rpc(gateway.create("acme"), "health")
        psutil.Process(gateway.pid).kill()
    with Gateway(state_dir) as gateway:
        assert names(root_of(gateway)) == {"gateway"}
