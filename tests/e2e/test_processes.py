"""The process tree: its names, its order of ending, and what happens when a part is killed."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.e2e.gateway import Gateway, ends


def test_every_process_has_its_name_and_place(gateway: Gateway) -> None:
    for tenant in ("acme", "globex"):
        gateway.inbound(gateway.create(tenant), "hello")
    assert psutil.Process(gateway.pid).cmdline()[0].strip() == "openclaw: supervisor"
    found = gateway.processes()
    assert sorted(found) == [
        "openclaw: disk",
        "openclaw: egress",
        "openclaw: front",
        "openclaw: launcher",
        "openclaw: stem",
        "openclaw: worker acme",
        "openclaw: worker globex",
        "openclaw: zygote",
    ]
    launcher = found["openclaw: launcher"].pid
    assert found.pop("openclaw: stem").ppid() == launcher
    assert all(process.ppid() == gateway.pid for process in found.values())


def test_zygote_and_front_start_with_an_empty_environment(state_dir: Path) -> None:
    os.environ["OPENCLAW_TEST_CANARY"] = "canary-in-the-environment"
    try:
        with Gateway(state_dir) as gateway:
            token = gateway.create("acme")
            assert gateway.inbound(token, "hello").status == 200
            if os.geteuid() == 0:  # a process that is not dumpable hides this from its own uid
                for process in gateway.processes().values():
                    environment = Path(f"/proc/{process.pid}/environ").read_bytes()
                    assert b"canary" not in environment
    finally:
        del os.environ["OPENCLAW_TEST_CANARY"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_in_order(gateway: Gateway, number: signal.Signals) -> None:
    gateway.inbound(gateway.create("acme"), "hello")
    with ends(*gateway.processes().values()):
        code, errors = gateway.stop(number)
    assert code == 0, errors
    events = [line["event"] for line in gateway.log_lines()]
    assert events.index("gateway stops") < events.index("gateway stopped")
    assert "worker died" not in events


def test_a_signal_to_every_process_at_once_still_stops_in_order(gateway: Gateway) -> None:
    token = gateway.create("acme")
    gateway.inbound(token, "hello")
    worker = gateway.process("openclaw: worker acme")
    worker.suspend()
    with ThreadPoolExecutor() as pool:
        # In flight, as its worker stands still until the signals are out.
        answer = pool.submit(gateway.inbound, token, "in flight")
        gateway.wait_in_flight("acme")
        processes = list(gateway.processes().values())
        with ends(*processes):
            for process in processes:
                process.terminate()
            psutil.Process(gateway.pid).terminate()
            worker.resume()
            assert answer.result().status == 200
    assert gateway.stop()[0] == 0


def test_a_front_and_an_egress_that_hang_are_replaced(gateway: Gateway) -> None:
    token = gateway.create("acme")
    gateway.inbound(token, "hello")
    worker = gateway.process("openclaw: worker acme").pid
    hanging = [gateway.process(f"openclaw: {name}") for name in ("front", "egress")]
    with ends(*hanging):
        for process in hanging:
            process.suspend()
    reply = gateway.inbound(token, "again")
    assert reply.status == 200
    assert "again" in reply.json["reply"]["text"]
    assert gateway.process("openclaw: worker acme").pid == worker


def test_nobody_reads_what_the_gateway_prints(state_dir: Path) -> None:
    with Gateway(state_dir) as gateway:
        gateway.close_output()
        assert gateway.inbound(gateway.create("acme"), "hello").status == 200
        gateway.process("openclaw: worker acme").kill()  # a warning, to nobody
        code, _ = gateway.stop()
    assert code == 0


def test_a_killed_supervisor_leaves_no_process(gateway: Gateway) -> None:
    for tenant in ("acme", "globex"):
        gateway.inbound(gateway.create(tenant), "hello")
    processes = gateway.processes()
    assert len(processes) == 8
    with ends(*processes.values(), *gateway.spares()):
        gateway.stop(signal.SIGKILL)


def test_a_killed_gateway_starts_again_on_the_same_state(state_dir: Path) -> None:
    with Gateway(state_dir) as first:
        token = first.create("acme")
        key = first.inbound(token, "before").json["sessionKey"]
        processes = list(first.processes().values())
        with ends(*processes):
            first.stop(signal.SIGKILL)
    with Gateway(state_dir) as second:
        second.inbound(token, "after")
        history = second.rpc(token, "chat.history", sessionKey=key)
    assert [message["role"] for message in history["messages"]] == ["user", "assistant"] * 2


def test_a_killed_worker_is_replaced_and_a_neighbour_does_not_notice(gateway: Gateway) -> None:
    acme, globex = gateway.create("acme"), gateway.create("globex")
    gateway.inbound(acme, "hello")
    gateway.inbound(globex, "hello")
    neighbour = gateway.process("openclaw: worker globex").pid
    victim = gateway.process("openclaw: worker acme")
    with ends(victim):
        victim.kill()
    reply = gateway.inbound(acme, "again")
    assert reply.status in (200, 503)
    if reply.status == 503:  # it died under the request: retryable, and said so
        assert reply.json["error"]["data"]["retryable"] is True
        assert gateway.inbound(acme, "again").status == 200
    assert gateway.process("openclaw: worker acme").pid != victim.pid
    assert gateway.process("openclaw: worker globex").pid == neighbour


def test_a_killed_front_is_replaced_and_the_workers_live_on(gateway: Gateway) -> None:
    token = gateway.create("acme")
    key = gateway.inbound(token, "hello").json["sessionKey"]
    worker = gateway.process("openclaw: worker acme").pid
    front = gateway.process("openclaw: front")
    with ends(front):
        front.kill()
    # The listener stays open in the supervisor: this waits in its backlog and is answered.
    history = gateway.rpc(token, "chat.history", sessionKey=key)
    assert len(history["messages"]) == 2
    assert gateway.process("openclaw: worker acme").pid == worker
    assert gateway.process("openclaw: front").pid != front.pid


def test_a_killed_zygote_is_replaced(gateway: Gateway) -> None:
    acme = gateway.create("acme")
    gateway.inbound(acme, "hello")
    worker = gateway.process("openclaw: worker acme").pid
    zygote = gateway.process("openclaw: zygote")
    with ends(zygote):
        zygote.kill()
    assert gateway.inbound(gateway.create("globex"), "hello").status == 200
    assert gateway.process("openclaw: worker acme").pid == worker


def test_two_gateways_on_one_state_directory(gateway: Gateway) -> None:
    done = gateway.openclaw("gateway", "--port", "0")
    assert done.returncode == 75
    assert "already" in done.stderr
    assert gateway.request("GET", "/readyz").status == 200


def test_a_taken_port_is_a_clear_error(gateway: Gateway, tmp_path: Path) -> None:
    port = gateway.address.rsplit(":", 1)[1]
    other = Path(gateway.state_dir, "other")
    other.mkdir(mode=0o755)
    gateway.env["OPENCLAW_STATE_DIR"] = str(other)
    done = gateway.openclaw("gateway", "--port", port)
    assert done.returncode == 1
    assert port in done.stderr
    assert "Traceback" not in done.stderr
