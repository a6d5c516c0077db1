"""Each step of the jail does something: without it an attack works, or the kernel says so.

The steps are left out in the attacker's own zygote only; the product has no way to do that.
"""

import json
import os
import select
import signal
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.zygote import jail
from tests.attack import harness

PARENT = Path(__file__).with_name("parent.py")
as_user = pytest.mark.user  # root's tenants are kept apart by their uids


def attack(state: Path, *names: str, skip: tuple[str, ...], **changes: Any) -> dict[str, str]:
    """What became of some attacks in a jail without some steps."""
    assert set(skip) <= {step.__name__ for step in jail.STEPS}
    with harness.attackers(skip=skip) as zygote:
        spec = harness.worker_spec(state, "acme", **changes)
        worker = zygote.spawn(spec, harness.order(state, names=names))
        report: dict[str, str] = worker.report()
        return report


def kernels_view(state: Path, *skip: str, shed: bool = True) -> dict[str, str]:
    """/proc/<pid>/status, and some more, of a worker in a jail without some steps."""
    with harness.attackers(skip=skip, shed=shed) as zygote:
        spec = harness.worker_spec(state, "acme")
        worker = zygote.spawn(spec, harness.order(state, "wait_to_be_told"))
        worker.wait_ready()
        proc = Path(f"/proc/{worker.pid}")
        limits = next(
            line.split() for line in (proc / "limits").read_text().splitlines() if "files" in line
        )
        return worker.status() | {
            "open files": limits[3],
            "session": (proc / "stat").read_text().rpartition(")")[2].split()[3],
            "pid": str(worker.pid),
            "owner": str((proc / "environ").stat().st_uid),
        }


def end_without(state: Path, *skip: str, shed: bool = True) -> tuple[int, str]:
    """How a worker ends that a later step refuses."""
    with harness.attackers(skip=skip, shed=shed) as zygote:
        spec = harness.worker_spec(state, "acme")
        worker = zygote.spawn(spec, harness.order(state, "look_around"))
        assert worker.link.recv(1) == b""
        return worker.wait(), worker.errors()


@pytest.fixture
def state(state_dir: Path) -> Path:
    harness.make_state(state_dir, "acme", "globex")
    return state_dir


def test_without_validate_no_directory_is_found(state: Path) -> None:
    # What it refuses is in test_refusals.py.
    code, errors = end_without(state, "validate")
    assert code == jail.EXIT_CONFIGURATION
    assert "jail: enter_directory" in errors


def test_without_close_descriptors_more_is_inherited(state: Path) -> None:
    with harness.attackers(skip=["close_descriptors"]) as zygote:
        worker = zygote.spawn(
            harness.worker_spec(state, "acme"), harness.order(state, "look_around")
        )
        assert len(worker.report()["descriptors"]) > 6


def test_without_new_session_the_terminal_is_shared(state: Path) -> None:
    seen = kernels_view(state, "new_session")
    assert seen["session"] != seen["pid"]
    seen = kernels_view(state)
    assert seen["session"] == seen["pid"]


def test_without_limit_resources_limits_are_the_gateways(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o027)
    try:
        assert kernels_view(state, "limit_resources")["Umask"] == "0027"
        assert kernels_view(state)["Umask"] == "0077"
    finally:
        os.umask(before)


@as_user
def test_without_enter_namespaces_nothing_can_be_mounted(state: Path) -> None:
    code, errors = end_without(state, "enter_namespaces")
    assert code == jail.EXIT_CONFIGURATION
    assert "jail: change_root" in errors


def test_without_change_root_neighbours_are_seen(state: Path) -> None:
    # As an ordinary user this is the only wall against stat; as root permissions hide the file.
    name = f"stat the neighbour's {'directory' if harness.ROOT else 'file'}"
    skip = ("change_root", "enter_directory")
    outcome = attack(state, name, skip=skip, readable=("/usr",))[name]
    assert outcome.startswith("worked")
    assert attack(state, name, skip=())[name] == "ENOENT"


@pytest.mark.root
def test_without_drop_identity_it_is_root(state: Path) -> None:
    skip = ("drop_identity", "drop_capabilities", "enter_directory")
    assert kernels_view(state, *skip)["Uid"].split()[0] == "0"
    code, errors = end_without(state, "drop_identity")
    # Without capabilities even root cannot enter what is the tenant's alone.
    assert code == jail.EXIT_CONFIGURATION
    assert "jail: enter_directory" in errors


@as_user
def test_without_drop_capabilities_they_are_kept_in_the_user_namespace(state: Path) -> None:
    assert int(kernels_view(state, "drop_capabilities")["CapEff"], 16) != 0
    assert int(kernels_view(state)["CapEff"], 16) == 0


def test_without_enter_directory_the_directory_stays_open(state: Path) -> None:
    with harness.attackers(skip=["enter_directory", "restrict_files"]) as zygote:
        worker = zygote.spawn(
            harness.worker_spec(state, "acme"), harness.order(state, "look_around")
        )
        report = worker.report()
    assert report["cwd"] == "/"
    assert len(report["descriptors"]) == 7


