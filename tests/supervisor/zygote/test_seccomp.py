"""The policy, by running its compiled program over every number."""

import platform

import pytest

from supervisor.zygote import seccomp
from supervisor.zygote.seccomp import Policy, Profile
from tests.bpf import ALLOW, ARM, ENOSYS, EPERM, I386, KILL, X32, number, run

PROFILES: tuple[Profile, ...] = ("worker", "front")
PID = 4242


POLICIES: tuple[Policy, ...] = (*PROFILES, "zygote")


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> Policy:
    chosen: Policy = request.param
    return chosen


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> Profile:
    chosen: Profile = request.param
    return chosen


@pytest.fixture
def program(profile: Profile) -> bytes:
    return seccomp.for_process(seccomp.compiled(profile), PID)


def test_only_what_is_listed_passes(policy: Policy) -> None:
    program = seccomp.for_process(seccomp.compiled(policy), PID)
    always = {number(r.call) for r in seccomp.allowed(policy) if not r.conditions}
    never = {number(r.call) for r in seccomp.refused(policy) if not r.conditions}
    partly = {number(r.call) for r in seccomp.allowed(policy) if r.conditions}
    assert not always & never
    assert not partly & (always | never)
    for n in range(2048):
        action = run(program, n)
        if n in always:
            assert action == ALLOW, n
        elif n in never:
            assert action == EPERM, n
        elif n not in partly:
            assert action == ENOSYS, n


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of other machines are skipped")
def test_every_name_is_a_system_call(profile: Profile) -> None:
    for rule in (*seccomp.allowed(profile), *seccomp.refused(profile)):
        assert number(rule.call) >= 0, rule.call


@pytest.mark.parametrize("n", [0, 1, 39, 59, 1000])
def test_other_abis_are_killed(n: int, program: bytes) -> None:
    assert run(program, n, arch=I386) == KILL
    assert run(program, n, arch=ARM) == KILL
    if platform.machine() == "x86_64":
        assert run(program, X32 | n) == KILL


@pytest.mark.parametrize(
    ("call", "arguments", "passes"),
    [
        ("clone", (0x3D0F00,), True),  # glibc's threads
        ("clone", (17,), False),
        ("clone", (0x10000 | 0x10000000,), False),
        ("clone", (0x10000 | 0x20000,), False),
        ("clone", (0x10000 | 0x2000,), False),
        ("kill", (PID, 15), True),
        ("kill", (1, 15), False),
        ("kill", (0, 15), False),
        ("kill", (-1, 15), False),
        ("kill", (-PID, 15), False),
        ("kill", (PID | 1 << 32, 15), False),
        ("kill", (seccomp.SELF, 15), False),
        ("tgkill", (PID, PID + 1, 6), True),
        ("tgkill", (PID + 1, PID + 1, 6), False),
        ("prlimit64", (0, 7, 0, 1), True),
        ("prlimit64", (0, 7, 1, 0), False),
        ("prlimit64", (PID + 1, 7, 0, 1), False),
        ("sched_getaffinity", (0,), True),
        ("sched_getaffinity", (PID + 1,), False),
        ("prctl", (15,), True),
        ("prctl", (4, 1), False),
        ("prctl", (1, 0), False),
        ("ioctl", (3, 0x5401), True),
        ("ioctl", (3, 0x5412), False),
        ("ioctl", (3, 0x541C), False),
        ("ioctl", (3, 0x5412 | 1 << 32), False),
        ("socketpair", (1, 1), True),
        ("socketpair", (1, 5 | 0o2004000), True),
        ("socketpair", (1, 2), False),
        ("socketpair", (1, 2 | 0o2004000), False),
        ("socketpair", (2, 1), False),
        ("setsockopt", (3, 1, 7), True),
        ("setsockopt", (3, 1, 26), False),  # SO_ATTACH_FILTER
        ("setsockopt", (3, 0, 7), False),
        ("getsockopt", (3, 1, 3), True),
        ("getsockopt", (3, 1, 77), False),  # SO_PEERPIDFD
        ("getsockopt", (3, 1, 17), False),  # SO_PEERCRED
        ("fcntl", (3, 4), True),
        ("fcntl", (3, 8), False),  # F_SETOWN
        ("fcntl", (3, 1024), False),  # F_SETLEASE
    ],
)
def test_arguments_decide(
    call: str, arguments: tuple[int, ...], passes: bool, program: bytes
) -> None:
    action = run(program, number(call), *arguments)
    assert (action == ALLOW) is passes
    if not passes:
        assert action in (EPERM, ENOSYS)


@pytest.mark.parametrize(
    ("call", "worker", "front"),
    [
        ("ftruncate", True, False),
        ("rename", True, False),
        ("unlink", True, False),
        ("mkdir", True, False),
        ("pwrite64", True, False),
        ("fsync", True, False),
        ("accept4", False, True),
        ("listen", False, True),
        ("sendfile", False, True),
        ("socket", False, False),
        ("connect", False, False),
        ("bind", False, False),
        ("execve", False, False),
    ],
)
def test_profiles_differ(call: str, worker: bool, front: bool) -> None:
    for profile, wanted in (("worker", worker), ("front", front)):
        program = seccomp.compiled(profile)
        assert (run(program, number(call)) == ALLOW) is wanted, profile


ZYGOTE_NEEDS_NONE_OF = """
    socket connect bind listen accept execve execveat ptrace process_vm_readv bpf io_uring_setup
    perf_event_open userfaultfd keyctl setns chroot fsopen init_module kexec_load reboot swapon
    open_by_handle_at memfd_create chmod chown link mknod setxattr syslog
"""


def test_the_zygote_may_do_little() -> None:
    for call in ZYGOTE_NEEDS_NONE_OF.split():
        assert run(seccomp.compiled("zygote"), number(call)) in (EPERM, ENOSYS), call


def test_the_zygote_hands_on_all_that_a_worker_may() -> None:
    zygote = seccomp.compiled("zygote")
    for rule in seccomp.allowed("worker"):
        arguments = [0] * 6
        for condition in rule.conditions:
            arguments[condition.argument] = condition.value
        assert run(zygote, number(rule.call), *arguments) == ALLOW, rule


def test_renaming_leaves_no_device_behind() -> None:
    for flags, passes in ((0, True), (1, True), (2, True), (4, False), (5, False)):
        action = run(seccomp.compiled("worker"), number("renameat2"), -100, 1, -100, 1, flags)
        assert (action == ALLOW) is passes


def test_only_a_worker_locks_files() -> None:
    assert run(seccomp.compiled("worker"), number("fcntl"), 3, 6) == ALLOW
    assert run(seccomp.compiled("front"), number("fcntl"), 3, 6) != ALLOW
    assert run(seccomp.compiled("front"), number("setsockopt"), 3, 6, 1) == ALLOW
    assert run(seccomp.compiled("worker"), number("setsockopt"), 3, 6, 1) != ALLOW


@pytest.mark.parametrize("torn", [b"", b"1234567", bytes(12)])
def test_a_torn_program_is_refused(torn: bytes) -> None:
    with pytest.raises(OSError, match="torn"):
        seccomp.for_process(torn, 1)
