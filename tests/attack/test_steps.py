"""Each step of the jail does something: without it an attack works, or the kernel says so.

Every step has a test for root and one for an ordinary user, see `proves`. What the steps stop
together is in `test_matrix.py`.

The steps are left out in the attacker's own zygote only; the product has no way to do that.
"""

import json
import os
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from supervisor.zygote import jail, linux
from supervisor.zygote.spec import SpawnFailed
from tests.attack import harness

pytestmark = pytest.mark.usefixtures("both_ways_of_birth")

PARENT = Path(__file__).with_name("parent.py")
as_root = pytest.mark.root
as_user = pytest.mark.user  # root's tenants are kept apart by their uids

Test = TypeVar("Test", bound=Callable[..., None])
proofs: dict[str, list[Callable[..., None]]] = {}


STEPS = [
    f"{half}.{step.__name__}"
    for half, steps in (("AHEAD", jail.AHEAD), ("OWN", jail.OWN))
    for step in steps
]


def proves(step: jail.Step, half: str = "") -> Callable[[Test], Test]:
    """Note that a test fails unless this step is what it is about.

    Args:
        step: The step.
        half: `AHEAD` or `OWN`, of a step that is taken in both.
    """
    (name,) = [
        name for name in STEPS if name.endswith(f".{step.__name__}") and name.startswith(half)
    ]

    def note(test: Test) -> Test:
        proofs.setdefault(name, []).append(test)
        return test

    return note


def test_every_step_has_its_proof_for_whoever_runs_this() -> None:
    other = "user" if harness.ROOT else "root"
    for name in STEPS:
        tests = proofs.get(name, [])
        marks = [{mark.name for mark in getattr(test, "pytestmark", [])} for test in tests]
        assert any(other not in names for names in marks), name


def attack(state: Path, *names: str, skip: tuple[str, ...], **changes: Any) -> dict[str, str]:
    """What became of some attacks in a jail without some steps."""
    assert set(skip) <= {step.__name__ for step in jail.AHEAD + jail.OWN}
    with harness.attackers(skip=skip) as zygote:
        spec = harness.worker_spec(state, "acme", **changes)
        worker = zygote.spawn(spec, harness.order(state, names=names))
        report: dict[str, str] = worker.report()
        return report


def kernels_view(state: Path, *skip: str, **options: Any) -> dict[str, str]:
    """/proc/<pid>/status, and some more, of a worker in a jail without some steps."""
    with harness.attackers(skip=skip, **options) as zygote:
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


@proves(jail.validate)
def test_without_validate_no_directory_is_found(state: Path) -> None:
    # What it refuses is in test_refusals.py.
    code, errors = end_without(state, "validate")
    assert code == jail.EXIT_CONFIGURATION
    assert "jail: open_directory: [Errno 2] the tenants' directories" in errors


@proves(jail.open_directory)
def test_without_open_directory_there_is_none_to_enter(state: Path) -> None:
    code, errors = end_without(state, "open_directory")
    assert code == jail.EXIT_CONFIGURATION
    assert "jail: enter_directory" in errors


@proves(jail.close_descriptors)
def test_without_close_descriptors_more_is_inherited(state: Path) -> None:
    with harness.attackers(skip=["close_descriptors"]) as zygote:
        worker = zygote.spawn(
            harness.worker_spec(state, "acme"), harness.order(state, "look_around")
        )
        assert len(worker.report()["descriptors"]) > 6


@proves(jail.new_session)
def test_without_new_session_the_terminal_is_shared(state: Path) -> None:
    seen = kernels_view(state, "new_session")
    assert seen["session"] != seen["pid"]
    seen = kernels_view(state)
    assert seen["session"] == seen["pid"]


@proves(jail.limit_resources)
def test_without_limit_resources_limits_are_the_gateways(state: Path) -> None:
    before = os.umask(0o027)
    try:
        assert kernels_view(state, "limit_resources")["Umask"] == "0027"
        assert kernels_view(state)["Umask"] == "0077"
    finally:
        os.umask(before)


@proves(jail.enter_namespaces)
@as_user
def test_without_enter_namespaces_nothing_can_be_mounted(state: Path) -> None:
    code, errors = end_without(state, "enter_namespaces")
    assert code == jail.EXIT_CONFIGURATION
    assert "jail: build_root" in errors


