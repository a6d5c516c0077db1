"""The system calls of sandboxes, as BPF decides and as a runtime must read Docker's profile."""

import errno
import json
import platform
from typing import Any

import pytest

from supervisor.launcher import policy
from tests.attack import calls, marking
from tests.bpf import ALLOW, ARM, ENOSYS, EPERM, I386, KILL, X32, number, run

NAMED = calls.SANDBOXES | calls.SANDBOXES_REFUSED | set(calls.SANDBOXES_DECIDE)
ANSWERS = {"SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_ERRNO": EPERM}
TRIES = [*calls.tries(marking.ARGUMENTS), *((name, ()) for name in sorted(NAMED))]


def wanted(call: str, arguments: tuple[int, ...]) -> int:
    if call in calls.SANDBOXES_DECIDE:
        return ALLOW if calls.SANDBOXES_DECIDE[call](arguments) else EPERM
    return ALLOW if call in calls.SANDBOXES else EPERM


def read_profile(call: str, arguments: tuple[int, ...]) -> int:
    """What the runtime's specification says of a call by its name: the entry that fits."""
    profile = json.loads(policy.docker_profile())
    padded = [argument % 2**64 for argument in (*arguments, 0, 0, 0, 0, 0, 0)]
    fitting = [
        each
        for each in profile["syscalls"]
        if call in each["names"] and all(holds(arg, padded) for arg in each.get("args", ()))
    ]
    actions = {(each["action"], each.get("errnoRet")) for each in fitting}
    assert len(actions) <= 1, call
    for action, error in actions:
        return ENOSYS if error == errno.ENOSYS else ANSWERS[action]
    return ANSWERS[profile["defaultAction"]]


def holds(condition: dict[str, Any], arguments: list[int]) -> bool:
    assert condition["op"] == "SCMP_CMP_MASKED_EQ"
    masked: int = arguments[condition["index"]] & condition["value"]
    return bool(masked == condition["valueTwo"])


def test_what_passes_is_what_is_written() -> None:
    program = policy.compiled()
    for call, arguments in TRIES:
        if number(call) >= 0:
            assert run(program, number(call), *arguments) == wanted(call, arguments), call


def test_dockers_profile_says_the_same() -> None:
    read: dict[tuple[str, tuple[int, ...]], int] = {}
    for call, arguments in TRIES[::7]:
        read[call, arguments] = read_profile(call, arguments)
    assert read == {each: wanted(*each) for each in read}


def test_every_other_number_is_none() -> None:
    numbers = {number(call) for call in NAMED}
    program = policy.compiled()
    answers = {n: run(program, n) for n in range(2048) if n not in numbers}
    assert set(answers.values()) <= {ENOSYS, EPERM}
    for call in ("clone3", "uselib", "pkey_alloc", "get_mempolicy"):
        assert answers[number(call)] == ENOSYS == read_profile(call, ()), call
    past = max(numbers) + 64
    assert {answer for n, answer in answers.items() if n > past} == {ENOSYS}


@pytest.mark.parametrize("n", [0, 1, 39, 59, 1000])
def test_other_abis_are_killed(n: int) -> None:
    program = policy.compiled()
    assert run(program, n, arch=I386) == KILL
    assert run(program, n, arch=ARM) == KILL
    if platform.machine() == "x86_64":
        assert run(program, X32 | n) == KILL


@pytest.mark.parametrize(
    "arguments",
    [(3, 0x5412), (3, 0x5412 | 1 << 32), (3, 0x5412 - 2**64 + 2**32), (3, 0x541C), (3, 0x5423)],
)
def test_no_words_are_put_into_a_terminal(arguments: tuple[int, int]) -> None:
    assert run(policy.compiled(), number("ioctl"), *arguments) == EPERM
    assert read_profile("ioctl", arguments) == EPERM
