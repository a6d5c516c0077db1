"""Tenants through the command line with the gateway up and down, and their separation."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.e2e.gateway import OPENCLAW, Gateway


def test_the_same_commands_work_with_the_gateway_up_and_down(state_dir: Path) -> None:
    with Gateway(state_dir) as gateway:
        up = gateway.create("made-up")
        gateway.stop()
        down = gateway.create("made-down")
        listed = gateway.openclaw_json("tenants", "list")
        assert [row["tenantId"] for row in listed] == ["made-down", "made-up"]
    with Gateway(state_dir) as gateway:
        for tenant, token in (("made-up", up), ("made-down", down)):
            assert token.startswith(f"tk_{tenant}_")
            assert gateway.inbound(token, "hello").status == 200
        assert gateway.openclaw_json("tenants", "list") == listed
        assert gateway.openclaw_json("tenants", "get", "made-up") == listed[1]


def test_rotation_refuses_the_old_token_at_once(gateway: Gateway) -> None:
    old = gateway.create("acme")
    assert gateway.rpc_reply(old, "health", {}).status == 200
    new = gateway.openclaw_json("tenants", "token", "rotate", "acme")["token"]
    assert gateway.rpc_reply(old, "health", {}).status == 401
    assert gateway.rpc_reply(new, "health", {}).status == 200


def test_deletion_ends_the_worker_and_wipes_everything(gateway: Gateway) -> None:
    token = gateway.create("acme")
    gateway.inbound(token, "a secret of acme")
    done = gateway.openclaw("tenants", "delete", "acme", "--confirm")
    assert done.returncode == 0, done.stderr
    assert "✓ session store wiped" in done.stdout
    assert gateway.rpc_reply(token, "health", {}).status == 401
    assert not (gateway.state_dir / "tenants" / "acme").exists()
    assert "openclaw: worker acme" not in gateway.processes()
    assert gateway.openclaw_json("tenants", "list") == []
    audit = (gateway.state_dir / "audit.jsonl").read_text()
    assert "tenant.deleted" in audit
    # The id can be used again, and nothing of the old tenant is there.
    again = gateway.create("acme")
    assert gateway.rpc(again, "sessions.list")["sessions"] == []


def test_no_secret_is_on_disk_or_in_the_log(gateway: Gateway) -> None:
    token = gateway.create("acme")
    gateway.inbound(token, "hello")
    gateway.rpc_reply(token[:-1] + "0", "health", {})
    rotated = gateway.openclaw_json("tenants", "token", "rotate", "acme")["token"]
    admin = (gateway.state_dir / "admin.key").read_text().strip()
    for secret in (token, rotated, admin):
        for path in gateway.state_dir.rglob("*"):
            if path.is_file() and path.name != "admin.key":
                assert secret.encode() not in path.read_bytes(), path
    assert stat.S_IMODE((gateway.state_dir / "admin.key").stat().st_mode) == 0o600


def test_a_tenants_sessions_are_nobody_elses(gateway: Gateway) -> None:
    acme, globex = gateway.create("acme"), gateway.create("globex")
    key = gateway.inbound(acme, "for acme only").json["sessionKey"]
    absent = key.replace("u1", "nobody")
    for method, name in (("sessions.get", "key"), ("chat.history", "sessionKey")):
        foreign = gateway.rpc_reply(globex, method, {name: key})
        missing = gateway.rpc_reply(globex, method, {name: absent})
        assert foreign.status == missing.status == 404
        assert foreign.body.replace(key.encode(), b"") == missing.body.replace(absent.encode(), b"")
    assert gateway.rpc(globex, "sessions.list")["sessions"] == []
    refused = gateway.inbound(globex, "hello", tenant="acme")
    assert refused.status == 403


def test_tenant_tokens_mean_nothing_on_the_control_plane(gateway: Gateway) -> None:
    token = gateway.create("acme")
    for verb, path in (
        ("GET", "/v1/tenants"),
        ("GET", "/v1/tenants/acme"),
        ("DELETE", "/v1/tenants/acme"),
        ("POST", "/v1/tenants/acme/token/rotate"),
    ):
        body = b"{}" if verb == "POST" else None
        assert gateway.request(verb, path, token=token, body=body).status == 401
        assert gateway.request(verb, path, body=body).status == 401
    admin = (gateway.state_dir / "admin.key").read_text().strip()
    assert gateway.request("GET", "/v1/tenants", token=admin).status == 200
    # It is an operator's on `/rpc` too, and no tenant's.
    assert gateway.rpc_reply(admin, "health", {}).status == 404


@pytest.mark.root
def test_each_tenant_has_its_own_uid_and_private_directory(gateway: Gateway) -> None:
    for tenant in ("acme", "globex"):
        gateway.inbound(gateway.create(tenant), "hello")
    found = gateway.processes()
    workers = [found[f"openclaw: worker {tenant}"] for tenant in ("acme", "globex")]
    uids = [set(worker.uids()) for worker in workers]
    assert all(len(uid) == 1 for uid in uids)
    assert uids[0] != uids[1]
    assert 0 not in found["openclaw: front"].uids()
    for tenant, uid in zip(("acme", "globex"), uids, strict=True):
        directory = gateway.state_dir / "tenants" / tenant
        for path in (directory, *directory.rglob("*")):
            assert {path.stat().st_uid} == uid, path
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.root
def test_a_state_directory_out_of_reach_is_refused_by_name(state_dir: Path) -> None:
    locked = state_dir / "locked"
    locked.mkdir(mode=0o700)
    os.environ["OPENCLAW_STATE_DIR"] = str(locked / "state")
    try:
        with pytest.raises(AssertionError, match=str(locked)):
            Gateway(locked / "state", command=(OPENCLAW, "gateway", "--port", "0"))
    finally:
        del os.environ["OPENCLAW_STATE_DIR"]


@pytest.mark.root
def test_no_uid_is_given_twice_though_tenants_and_ranges_come_and_go(state_dir: Path) -> None:
    given: list[int] = []

    def configure(uid_first: int) -> None:
        text = f"isolation: {{uid_first: {uid_first}, uid_count: 2000}}\n"
        (state_dir / "config.yaml").write_text(text)

    def awaken(gateway: Gateway) -> None:
        assert gateway.inbound(gateway.create("acme"), "hello").status == 200
        given.append(gateway.process("openclaw: worker acme").uids().real)
        assert gateway.process("openclaw: front").uids().real not in given
        assert gateway.openclaw("tenants", "delete", "acme", "--confirm").returncode == 0

    first = 1_900_000_000
    configure(first)
    with Gateway(state_dir) as gateway:
        for _ in range(3):
            awaken(gateway)
    assert given == sorted(set(given))
    # The shared processes would get what has been a tenant's, though none is there now.
    configure(given[0])
    with pytest.raises(AssertionError, match=r"isolation\.uid_first: .* tenants have had"):
        Gateway(state_dir)
    for moved in (given[-1] + 1, first):
        configure(moved)
        with Gateway(state_dir) as gateway:
            awaken(gateway)
    assert given == sorted(set(given))


@pytest.mark.root
def test_a_users_state_directory_is_refused_by_root(state_dir: Path) -> None:
    uid = 12345
    state_dir.chmod(0o777)
    made = subprocess.run(
        [OPENCLAW, "tenants", "create", "acme"],
        env={**os.environ, "OPENCLAW_STATE_DIR": str(state_dir / "state"), "HOME": "/tmp"},
        user=uid,
        group=uid,
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    (state_dir / "state").chmod(0o711)
    (state_dir / "state" / "tenants").chmod(0o711)
    with pytest.raises(AssertionError, match="was made by an ordinary user"):
        Gateway(state_dir / "state")
