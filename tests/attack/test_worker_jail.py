"""A worker in the real jail, made by the real zygote: what it is and can; see `test_matrix.py`."""

import os
import platform
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol import descriptors
from tests.attack import harness

pytestmark = pytest.mark.usefixtures("both_ways_of_birth")

SYSTEM_ONLY = ("/dev/urandom", "/usr")
MODES = [
    pytest.param({}, id="namespaces"),
    pytest.param(
        {"namespaces": False, "readable": SYSTEM_ONLY}, id="landlock", marks=pytest.mark.root
    ),
]


@pytest.fixture(scope="module")
def zygote() -> Iterator[harness.Zygote]:
    with harness.attackers() as process:
        yield process


@pytest.mark.parametrize("jail", MODES)
def test_a_worker_can_do_its_work(
    jail: dict[str, Any], state_dir: Path, zygote: harness.Zygote
) -> None:
    harness.make_state(state_dir, "acme")
    spec = harness.worker_spec(state_dir, "acme", **jail)

    def run(task: str) -> Any:
        worker = zygote.spawn(spec, harness.order(state_dir, task))
        report = worker.report()
        assert worker.wait() == 0, worker.errors()
        assert worker.errors() == ""
        return report

    assert run("use_files") == {"text": "te", "listing": []}
    assert run("use_threads") == {"seen": list(range(8)), "still": 1}
    assert run("use_uvloop") == {"line": "hello\n", "other": True}
    database = run("use_database")
    assert database["sorted"] is True
    assert database["counted"] == 30_000


def test_a_database_may_sort_in_files(state_dir: Path, zygote: harness.Zygote) -> None:
    harness.make_state(state_dir, "acme")
    worker = zygote.spawn(
        harness.worker_spec(state_dir, "acme"),
        harness.order(state_dir, "use_database_with_files"),
    )
    assert worker.report()["sorted"] is True
    assert not [name for name in harness.listing(state_dir / "tenants/acme") if "etilqs" in name]


def test_two_workers_of_the_same_second_differ_in_randomness(
    state_dir: Path, zygote: harness.Zygote
) -> None:
    harness.make_state(state_dir, "acme", "globex")
    workers = [
        zygote.spawn(
            harness.worker_spec(state_dir, tenant), harness.order(state_dir, "use_database")
        )
        for tenant in ("acme", "globex")
    ]
    first, second = (worker.report()["random"] for worker in workers)
    assert first != second


@pytest.mark.parametrize("jail", MODES)
def test_a_worker_is_born_with_nothing_but_its_own(
    jail: dict[str, Any], state_dir: Path, zygote: harness.Zygote
) -> None:
    harness.make_state(state_dir, "acme")
    worker = zygote.spawn(
        harness.worker_spec(state_dir, "acme", **jail), harness.order(state_dir, "look_around")
    )
    seen = worker.report()
    uid, gid = harness.ids("acme")
    assert seen["descriptors"] == [0, 1, 2, 3, 4, 5]
    assert set(seen["environment"]) <= {"LC_CTYPE"}  # Python's own, in an empty environment
    assert seen["ids"] == [uid, uid, gid, gid]
    assert seen["cwd"] == (str(state_dir / "tenants/acme") if jail else "/tenant")


