"""Processes that wait to become a worker: what they hold, and what happens when they fail."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from protocol import limits
from tests.e2e.gateway import Gateway, ends

WAKES = 24


def is_worker(process: psutil.Process, tenant: str) -> bool:
    return " ".join(process.cmdline()).strip() == f"openclaw: worker {tenant}"


def test_a_wake_takes_a_spare_and_another_is_made(gateway: Gateway) -> None:
    spares = gateway.spares()
    assert gateway.inbound(gateway.create("acme"), "hello").status == 200
    assert [is_worker(spare, "acme") for spare in spares].count(True) == 1
    assert len({spare.pid for spare in gateway.spares()} - {spare.pid for spare in spares}) == 1


def test_spares_are_the_supervisors_children_and_nobody_elses(gateway: Gateway) -> None:
    for spare in gateway.spares():
        assert spare.ppid() == gateway.pid
        status = Path(f"/proc/{spare.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert Path(f"/proc/{spare.pid}/environ").stat().st_uid == 0, "dumpable"


@pytest.mark.root
def test_a_spare_holds_nothing_of_a_tenant(gateway: Gateway) -> None:
    gateway.inbound(gateway.create("acme"), "hello")
    for spare in gateway.spares():
        held = [str(entry.readlink()) for entry in Path(f"/proc/{spare.pid}/fd").iterdir()]
        kinds = sorted(target.partition(":")[0] for target in held)
        # Null twice; what holds all tenants' directories, to be left; its link and channel to the
        # supervisor; the ready pipe, standard error, and libuv's pipe to itself.
        ours = ["/dev/null"] * 2 + [f"{gateway.state_dir}/tenants"]
        assert kinds == sorted([*ours, *["socket"] * 2, *["pipe"] * 4])
        assert b"acme" not in Path(f"/proc/{spare.pid}/cmdline").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_no_request_is_lost_when_every_spare_dies_or_hangs(
    number: signal.Signals, gateway: Gateway
) -> None:
    token = gateway.create("acme")
    spares = gateway.spares()
    for spare in spares:
        spare.send_signal(number)
    assert gateway.inbound(token, "hello").status == 200
    worker = gateway.process("openclaw: worker acme")
    assert worker.pid not in {spare.pid for spare in spares}
    if number is signal.SIGSTOP:
        # The one that was asked has been ended.
        assert len([spare for spare in spares if spare.is_running()]) == limits.SPARES - 1
    status = gateway.openclaw_json("tenants", "status", "acme")[0]
    assert status["deaths"] == 0, status


def test_spares_end_with_their_zygote_and_the_next_has_its_own(gateway: Gateway) -> None:
    spares = gateway.spares()
    zygote = gateway.process("openclaw: zygote")
    with ends(zygote, *spares):
        zygote.kill()
    assert not {spare.pid for spare in spares} & {spare.pid for spare in gateway.spares()}
    assert gateway.inbound(gateway.create("acme"), "hello").status == 200


def test_spares_end_with_a_killed_supervisor(gateway: Gateway) -> None:
    with ends(*gateway.spares()):
        gateway.stop(signal.SIGKILL)


def test_spares_end_with_a_stopped_gateway(gateway: Gateway) -> None:
    with ends(*gateway.spares()):
        code, errors = gateway.stop()
    assert code == 0, errors
    assert "a spare died" not in [line["event"] for line in gateway.log_lines()]


def test_more_wakes_at_once_than_there_are_spares(gateway: Gateway) -> None:
    tokens = [gateway.create(f"tenant-{number}") for number in range(WAKES)]
    gateway.spares()
    with ThreadPoolExecutor(WAKES) as pool:
        replies = list(pool.map(lambda token: gateway.inbound(token, "hello"), tokens))
    assert [reply.status for reply in replies] == [200] * WAKES
    workers = {title: process.pid for title, process in gateway.processes().items()}
    assert len({pid for title, pid in workers.items() if "worker" in title}) == WAKES
    assert len(gateway.spares()) == limits.SPARES
