"""A gateway whose whole state root lies on a disk that is full: it says so, reads, and recovers."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.ledger import Ack, check
from tests.e2e.gateway import Gateway, ends
from tests.workers.crowd import Crowd

KEY = "agent:main:full:s"


@pytest.fixture
def small_disk(state_dir: Path) -> Iterator[Path]:
    disk = state_dir / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m,mode=0755", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Leave not one block."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue
    return filler


def refused(gateway: Crowd, token: str) -> None:
    params = {"key": KEY, "message": "m" * 100_000}
    reply = gateway.rpc_reply(token, "sessions.send", params)
    assert (reply.status, reply.json["error"]["data"]["code"]) == (503, "UNAVAILABLE"), reply.body


@pytest.mark.root
def test_a_full_disk(small_disk: Path) -> None:
    acks = []
    # What the disk itself refuses, with nothing that is kept free before it.
    (small_disk / "config.yaml").write_text("caps: {disk_floor_bytes: 0}\n")
    with Crowd(small_disk) as gateway:
        token = gateway.create("acme")
        acks.append(Ack("created", "me", "acme", token=token))
        gateway.rpc(token, "sessions.create", key=KEY)
        acks.append(Ack("session", "me", "acme", key=KEY))
        filler = fill(small_disk)
        refused(gateway, token)
        assert gateway.rpc(token, "health")["storage"]["writable"] is False
        for verb, path, body in (
            ("POST", "/v1/tenants", {"tenantId": "globex"}),
            ("POST", "/v1/tenants/acme/token/rotate", None),
        ):
            reply = gateway.control(verb, path, body)
            assert (reply.status, reply.json["code"]) == (503, "UNAVAILABLE")
        # Reads go on, also in a worker and a front that start now.
        assert gateway.rpc(token, "sessions.list")["total"] == 1
        for title in ("openclaw: worker acme", "openclaw: front"):
            process = gateway.process(title)
            with ends(process):
                process.kill()
        gateway.wait_for("acme", lambda row: row["state"] == "ready")
        assert gateway.rpc(token, "sessions.list")["total"] == 1
        refused(gateway, token)
        filler.unlink()
        run = gateway.rpc(token, "sessions.send", key=KEY, message="again")["runId"]
        acks.append(Ack("turn", "me", "acme", key=KEY, text="again", run=run))
        assert gateway.rpc(token, "agent.wait", runId=run)["status"] == "ok"
        assert gateway.rpc(token, "health")["storage"] == {"writable": True}
        acks.append(Ack("created", "me", "globex", token=gateway.create("globex")))
        assert check(small_disk, acks) == []
        fill(small_disk)
        assert gateway.stop()[0] == 0
        done = gateway.openclaw("gateway", "--port", "0")
        assert (done.returncode, "full" in done.stderr) == (75, True), done.stderr
    (small_disk / "filler").unlink()
    with Gateway(small_disk) as gateway:
        assert gateway.rpc(token, "sessions.list")["total"] == 1
        assert check(small_disk, acks) == []
