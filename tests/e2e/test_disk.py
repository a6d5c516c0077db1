"""A tenant that fills the disk is stopped, hears why, and is back when it has made room."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.caps.disk_judge import FLOOR_SHARE_MAX, OVERGROWTH_BYTES
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway, Reply, ends
from tests.workers.crowd import Crowd, Neighbour

MIB = 2**20
LIMIT_BYTES = 24 * MIB
LIMIT_INODES = 1000
NO_LIMITS = {"diskBytes": "unlimited", "diskInodes": "unlimited"}
# Whoever is not stopped never ends: a test that sees an answer has seen it stopped.
FOR_EVER = "import threading; threading.Event().wait()"
FILES = "import os\nfor n in range(2000):\n    open(f'/work/f{n}', 'w').close()\n"
FILLS = {
    "one file": ("diskBytes", "open('/work/f', 'wb').write(bytes(60 << 20))\n"),
    "what is reserved": (
        "diskBytes",
        "import os\nos.posix_fallocate(os.open('/work/f', os.O_CREAT | os.O_RDWR), 0, 60 << 20)\n",
    ),
    "many empty files": ("diskInodes", FILES),
    "a deep tree": (
        "diskInodes",
        "import os\nos.chdir('/work')\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\n",
    ),
    "what has no name": (
        "diskBytes",
        "import os\nf = open('/work/f', 'wb')\nos.unlink('/work/f')\nf.write(bytes(60 << 20))\n",
    ),
    "what is closed to its owner": (
        "diskBytes",
        (
            "import os\nos.mkdir('/work/d')\nf = open('/work/d/f', 'wb'); os.chmod('/work/d', 0)"
            "\nf.write(bytes(60 << 20))\n"
        ),
    ),
}


@pytest.fixture(scope="module")
def state_root() -> Iterator[Path]:
    path = make_state_dir()
    caps = {"disk_bytes": LIMIT_BYTES, "disk_inodes": LIMIT_INODES, "disk_floor_bytes": 0}
    (path / "config.yaml").write_text(json.dumps({"caps": caps}))
    yield path
    remove_tree(path)


@pytest.fixture(scope="module")
def crowd(state_root: Path) -> Iterator[Crowd]:
    with Crowd(state_root) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def loaded(crowd: Crowd) -> Iterator[Neighbour]:
    with Neighbour(crowd, crowd.create("healthy")) as neighbour:
        yield neighbour


@pytest.fixture(autouse=True)
def unnoticed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test in the crowd: its neighbour was served meanwhile, and may write."""
    if "crowd" not in request.fixturenames:
        yield
        return
    neighbour: Neighbour = request.getfixturevalue("loaded")
    yield
    assert neighbour.failures == []
    assert "stopped" not in request.getfixturevalue("crowd").status("healthy")


def run(gateway: Gateway, token: str, script: str) -> Reply:
    params = {"argv": ["/usr/bin/python3", "-c", script], "timeoutMs": 30_000}
    return gateway.rpc_reply(token, "sandbox.run", params)


def send(gateway: Gateway, token: str, text: str = "hello") -> Reply:
    params = {"key": "agent:main:disk:s", "message": text}
    return gateway.rpc_reply(token, "sessions.send", params)


def refused(reply: Reply, limit: str) -> dict[str, Any]:
    """Check that a call was refused for a limit of the disk, which is named with its use."""
    assert reply.status == 429, reply.body
    error: dict[str, Any] = reply.json["error"]
    assert error["data"]["code"] == "QUOTA_EXCEEDED"
    assert error["data"]["limit"] == limit
    assert error["data"]["used"] > error["data"]["most"] > 0
    assert f"limits.{limit}" in error["message"]
    return error


