"""What an operator does to a running gateway: tokens, deletion through any crash, the audit."""

import contextlib
import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor import audit_reading
from tests.e2e.gateway import Gateway
from tests.e2e.restarting import Stream, session
from tests.workers.crowd import Crowd

FILES = 20_000
CUT_SECONDS = 1.0
WAIT_SECONDS = 20.0


class Operated(Crowd):
    """The tests' gateway, whose tenants `always-slow…` talk for as long as they are told to."""

    def changed(self, verb: str, path: str, body: object = None) -> dict[str, Any]:
        """Ask for a change on the control plane that has to succeed."""
        reply = self.control(verb, f"/v1/tenants{path}", body)
        assert reply.status in (200, 201), reply.body
        changed: dict[str, Any] = reply.json
        return changed

    def audited(self) -> list[tuple[str, str, str | None]]:
        found = audit_reading.entries(self.state_dir / "audit.jsonl")
        return [(entry.action, entry.actor, entry.tenant) for entry in found]


@pytest.fixture
def gateway(state_dir: Path) -> Iterator[Operated]:
    with Operated(state_dir) as running:
        yield running


# --- what a token has opened ends with it

TENANT = "always-slow"


def _revoke(gateway: Operated, token_id: str) -> None:
    gateway.changed("DELETE", f"/{TENANT}/tokens/{token_id}")


def _rotate(gateway: Operated, token_id: str) -> None:
    gateway.changed("POST", f"/{TENANT}/token/rotate", {"tokenId": token_id})


def _rotate_with_overlap(gateway: Operated, token_id: str) -> None:
    body = {"tokenId": token_id, "overlapSeconds": 1}
    gateway.changed("POST", f"/{TENANT}/token/rotate", body)


def _suspend(gateway: Operated, token_id: str) -> None:
    del token_id
    gateway.changed("POST", f"/{TENANT}/suspend")


def _delete(gateway: Operated, token_id: str) -> None:
    del token_id
    gateway.changed("DELETE", f"/{TENANT}")


def under_way(gateway: Operated, token: str) -> Stream:
    """A stream that would go on for ten minutes."""
    key = session(gateway, token, "s")
    return Stream(gateway, token, key, "on for 600 s").under_way()


@pytest.mark.parametrize("change", [_revoke, _rotate, _rotate_with_overlap, _suspend, _delete])
def test_an_open_stream_ends_with_its_token(gateway: Operated, change: Any) -> None:
    gateway.create(TENANT)
    body = {"name": "ci", "scopes": ["read", "write"]}
    made = gateway.changed("POST", f"/{TENANT}/tokens", body)
    stream = under_way(gateway, made["token"])
    acting = threading.Thread(target=change, args=(gateway, made["tokenId"]))
    acting.start()
    # Six hundred seconds of talk end at once; the bound is the test's patience.
    stream.join(WAIT_SECONDS)
    acting.join(WAIT_SECONDS)
    assert not stream.is_alive()
    assert stream.response["error"]["data"]["code"] == "UNAUTHORIZED"
    assert gateway.rpc_reply(made["token"], "health", {}).status == 401


def test_a_token_that_ends_takes_its_stream_with_it(gateway: Operated) -> None:
    gateway.create(TENANT)
    body = {"name": "ci", "scopes": ["read", "write"], "expiresInSeconds": 3}
    made = gateway.changed("POST", f"/{TENANT}/tokens", body)
    stream = under_way(gateway, made["token"])
    stream.join(WAIT_SECONDS)
    assert not stream.is_alive()
    assert stream.response["error"]["data"]["code"] == "UNAUTHORIZED"
    assert gateway.rpc_reply(made["token"], "health", {}).status == 401


def test_the_wider_scopes_hold_the_narrower(gateway: Operated) -> None:
    gateway.create("acme")
    methods = ("sessions.list", "sessions.create", "tenants.rotate")
    for scope, statuses in (
        ("read", [200, 403, 403]),
        ("write", [200, 200, 403]),
        ("admin", [200, 200, 200]),
    ):
        body = {"name": scope, "scopes": [scope]}
        token = gateway.changed("POST", "/acme/tokens", body)["token"]
        assert [gateway.rpc_reply(token, method, {}).status for method in methods] == statuses


def test_the_commands_do_it_all_with_the_gateway_up_and_down(gateway: Operated) -> None:
    for tenant in ("up", "down"):
        if tenant == "down":
            gateway.stop()
        said = gateway.openclaw_json("tenants", "create", tenant)
        assert said["token"].startswith(f"tk_{tenant}_")
        made = gateway.openclaw_json(
            *("tenants", "token", "create", tenant, "ci", "--scope", "read", "--expires-in", "1h")
        )
        listed = gateway.openclaw_json("tenants", "token", "list", tenant)
        assert {row["name"] for row in listed} == {"default", "ci"}
        rotated = gateway.openclaw_json(
            *("tenants", "token", "rotate", tenant, made["tokenId"], "--overlap", "15m")
        )
        assert (rotated["name"], rotated["scopes"]) == ("ci", ["read"])
        assert len(gateway.openclaw_json("tenants", "token", "list", tenant)) == 3
        gateway.openclaw_json("tenants", "token", "revoke", tenant, made["tokenId"])
        changed = gateway.openclaw_json(
            *("tenants", "update", tenant, "--display-name", "Ä", "--quota.tokens-per-day", "7")
        )
        assert (changed["displayName"], changed["quota"]) == ("Ä", {"tokensPerDay": 7})
        changed = gateway.openclaw_json(
            *("tenants", "update", tenant, "--display-name", "", "--quota.tokens-per-day", "none")
        )
        assert ("displayName" in changed, changed["quota"]) == (False, {})
        refused = gateway.openclaw("tenants", "token", "revoke", tenant, made["tokenId"])
        assert (refused.returncode, "no such token" in refused.stderr) == (1, True)
        shown = gateway.openclaw("audit", "show", "--tenant", tenant)
        assert shown.returncode == 0
        actions = [line.split()[2] for line in shown.stdout.splitlines()]
        assert actions == [
            "tenant.created",
            "token.created",
            "token.rotated",
            "token.revoked",
            "tenant.updated",
            "tenant.updated",
        ]
        actor = "admin" if tenant == "up" else f"cli:{os.getuid()}"
        assert {line.split()[1] for line in shown.stdout.splitlines()} == {actor}
        assert gateway.openclaw("audit", "verify").returncode == 0


