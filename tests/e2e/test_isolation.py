"""Below the minimum the gateway does not start, unless the operator has written so by hand."""

import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.gateway import OPENCLAW, Gateway

WITHOUT = str(Path(__file__).with_name("without.py"))
# What has to be taken away for the minimum to be missed: root has Landlock to fall back on.
MISSING = ["namespaces", "landlock_create_ruleset"]


def command(*refused: str) -> tuple[str, ...]:
    return (sys.executable, WITHOUT, *refused, "--", OPENCLAW, "gateway", "--port", "0")


def test_below_the_minimum_the_gateway_refuses_to_start(state_dir: Path) -> None:
    with pytest.raises(AssertionError) as failure:
        Gateway(state_dir, command=command(*MISSING))
    said = str(failure.value)
    assert "cannot be kept apart here" in said
    assert "isolation: {mode: none}" in said
    assert "Traceback" not in said


def test_isolation_none_starts_and_says_so_everywhere(state_dir: Path) -> None:
    (state_dir / "config.yaml").write_text("isolation: {mode: none}\n")
    with Gateway(state_dir, command=command(*MISSING)) as gateway:
        assert "isolation is off" in gateway.banner
        ready = gateway.request("GET", "/readyz")
        assert ready.status == 200
        assert "isolation is off" in ready.body.decode()
        token = gateway.create("acme")
        assert gateway.inbound(token, "hello").status == 200
        assert any("isolation is off" in str(line) for line in gateway.log_lines())


@pytest.mark.root
def test_root_that_cannot_give_tenants_a_uid_refuses_to_start(state_dir: Path) -> None:
    (state_dir / "config.yaml").write_text("isolation: {mode: none}\n")
    with pytest.raises(AssertionError, match="cannot be given a uid of its own"):
        Gateway(state_dir, command=command("setresuid"))


@pytest.mark.root
def test_root_without_namespaces_still_has_uid_landlock_and_seccomp(state_dir: Path) -> None:
    with Gateway(state_dir, command=command("namespaces")) as gateway:
        assert "namespaces" not in gateway.banner
        assert "Landlock" in gateway.banner
        token = gateway.create("acme")
        assert gateway.inbound(token, "hello").status == 200
        worker = gateway.process("openclaw: worker acme")
        assert worker.uids().effective != 0


def test_where_isolation_holds_nothing_is_said_to_be_off(gateway: Gateway) -> None:
    assert "off" not in gateway.banner
    notices = gateway.request("GET", "/readyz").json.get("notices", [])
    assert not [notice for notice in notices if "isolation" in notice]
    gateway.inbound(gateway.create("acme"), "hello")
    worker = gateway.process("openclaw: worker acme")
    assert seccomp_mode(worker) == 2


def seccomp_mode(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("Seccomp:"))[8:])
