"""The zygote as a process: what it is, what it refuses, when it ends."""

import os
from pathlib import Path

import msgspec
import pytest

from protocol import descriptors
from supervisor.zygote import main
from supervisor.zygote.spec import SpawnFailed
from tests.attack import harness

pytestmark = pytest.mark.usefixtures("both_ways_of_birth")


@pytest.fixture
def state(state_dir: Path) -> Path:
    harness.make_state(state_dir, "acme")
    return state_dir


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def make_one(zygote: harness.Zygote, state: Path) -> harness.Worker:
    """A worker that lives; when it is ready the zygote has certainly settled."""
    worker = zygote.spawn(
        harness.worker_spec(state, "acme"), harness.order(state, "wait_to_be_told")
    )
    worker.wait_ready()
    return worker


def test_it_keeps_few_privileges(state: Path) -> None:
    with harness.attackers() as zygote:
        make_one(zygote, state)
        seen = status(zygote.process.pid)
        environ = Path(f"/proc/{zygote.process.pid}/environ")
        assert environ.stat().st_uid == 0, "dumpable"
        if harness.ROOT:
            assert environ.read_bytes() == b""
    kept = sum(1 << capability for capability in main._CAPABILITIES) if harness.ROOT else 0
    assert int(seen["CapEff"], 16) | kept == kept
    assert int(seen["CapPrm"], 16) | kept == kept
    assert int(seen["CapInh"], 16) == int(seen["CapAmb"], 16) == 0
    assert seen["NoNewPrivs"] == "1"
    assert seen["Seccomp"] == "2"
    assert seen["Threads"] == "1"
    if harness.ROOT:
        assert int(seen["CapBnd"], 16) == kept
        assert seen["Groups"] == ""


def test_it_tells_ps_what_it_is(state: Path) -> None:
    with harness.attackers() as zygote:
        make_one(zygote, state)
        shown = Path(f"/proc/{zygote.process.pid}/cmdline").read_bytes()
    assert shown.rstrip(b"\0") == b"openclaw: zygote"


def test_the_longest_tenant_id_fits_the_title(state_dir: Path) -> None:
    tenant = "a" * 40
    harness.make_state(state_dir, tenant)
    with harness.attackers() as zygote:
        worker = zygote.spawn(
            harness.worker_spec(state_dir, tenant), harness.order(state_dir, "wait_to_be_told")
        )
        worker.wait_ready()
        shown = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
    assert shown.rstrip(b"\0") == b"openclaw: worker " + tenant.encode()


def test_it_does_not_fork_with_a_second_thread(state: Path) -> None:
    with harness.attackers(second_thread=True) as zygote:
        reply = zygote.ask(harness.worker_spec(state, "acme"), b"")
        assert isinstance(reply, SpawnFailed)
        assert reply.reason == "the zygote has 2 threads"


@pytest.mark.parametrize("missing", [1, 4])
def test_it_wants_every_descriptor(missing: int, state: Path) -> None:
    with harness.attackers() as zygote:
        reply = zygote.ask(harness.worker_spec(state, "acme"), b"", leave_out=missing)
        assert isinstance(reply, SpawnFailed)
        assert reply.reason == f"{4 - missing} descriptors came along"
        make_one(zygote, state)


def test_it_keeps_no_descriptor_of_its_workers(state: Path) -> None:
    with harness.attackers() as zygote:
        for _ in range(3):
            worker = make_one(zygote, state)
            os.kill(worker.pid, 9)
            # The pipe ends with the worker: nobody else holds its other end.
            assert worker.errors() == ""


def test_workers_are_the_supervisors_children(state: Path) -> None:
    with harness.attackers() as zygote:
        workers = [make_one(zygote, state) for _ in range(3)]
        assert {worker.status()["PPid"] for worker in workers} == {str(os.getpid())}
        assert status(zygote.process.pid)["PPid"] == str(os.getpid())


def test_it_ends_when_its_channel_is_closed(state: Path) -> None:
    with harness.attackers() as zygote:
        make_one(zygote, state)
        zygote.channel.close()
        assert zygote.process.wait(harness.DEADLINE_SECONDS) == 0


def test_it_ends_at_a_message_it_does_not_know(
    state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with harness.attackers() as zygote:
        descriptors.send(zygote.channel, msgspec.msgpack.encode({"request": 1}))
        assert zygote.process.wait(harness.DEADLINE_SECONDS) == 1
    assert "msgspec.ValidationError" in capfd.readouterr().err


def test_a_worker_whose_code_raises_exits_1_and_tells(state: Path) -> None:
    with harness.attackers() as zygote:
        worker = zygote.spawn(harness.worker_spec(state, "acme"), b"no order")
        assert worker.wait() == 1
        assert "DecodeError" in worker.errors()
        make_one(zygote, state)


def test_the_real_program_imports_the_worker_and_ends_at_eof() -> None:
    with harness.Zygote(None) as zygote:
        zygote.channel.shutdown(2)
        assert zygote.process.wait(harness.DEADLINE_SECONDS) == 0