def make_room(crowd: Crowd, tenant: str, token: str) -> None:
    """Remove what is in the sandbox's directory, which only a sandbox can if it is deep."""
    if tenant in ("a-deep-tree", "what-is-closed-to-its-owner"):
        crowd.control("PATCH", f"/v1/tenants/{tenant}", {"limits": NO_LIMITS})
        reply = run(
            crowd,
            token,
            "import subprocess as s; s.run('chmod 700 /work/d; rm -rf /work/d', shell=True)",
        )
        assert reply.json["result"]["exitCode"] == 0, reply.body
        crowd.control("PATCH", f"/v1/tenants/{tenant}", {"limits": dict.fromkeys(NO_LIMITS)})
        return
    while entries := crowd.rpc(token, "sandbox.files.list", limit=1000)["entries"]:
        for entry in entries:
            crowd.rpc(token, "sandbox.files.delete", path=entry["name"], recursive=True)


@pytest.mark.parametrize("how", FILLS)
def test_a_sandbox_that_fills_the_disk_is_stopped_with_its_reason(crowd: Crowd, how: str) -> None:
    limit, script = FILLS[how]
    tenant = how.replace(" ", "-")
    token = crowd.create(tenant)
    crowd.rpc(token, "sessions.create", key="agent:main:disk:s")
    refused(run(crowd, token, script + FOR_EVER), limit)
    if how == "what has no name":  # it has gone with the process
        crowd.wait_for(tenant, lambda row: "stopped" not in row)
        assert send(crowd, token).status == 200
        return
    row = crowd.status(tenant)
    assert f"limits.{limit}" in row["stopped"]
    assert (row["state"], row["deaths"]) == ("ready", 0), "the worker has done nothing wrong"
    # Nothing more is written; what is there can be read, and made less.
    refused(run(crowd, token, "pass"), limit)
    refused(send(crowd, token), limit)
    refused(crowd.rpc_reply(token, "config.set", {"raw": "{}"}), limit)
    health = crowd.rpc(token, "health", probe=True)
    assert health["storage"]["writable"] is False
    assert f"limits.{limit}" in health["storage"]["reason"]
    assert crowd.rpc(token, "sessions.list")["total"] == 1
    make_room(crowd, tenant, token)
    crowd.wait_for(tenant, lambda row: "stopped" not in row)
    assert send(crowd, token).status == 200
    assert run(crowd, token, "pass").json["result"]["exitCode"] == 0
    assert crowd.rpc(token, "health")["storage"] == {"writable": True}
    events = [line["event"] for line in crowd.log_of(tenant)]
    assert events.count("tenant may not write") == events.count("tenant may write again")


def test_limits_of_the_disk_hold_at_once(crowd: Crowd) -> None:
    token = crowd.create("live")
    crowd.rpc(token, "sessions.create", key="agent:main:disk:s")
    done = run(crowd, token, "open('/work/f', 'wb').write(bytes(20 << 20))")
    assert done.json["result"]["exitCode"] == 0
    said = crowd.openclaw("tenants", "limits", "live", "--disk", "16M")
    assert said.returncode == 0, said.stderr
    crowd.wait_for("live", lambda row: "stopped" in row)
    refused(send(crowd, token), "diskBytes")
    assert "may not write: " in crowd.openclaw("tenants", "status", "live").stdout
    crowd.control("PATCH", "/v1/tenants/live", {"limits": {"diskBytes": "unlimited"}})
    assert send(crowd, token).status == 200
    (shown,) = [row for row in crowd.openclaw_json("top", "--once") if row["tenantId"] == "live"]
    assert shown["diskBytes"] >= 20 * MIB
    assert shown["limits"]["diskBytes"] == "unlimited"