@proves(jail.build_root)
def test_without_build_root_there_is_none_to_change_to(state: Path) -> None:
    code, errors = end_without(state, "build_root")
    assert code == jail.EXIT_CONFIGURATION
    assert "jail: change_root" in errors


NAMESPACES = {
    "pid": linux.CLONE_NEWPID,
    "net": linux.CLONE_NEWNET,
    "ipc": linux.CLONE_NEWIPC,
    "uts": linux.CLONE_NEWUTS,
    "mnt": linux.CLONE_NEWNS,
}


def namespace_of(pid: int, name: str) -> int:
    return Path(f"/proc/{pid}/ns/{name}").stat().st_ino


def namespaces_of_two(state: Path, name: str, shared: int) -> tuple[int, int]:
    """A namespace of each of two workers; dumpable, as their own user may not look otherwise."""
    # In the mount namespace of others they mount nothing.
    of_mounts = ("build_root", "change_root", "enter_directory")
    mounts = of_mounts if shared == linux.CLONE_NEWNS else ()
    skip = ("forbid_dumps", *mounts)
    with harness.attackers(skip=skip, dumpable=True, shared=shared) as zygote:
        workers = [
            zygote.spawn(
                harness.worker_spec(state, tenant), harness.order(state, "wait_to_be_told")
            )
            for tenant in ("acme", "globex")
        ]
        for worker in workers:
            worker.wait_ready()
        one, other = (namespace_of(worker.pid, name) for worker in workers)
        return one, other


@proves(jail.enter_namespaces)
@pytest.mark.parametrize("name", NAMESPACES)
def test_each_namespace_is_its_own(name: str, state: Path) -> None:
    one, other = namespaces_of_two(state, name, 0)
    assert len({one, other, namespace_of(os.getpid(), name)}) == 3
    one, other = namespaces_of_two(state, name, NAMESPACES[name])
    assert one == other


@pytest.mark.parametrize("name", ["net", "ipc", "uts"])
def test_what_a_worker_would_share_is_the_zygotes_and_not_the_callers(
    name: str, state: Path
) -> None:
    one, _ = namespaces_of_two(state, name, NAMESPACES[name])
    assert one != namespace_of(os.getpid(), name)


@as_user
def test_without_a_user_namespace_there_is_no_worker(state: Path) -> None:
    with harness.attackers(shared=linux.CLONE_NEWUSER) as zygote:
        reply = zygote.ask(harness.worker_spec(state, "acme"), b"")
        assert isinstance(reply, SpawnFailed)
        assert reply.reason.startswith("[Errno 1] clone")


@proves(jail.change_root)
def test_without_change_root_neighbours_are_seen(state: Path) -> None:
    # As an ordinary user this is the only wall against stat; as root permissions hide the file.
    name = f"stat the neighbour's {'directory' if harness.ROOT else 'file'}"
    skip = ("build_root", "change_root", "enter_directory")
    outcome = attack(state, name, skip=skip, readable=("/usr",))[name]
    assert outcome.startswith("worked")
    assert attack(state, name, skip=())[name] == "ENOENT"


@proves(jail.limit_resources)
@pytest.mark.parametrize("name", ["swallow memory", "swallow shared memory"])
def test_without_limit_resources_it_has_the_machines_memory(name: str, state: Path) -> None:
    assert attack(state, name, skip=("limit_resources",))[name].startswith("worked")
    assert attack(state, name, skip=())[name] == "ENOMEM"


@proves(jail.drop_identity)
@as_user
def test_without_drop_identity_capabilities_could_come_back(state: Path) -> None:
    assert int(kernels_view(state, "drop_identity")["CapBnd"], 16) != 0
    assert int(kernels_view(state)["CapBnd"], 16) == 0


@proves(jail.drop_identity)
@as_root
def test_without_drop_identity_it_is_root(state: Path) -> None:
    skip = ("drop_identity", "drop_capabilities", "enter_directory")
    assert kernels_view(state, *skip)["Uid"].split()[0] == "0"
    code, errors = end_without(state, "drop_identity")
    # Without capabilities even root cannot enter what is the tenant's alone.
    assert code == jail.EXIT_CONFIGURATION
    assert "jail: enter_directory" in errors


