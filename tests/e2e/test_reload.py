"""The configuration, the registry and the program are changed under a gateway that goes on."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import psutil
import pytest

from tests.e2e.gateway import Gateway, ends
from tests.e2e.packages import Upgradable
from tests.e2e.traffic import Traffic

WAIT_SECONDS = 20.0
RELOADS = 5


def until(what: Callable[[], Any]) -> Any:
    """Ask until it is so; nobody tells of a change."""
    deadline = time.monotonic() + WAIT_SECONDS
    never = threading.Event()
    while not (found := what()):
        assert time.monotonic() < deadline
        never.wait(0.05)
    return found


def configure(gateway: Gateway, text: str) -> None:
    (gateway.state_dir / "config.yaml").write_text(text)


def state_of(gateway: Gateway, tenant: str) -> str:
    state: str = gateway.openclaw_json("tenants", "status", tenant)[0]["state"]
    return state


def events(gateway: Gateway) -> list[str]:
    return [line["event"] for line in gateway.log_lines()]


def memory_limit(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
    (data,) = [line.split() for line in lines if line.startswith("Max data size")]
    return int(data[3])


# --- the configuration


def test_what_can_change_does_and_the_rest_is_named(gateway: Gateway) -> None:
    token = gateway.create("acme")
    call = {"jsonrpc": "2.0", "id": 1, "method": "health", "params": {}}
    assert gateway.post("/rpc", token, call, Host="gw.example.org").status == 403
    configure(
        gateway,
        "gateway: {allowed_hosts: [gw.example.org], host: '::1', port: 1}\n"
        "worker: {idle_seconds: 7}\n"
        "alerts: {command: [/bin/true]}\n"
        "isolation: {uid_count: 2048}\n",
    )
    done = gateway.openclaw_json("gateway", "reload")
    assert done["applied"] == ["gateway.allowed_hosts", "worker.idle_seconds", "alerts.command"]
    # The port was given to the command and is none of the file's business.
    assert done["needsRestart"] == ["gateway.host", "isolation.uid_count"]
    assert gateway.post("/rpc", token, call, Host="gw.example.org").status == 200
    # Named again as long as it is so; what is in force already is not.
    again = gateway.openclaw("gateway", "reload")
    assert again.returncode == 0
    assert "isolation.uid_count needs a restart" in again.stdout
    assert "allowed_hosts" not in again.stdout
    front = gateway.process("openclaw: front")
    with ends(front):
        front.kill()
    assert gateway.post("/rpc", token, call, Host="gw.example.org").status == 200


def test_a_file_that_cannot_be_used_changes_nothing(gateway: Gateway) -> None:
    token = gateway.create("acme")
    zygote = gateway.process("openclaw: zygote").pid
    configure(gateway, "gateway: {allowed_hosts: [gw.example.org]}\nworker: {idle_secs: 1}\n")
    done = gateway.openclaw("gateway", "reload")
    assert (done.returncode, done.stdout) == (1, "")
    assert "idle_secs" in done.stderr
    assert "$.worker" in done.stderr
    assert "stays as it was" in done.stderr
    (line,) = [line for line in gateway.log_lines() if line["event"] == "reload failed"]
    assert "idle_secs" in line["error"]
    call = {"jsonrpc": "2.0", "id": 1, "method": "health", "params": {}}
    assert gateway.post("/rpc", token, call, Host="gw.example.org").status == 403
    assert gateway.rpc(token, "health")["ok"] is True
    assert gateway.process("openclaw: zygote").pid == zygote


def test_a_worker_that_runs_hears_when_to_sleep(gateway: Gateway) -> None:
    token = gateway.create("acme")
    assert gateway.rpc(token, "health")["ok"] is True
    configure(gateway, "worker: {idle_seconds: 0.2}\n")
    assert gateway.openclaw("gateway", "reload").returncode == 0
    until(lambda: state_of(gateway, "acme") == "parked")
    assert gateway.openclaw_json("tenants", "status", "acme")[0]["deaths"] == 0
    configure(gateway, "worker: {idle_seconds: 0}\n")
    assert gateway.openclaw("gateway", "reload").returncode == 0
    generation = gateway.rpc(token, "health")["generation"]
    configure(gateway, "worker: {idle_seconds: 0.2}\n")
    assert gateway.openclaw("gateway", "reload").returncode == 0
    until(lambda: state_of(gateway, "acme") == "parked")
    assert gateway.rpc(token, "health")["generation"] > generation


def test_who_starts_later_has_the_new_memory_limit_and_was_a_spare(gateway: Gateway) -> None:
    gateway.rpc(gateway.create("acme"), "health")
    before = memory_limit(gateway.process("openclaw: worker acme"))
    old = {spare.pid for spare in gateway.spares()}
    configure(gateway, f"worker: {{memory_bytes: {before // 2}}}\n")
    assert gateway.openclaw_json("gateway", "reload")["applied"] == ["worker.memory_bytes"]
    until(lambda: old.isdisjoint(spare.pid for spare in gateway.spares()))
    spares = gateway.spares()
    gateway.rpc(gateway.create("globex"), "health")
    globex = gateway.process("openclaw: worker globex")
    assert globex.pid in {spare.pid for spare in spares}
    assert memory_limit(globex) == before // 2
    assert memory_limit(gateway.process("openclaw: worker acme")) == before


def test_sighup_reloads(gateway: Gateway) -> None:
    gateway.create("acme")
    zygote = gateway.process("openclaw: zygote")
    with ends(zygote):
        gateway.send_signal(signal.SIGHUP)
    until(lambda: "reloaded" in events(gateway))
    assert gateway.process("openclaw: zygote").pid != zygote.pid
    configure(gateway, "[")
    gateway.send_signal(signal.SIGHUP)
    until(lambda: "reload failed" in events(gateway))
    assert gateway.request("GET", "/readyz").status == 200


def test_a_reload_without_a_gateway(gateway: Gateway) -> None:
    gateway.stop()
    done = gateway.openclaw("gateway", "reload")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no gateway is running" in done.stderr


def test_a_reload_takes_the_admin_key(gateway: Gateway) -> None:
    zygote = gateway.process("openclaw: zygote").pid
    token = gateway.create("acme")
    for secret in (None, token, "ak_" + "0" * 64):
        assert gateway.request("POST", "/v1/reload", token=secret, body=b"{}").status == 401
    assert gateway.process("openclaw: zygote").pid == zygote


# --- the registry


@contextlib.contextmanager
def registry(gateway: Gateway) -> Iterator[apsw.Connection]:
    path = str(gateway.state_dir / "registry.sqlite")
    with contextlib.closing(apsw.Connection(path)) as connection:
        yield connection


def test_workers_follow_the_registry(gateway: Gateway) -> None:
    tokens = {name: gateway.create(name) for name in ("suspended", "gone", "kept")}
    for token in tokens.values():
        gateway.rpc(token, "health")
    workers = gateway.processes()
    kept = workers["openclaw: worker kept"].pid
    with (
        registry(gateway) as written,
        ends(workers["openclaw: worker suspended"], workers["openclaw: worker gone"]),
    ):
        written.execute("UPDATE tenants SET state = 'suspended' WHERE id = 'suspended'")
        written.execute("PRAGMA foreign_keys=ON; DELETE FROM tenants WHERE id = 'gone'")
        assert gateway.openclaw("gateway", "reload").returncode == 0
    until(lambda: state_of(gateway, "suspended") == "suspended")
    for name in ("suspended", "gone"):
        assert gateway.rpc_reply(tokens[name], "health", {}).status == 401
    assert gateway.rpc(tokens["kept"], "health")["ok"] is True
    assert gateway.process("openclaw: worker kept").pid == kept
    with registry(gateway) as written:
        written.execute("UPDATE tenants SET state = 'enabled' WHERE id = 'suspended'")
    assert gateway.openclaw("gateway", "reload").returncode == 0
    assert gateway.rpc(tokens["suspended"], "health")["ok"] is True
    assert "worker died" not in events(gateway)


# --- the program


def test_there_is_always_a_zygote(gateway: Gateway) -> None:
    """First requests, each of which needs a fork, while one zygote after the other is replaced."""
    tokens = [gateway.create(f"t{number}") for number in range(RELOADS * 4)]
    answered: list[object] = []
    over = threading.Event()

    def ask() -> None:
        while tokens and not over.is_set():
            answered.append(gateway.rpc_reply(tokens.pop(), "health", {}).status)
            over.wait(0.05)

    asking = threading.Thread(target=ask)
    asking.start()
    pids = {gateway.process("openclaw: zygote").pid}
    for _ in range(RELOADS):
        pids.add(gateway.openclaw_json("gateway", "reload")["zygotePid"])
    over.set()
    asking.join()
    assert len(pids) == RELOADS + 1
    assert answered == [200] * len(answered)
    assert len(answered) >= RELOADS
    assert "worker died" not in events(gateway)
    until(lambda: len([name for name in gateway.processes() if "zygote" in name]) == 1)


def test_new_code_takes_over_and_no_request_is_lost(state_dir: Path) -> None:
    tenants = ("acme", "globex", "initech")
    with Upgradable(state_dir) as gateway:
        tokens = {name: gateway.create(name) for name in tenants}
        with contextlib.ExitStack() as stack:
            traffic = [stack.enter_context(Traffic(gateway, tokens[name], 1)) for name in tenants]
            assert all(gateway.rpc(token, "health")["ts"] > 1 for token in tokens.values())
            gateway.change("worker/health.py", "ts=services.clock.now_ms(),", "ts=1,")
            assert gateway.openclaw("gateway", "reload").returncode == 0
            # Who runs goes on as he is; who starts now is new.
            assert all(gateway.rpc(token, "health")["ts"] > 1 for token in tokens.values())
            assert gateway.rpc(gateway.create("late"), "health")["ts"] == 1
            rows = gateway.openclaw_json("tenants", "restart", "--all", "--at-once", "2")
            assert [row["tenantId"] for row in rows] == sorted([*tenants, "late"])
            assert [gateway.rpc(token, "health")["ts"] for token in tokens.values()] == [1] * 3
        assert [clients.failures for clients in traffic] == [[]] * 3
        assert "worker died" not in events(gateway)
        code, errors = gateway.stop()
        assert code == 0, errors


def test_new_code_that_does_not_start(state_dir: Path) -> None:
    with Upgradable(state_dir) as gateway:
        token = gateway.create("acme")
        before = gateway.rpc(token, "health")["generation"]
        zygote = gateway.process("openclaw: zygote").pid
        gateway.change("worker/health.py", "ok=True,", "ok=True")
        done = gateway.openclaw("gateway", "reload")
        assert done.returncode == 1
        assert "the present one forks on" in done.stderr
        assert gateway.process("openclaw: zygote").pid == zygote
        assert gateway.rpc(token, "health")["generation"] == before
        assert gateway.rpc(gateway.create("globex"), "health")["ok"] is True


def test_a_gateway_without_a_zygote_does_not_start(state_dir: Path) -> None:
    with pytest.raises(AssertionError, match="the zygote does not start"):
        Upgradable(state_dir, ("worker/health.py", "ok=True,", "ok=True"))
    assert "SyntaxError" in (state_dir / "gateway.log").read_text()


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_round_of_restarts_stops_at_one_that_fails(state_dir: Path, keep_going: bool) -> None:
    names = ["acme", "globex", "initech"]
    with Upgradable(state_dir) as gateway:
        for name in names:
            assert gateway.rpc(gateway.create(name), "health")["ok"] is True
        before = {name: gateway.process(f"openclaw: worker {name}").pid for name in names}
        gateway.change(
            "worker/main.py", "    code = EXIT_FAILED\n    try:", "    os._exit(78)\n    try:"
        )
        assert gateway.openclaw("gateway", "reload").returncode == 0
        options = ["--all", "--at-once", "1", *(["--keep-going"] if keep_going else [])]
        done = gateway.openclaw("tenants", "restart", *options)
        assert (done.returncode, done.stdout) == (1, "")
        tried = names if keep_going else ["acme"]
        for name in names:
            assert (f"{name}: the next generation did not start" in done.stderr) == (name in tried)
            assert gateway.process(f"openclaw: worker {name}").pid == before[name]
        assert ("not restarted: globex, initech" in done.stderr) == (not keep_going)