# --- deletion


def _littered(gateway: Gateway, tenant: str) -> None:
    """Leave a great many files in a tenant's directory."""
    directory = gateway.state_dir / "tenants" / tenant / "sandbox"
    for number in range(FILES):
        os.close(os.open(directory / str(number), os.O_CREAT | os.O_WRONLY, 0o600))


def _deleting(gateway: Operated, tenant: str) -> threading.Thread:
    """Ask for a deletion and wait until it has begun."""

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            gateway.control("DELETE", f"/v1/tenants/{tenant}")

    thread = threading.Thread(target=ask)
    thread.start()
    deadline = time.monotonic() + WAIT_SECONDS
    while b"deleting" not in gateway.control("GET", "/v1/tenants").body:
        assert time.monotonic() < deadline
    return thread


def test_nobody_waits_for_a_long_wipe(gateway: Operated) -> None:
    token = gateway.create("acme")
    gateway.inbound(token, "hello")
    _littered(gateway, "acme")
    thread = _deleting(gateway, "acme")
    gateway.create("globex")
    gateway.changed("POST", "/globex/token/rotate")
    assert gateway.rpc_reply(token, "health", {}).status == 401
    assert gateway.control("POST", "/v1/tenants", {"tenantId": "acme"}).status == 409
    assert thread.is_alive(), "the wipe was over before anything else could be asked for"
    # A second deletion waits for the first, and there is one in the audit.
    gateway.control("DELETE", "/v1/tenants/acme")
    thread.join(WAIT_SECONDS)
    assert not (gateway.state_dir / "tenants" / "acme").exists()
    assert [line[0] for line in gateway.audited()].count("tenant.deleted") == 1
    gateway.create("acme")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_deletion_that_is_cut_off_is_finished_at_the_next_start(
    state_dir: Path, number: signal.Signals
) -> None:
    with Operated(state_dir) as gateway:
        gateway.inbound(gateway.create("acme"), "hello")
        gateway.create("other")
        _littered(gateway, "acme")
        thread = _deleting(gateway, "acme")
        gateway.stop(number)
        thread.join(WAIT_SECONDS)
    if number is signal.SIGKILL:
        assert (state_dir / "tenants" / "acme").exists(), "there was nothing left to finish"
    with Operated(state_dir) as gateway:
        deadline = time.monotonic() + WAIT_SECONDS
        while len(gateway.openclaw_json("tenants", "list")) > 1:
            assert time.monotonic() < deadline
        assert sorted(path.name for path in (state_dir / "tenants").iterdir()) == ["other"]
        assert [line[0] for line in gateway.audited()].count("tenant.deleted") == 1
        assert audit_reading.verify(state_dir / "audit.jsonl").fault is None
        gateway.create("acme")


# --- the audit


def test_restarts_and_failures_are_in_the_audit(gateway: Operated) -> None:
    gateway.inbound(gateway.create("acme"), "hello")
    gateway.changed("POST", "/acme/restart")
    assert ("tenant.restarted", "admin", "acme") in gateway.audited()
    gateway.create("always-exits-78")
    deadline = time.monotonic() + WAIT_SECONDS
    while ("tenant.failed", "gateway", "always-exits-78") not in gateway.audited():
        gateway.control("POST", "/v1/tenants/always-exits-78/restart")
        assert time.monotonic() < deadline
    page = gateway.control("GET", "/v1/audit?tenant=always-exits-78").json
    assert page["entries"][0]["action"] == "tenant.created"
    failed = next(entry for entry in page["entries"] if entry["action"] == "tenant.failed")
    assert "78" in failed["detail"]["reason"]


def test_a_torn_last_line_is_repaired_and_said(state_dir: Path) -> None:
    with Operated(state_dir) as gateway:
        gateway.create("acme")
        gateway.stop(signal.SIGKILL)
    path = state_dir / "audit.jsonl"
    with path.open("ab") as file:
        file.write(b'{"seq":2,"ts"')
    with Operated(state_dir) as gateway:
        torn = [line for line in gateway.log_lines() if line["event"] == "audit repaired"]
        assert [line["bytes_cut"] for line in torn] == [13]
        assert ("audit.repaired", "gateway", None) in gateway.audited()
        verified = gateway.openclaw("audit", "verify")
        assert (verified.returncode, verified.stderr) == (0, "")
        head = verified.stdout.split()[-1]
        gateway.create("globex")
        assert gateway.openclaw("audit", "verify", "--head", head).returncode == 0
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0].replace(b"admin", b"nobod") + b"".join(lines[1:]))
    broken = gateway.openclaw("audit", "verify", "--json")
    assert broken.returncode == 1
    assert json.loads(broken.stdout)["fault"].startswith("line 1: ")