def test_no_secret_of_the_supervisor_is_in_a_workers_memory(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dumpable, as it could not be looked at by an ordinary user; the zygote is not.
    harness.make_state(state_dir, "acme")
    canary = secrets.token_hex(16)
    monkeypatch.setenv("OPENCLAW_CANARY", canary)
    with harness.attackers(skip=["forbid_dumps"], dumpable=True) as zygote:
        worker = zygote.spawn(
            harness.worker_spec(state_dir, "acme"), harness.order(state_dir, "wait_to_be_told")
        )
        worker.wait_ready()
        assert harness.holds(os.getpid(), canary.encode())
        assert harness.holds(worker.pid, b"wait_to_be_told")  # it is found where it is
        assert not harness.holds(worker.pid, canary.encode())
        if harness.ROOT:
            assert Path(f"/proc/{zygote.process.pid}/environ").read_bytes() == b""
            assert not harness.holds(zygote.process.pid, canary.encode())


@pytest.mark.parametrize("jail", MODES)
def test_the_kernel_says_that_a_worker_is_jailed(
    jail: dict[str, Any], state_dir: Path, zygote: harness.Zygote
) -> None:
    harness.make_state(state_dir, "acme")
    spec = harness.worker_spec(state_dir, "acme", **jail)
    worker = zygote.spawn(spec, harness.order(state_dir, "wait_to_be_told"))
    worker.wait_ready()
    status = worker.status()
    command = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
    owner = Path(f"/proc/{worker.pid}/environ").stat().st_uid
    limits = Path(f"/proc/{worker.pid}/limits").read_text()
    session = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[3]
    uid, gid = harness.ids("acme")
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["Uid"].split() == [str(uid)] * 4
    assert status["Gid"].split() == [str(gid)] * 4
    assert status["Groups"] == "" or not harness.ROOT
    assert status["Umask"] == "0077"
    assert status["Threads"] == "1"
    assert status["PPid"] == str(os.getpid())
    assert status["NSpid"].split()[1:] == ([] if jail else ["1"])
    assert command.rstrip(b"\0") == b"openclaw: worker acme"
    assert owner == 0  # not dumpable
    assert session == str(worker.pid)
    assert ["Max", "core", "file", "size", "0", "0", "bytes"] in map(str.split, limits.splitlines())
    assert ["Max", "open", "files", "1024", "1024", "files"] in map(str.split, limits.splitlines())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the other ABIs of x86_64")
@pytest.mark.parametrize("task", ["other_abi", "x32_abi"])
def test_a_call_in_another_abi_kills(task: str, state_dir: Path, zygote: harness.Zygote) -> None:
    harness.make_state(state_dir, "acme")
    worker = zygote.spawn(harness.worker_spec(state_dir, "acme"), harness.order(state_dir, task))
    assert worker.wait() == -signal.SIGSYS


def test_descriptors_can_be_handed_to_a_jailed_worker(
    state_dir: Path, zygote: harness.Zygote
) -> None:
    harness.make_state(state_dir, "acme")
    worker = zygote.spawn(
        harness.worker_spec(state_dir, "acme"), harness.order(state_dir, "take_descriptor")
    )
    reader, writer = os.pipe()
    descriptors.send(worker.channel, b"link", [reader])
    os.write(writer, b"through the pipe")
    os.close(reader)
    os.close(writer)
    assert worker.report() == {"payload": "link", "read": "through the pipe"}


def test_a_worker_outlives_its_zygote(state_dir: Path) -> None:
    harness.make_state(state_dir, "acme")
    with harness.attackers() as zygote:
        worker = zygote.spawn(
            harness.worker_spec(state_dir, "acme"), harness.order(state_dir, "wait_to_be_told")
        )
        worker.wait_ready()
        zygote.process.kill()
        zygote.process.wait(harness.DEADLINE_SECONDS)
        worker.link.sendall(b"now")
        assert worker.report() == {}
        assert worker.wait() == 0


@pytest.mark.root
def test_a_python_that_the_tenant_could_not_reach_is_read_all_the_same(
    state_dir: Path, zygote: harness.Zygote
) -> None:
    closed = state_dir / "closed"
    (closed / "lib").mkdir(parents=True)
    (closed / "lib" / "module.py").write_text("here = True")
    closed.chmod(0o700)
    harness.make_state(state_dir, "acme")
    path = str(closed / "lib")
    spec = harness.worker_spec(state_dir, "acme", readable=("/usr", path))
    worker = zygote.spawn(spec, harness.order(state_dir, "wait_to_be_told"))
    worker.wait_ready()
    assert harness.listing(Path(f"/proc/{worker.pid}/root{path}")) == ["module.py"]
    assert harness.listing(Path(f"/proc/{worker.pid}/root{closed}")) == ["lib"]
    assert Path(f"/proc/{worker.pid}/root{closed}").stat().st_mode & 0o777 == 0o755