@as_user
def test_without_forbid_dumps_proc_is_open_to_the_same_uid(state: Path) -> None:
    # As root the change of uid has closed it already.
    assert kernels_view(state, "forbid_dumps")["owner"] == str(os.geteuid())
    assert kernels_view(state)["owner"] == "0"


def test_without_no_new_privileges_nothing_more_can_be_forbidden(state: Path) -> None:
    # The zygote has them forbidden already, unless it is told not to shed what it has.
    code, errors = end_without(state, "forbid_new_privileges", shed=False)
    assert code == jail.EXIT_CONFIGURATION
    assert "jail: restrict_files: [Errno 1]" in errors


def test_without_landlock_the_root_can_be_listed(state: Path) -> None:
    skip = ("restrict_files",)
    assert attack(state, "list /", skip=skip)["list /"].startswith("worked")
    assert attack(state, "list /", skip=())["list /"] == "EACCES"


@pytest.mark.root
def test_without_landlock_and_namespaces_others_files_are_open(state: Path) -> None:
    alone = {"namespaces": False, "readable": ("/usr",)}
    name = "open /etc/passwd"
    assert attack(state, name, skip=("restrict_files",), **alone)[name].startswith("worked")
    assert attack(state, name, skip=(), **alone)[name] == "EACCES"


@pytest.mark.parametrize(
    "name", ["fork", "socket inet", "socketpair of datagrams", "symlink", "memfd_create", "inotify"]
)
def test_without_seccomp_the_kernel_is_open(name: str, state: Path) -> None:
    # In a root without /dev/null and the like there is little to execute, but still a kernel.
    skip = ("filter_system_calls", "restrict_files")
    assert attack(state, name, skip=skip)[name].startswith("worked")
    assert attack(state, name, skip=())[name] in ("EPERM", "ENOSYS")


def test_without_seccomp_the_kernel_says_so(state: Path) -> None:
    assert kernels_view(state, "filter_system_calls")["Seccomp"] == "0"


# --- die_with_supervisor: a supervisor that is killed


def start_family(state: Path, *skip: str) -> tuple[Any, dict[str, int], socket.socket]:
    """A supervisor of its own with a zygote and a worker whose standard error is ours."""
    ours, theirs = socket.socketpair()
    spec = msgspec.msgpack.encode(harness.worker_spec(state, "acme")).hex()
    options = json.dumps({"skip": skip})
    order = harness.order(state, "outlive").hex()
    with theirs:
        number = theirs.fileno()
        parent = harness.python(PARENT, options, spec, order, str(number), pass_fds=[number])
    ours.settimeout(harness.DEADLINE_SECONDS)
    assert parent.stdout is not None
    line = parent.stdout.readline()
    pids = {name: os.pidfd_open(pid) for name, pid in json.loads(line).items()}
    return parent, pids, ours


def has_ended(pidfd: int, seconds: float = harness.DEADLINE_SECONDS) -> bool:
    return bool(select.select([pidfd], [], [], seconds)[0])


def test_everything_dies_with_the_supervisor(state: Path) -> None:
    parent, pids, talk = start_family(state)
    with parent, talk:
        assert not has_ended(pids["worker"], 0)
        parent.kill()
        assert has_ended(pids["worker"])
        assert has_ended(pids["zygote"])
    for pidfd in pids.values():
        os.close(pidfd)


def test_without_die_with_supervisor_a_worker_stays(state: Path) -> None:
    parent, pids, talk = start_family(state, "die_with_supervisor")
    with parent, talk:
        parent.kill()
        assert has_ended(pids["zygote"])
        assert talk.recv(100) == b"hung up\n"
        talk.sendall(b"alive?\n")
        assert talk.recv(100) == b"alive\n"
        assert has_ended(pids["worker"])
    for pidfd in pids.values():
        os.close(pidfd)


def test_a_worker_born_after_its_supervisors_end_gives_up(state: Path) -> None:
    with harness.attackers() as zygote:
        # Its link has hung up before the jail is reached; the test itself stays its parent.
        worker = zygote.spawn(
            harness.worker_spec(state, "acme"),
            harness.order(state, "look_around"),
            hang_up=True,
        )
        assert worker.wait() == jail.EXIT_FAILED
        assert "jail: die_with_supervisor: [Errno 3] the supervisor is gone" in worker.errors()


def test_a_signal_from_the_supervisor_reaches_a_jailed_worker(state: Path) -> None:
    with harness.attackers() as zygote:
        worker = zygote.spawn(
            harness.worker_spec(state, "acme"), harness.order(state, "wait_to_be_told")
        )
        worker.wait_ready()
        os.kill(worker.pid, signal.SIGKILL)
        assert worker.wait() == -signal.SIGKILL