def test_a_worker_that_writes_on_is_held_back_until_there_is_room(crowd: Crowd) -> None:
    tenant = "fills-its-disk"
    token = crowd.create(tenant)
    assert crowd.rpc(token, "health")["ok"]
    row = crowd.wait_for(tenant, lambda row: row["state"] == "failed")
    assert row["deaths"] == 1
    assert row["reason"].startswith("killed by SIGKILL; it wrote ")
    assert row["reason"].endswith("more to the disk after it had been told to stop")
    assert "limits.diskBytes" in row["stopped"]
    assert row["diskBytes"] > LIMIT_BYTES + OVERGROWTH_BYTES
    reply = crowd.rpc_reply(token, "health", {})
    assert (reply.status, reply.json["error"]["data"]["code"]) == (503, "UNAVAILABLE")
    reply = crowd.control("PATCH", f"/v1/tenants/{tenant}", {"limits": {"diskBytes": "unlimited"}})
    assert reply.status == 200
    assert crowd.rpc(token, "health")["storage"] == {"writable": True}
    row = crowd.status(tenant)
    assert (row["state"], row["deaths"]) == ("ready", 1)


def test_one_that_was_stopped_is_so_after_a_restart_of_what_counts(crowd: Crowd) -> None:
    token = crowd.create("again")
    refused(run(crowd, token, FILLS["one file"][1] + FOR_EVER), "diskBytes")
    for title in ("openclaw: disk", "openclaw: launcher"):
        process = crowd.process(title)
        with ends(process):
            process.kill()
    process = crowd.process("openclaw: worker again")
    with ends(process):
        process.kill()
    crowd.wait_for("again", lambda row: row["state"] == "ready" and row["deaths"] == 1)
    refused(send(crowd, token), "diskBytes")
    # A launcher that comes later is told, and so is who counts: what is removed is seen.
    crowd.wait_for(
        "again", lambda _: {"openclaw: disk", "openclaw: launcher"} <= {*crowd.processes()}
    )
    crowd.rpc(token, "sandbox.files.delete", path="f")
    crowd.wait_for("again", lambda row: "stopped" not in row)
    assert run(crowd, token, "pass").json["result"]["exitCode"] == 0


@pytest.fixture
def small_disk(state_dir: Path) -> Iterator[Path]:
    disk = state_dir / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m,mode=0755", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


# Slowly at the end: it takes it seconds from the floor to half of that.
FILLS_TO_THE_FLOOR = """
import os
import threading
with open("/work/f", "wb", buffering=0) as file:
    left = os.statvfs("/work")
    for _ in range(left.f_bavail * left.f_frsize // 2**20 - 11):
        file.write(bytes(2**20))
    for _ in range(100):
        threading.Event().wait(0.1)
        file.write(bytes(2**18))
"""


@pytest.mark.root
def test_whoever_fills_the_disk_is_stopped_at_the_floor_and_nobody_else(small_disk: Path) -> None:
    with Crowd(small_disk) as gateway:
        big, small = gateway.create("big"), gateway.create("small")
        for token in (big, small):
            gateway.rpc(token, "sessions.create", key="agent:main:disk:s")
        reply = run(gateway, big, FILLS_TO_THE_FLOOR + FOR_EVER)
        assert reply.status == 503, reply.body
        assert reply.json["error"]["data"]["code"] == "UNAVAILABLE"
        assert "caps.disk_floor_bytes" in reply.json["error"]["message"]
        row = gateway.status("big")
        assert "disk is full" in row["stopped"]
        assert send(gateway, big).status == 503
        assert send(gateway, small).status == 200
        assert "stopped" not in gateway.status("small")
        gateway.rpc(big, "sandbox.files.delete", path="f")
        gateway.wait_for("big", lambda row: "stopped" not in row)
        assert send(gateway, big).status == 200
        # Written by nobody that could be stopped: at half of the floor everybody is.
        with (small_disk / "filler").open("wb") as file:
            left = shutil.disk_usage(small_disk)
            file.write(bytes(left.free - int(left.total * FLOOR_SHARE_MAX / 4)))
        for tenant, token in (("big", big), ("small", small)):
            gateway.wait_for(tenant, lambda row: "stopped" in row)
            assert send(gateway, token).status == 503
        (small_disk / "filler").unlink()
        for tenant in ("big", "small"):
            gateway.wait_for(tenant, lambda row: "stopped" not in row)