@proves(jail.drop_capabilities)
@as_root
def test_without_drop_capabilities_root_would_have_the_zygotes(state: Path) -> None:
    # With a uid of its own the kernel has taken them already.
    as_root = ("drop_identity", "enter_directory")
    assert int(kernels_view(state, *as_root, "drop_capabilities")["CapEff"], 16) != 0
    assert int(kernels_view(state, *as_root)["CapEff"], 16) == 0


@proves(jail.drop_capabilities)
@as_user
def test_without_drop_capabilities_they_are_kept_in_the_user_namespace(state: Path) -> None:
    assert int(kernels_view(state, "drop_capabilities")["CapEff"], 16) != 0
    assert int(kernels_view(state)["CapEff"], 16) == 0


@proves(jail.enter_directory)
def test_without_enter_directory_the_directory_stays_open(state: Path) -> None:
    with harness.attackers(skip=["enter_directory", "restrict_files"]) as zygote:
        worker = zygote.spawn(
            harness.worker_spec(state, "acme"), harness.order(state, "look_around")
        )
        report = worker.report()
    assert report["cwd"] == "/"
    assert len(report["descriptors"]) == 7


@proves(jail.forbid_dumps, "OWN")
def test_without_forbid_dumps_proc_is_open_to_the_same_uid(state: Path) -> None:
    # Dumpable before it: else the zygote and the change of uid have seen to it already.
    uid, _ = harness.ids("acme")
    assert kernels_view(state, "OWN.forbid_dumps", dumpable=True)["owner"] == str(uid)
    assert kernels_view(state, "AHEAD.forbid_dumps", dumpable=True)["owner"] == "0"


@proves(jail.forbid_dumps, "AHEAD")
def test_without_forbid_dumps_what_waits_is_open_to_the_same_uid(state: Path) -> None:
    for skip, dumpable in (([], 0), (["OWN.forbid_dumps"], 0), (["AHEAD.forbid_dumps"], 1)):
        with harness.attackers(skip=skip, dumpable=True, rehearsal=True) as zygote:
            spare = zygote.spare(harness.worker_spec(state, "acme"))
            spare.wait_until_it_waits()
            spare.channel.close()  # nobody needs it
            assert spare.errors() == f"dumpable: {dumpable}\n"
            assert spare.wait() == 0


@proves(jail.forbid_new_privileges)
def test_without_no_new_privileges_nothing_more_can_be_forbidden(state: Path) -> None:
    # The zygote has them forbidden already, unless it is told not to shed what it has.
    code, errors = end_without(state, "forbid_new_privileges", shed=False)
    assert code == jail.EXIT_CONFIGURATION
    assert "jail: restrict_files: [Errno 1]" in errors


@proves(jail.restrict_files)
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


@proves(jail.filter_system_calls)
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


@proves(jail.die_with_supervisor, "AHEAD")
def test_without_die_with_supervisor_a_newborn_waits_for_nobody(state: Path) -> None:
    for skip, ends in ((["OWN.die_with_supervisor"], True), (["AHEAD.die_with_supervisor"], False)):
        with harness.attackers(skip=skip) as zygote:
            # Its link has hung up; its channel, which would end it too, has not.
            spare = zygote.spare(harness.worker_spec(state, "acme"), hang_up=True)
            spare.wait_until_it_waits()
            spare.channel.close()
            assert spare.wait() == (jail.EXIT_FAILED if ends else 0)
            assert ("the supervisor is gone" in spare.errors()) == ends


@proves(jail.die_with_supervisor, "OWN")
def test_without_die_with_supervisor_an_order_of_one_that_is_gone_is_followed(state: Path) -> None:
    order = harness.order(state, "wait_to_be_told")
    for skip, ends in ((["AHEAD.die_with_supervisor"], True), (["OWN.die_with_supervisor"], False)):
        with harness.attackers(skip=skip) as zygote:
            spec = harness.worker_spec(state, "acme")
            worker = zygote.spare(spec)
            worker.wait_until_it_waits()
            worker.link.close()
            worker.tell(harness.told(spec, order))
            if ends:
                assert worker.wait() == jail.EXIT_FAILED
                assert "jail: die_with_supervisor" in worker.errors()
            else:
                worker.wait_ready()


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
