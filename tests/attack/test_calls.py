"""Every number of the system call table, in the real jail: what is not refused is what is written.

No call is made: see `marking`.
"""

import platform
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyseccomp
import pytest

from supervisor.zygote import seccomp
from tests.attack import calls, harness, marking

pytestmark = pytest.mark.usefixtures("both_ways_of_birth")


def number(call: str) -> int:
    found: int = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, call)
    return found


def walk(
    state: Path, arguments: Mapping[str, tuple[int, Any]], *, real: bool = True, **spec: Any
) -> Any:
    """What passes in a jail; `real` is under the zygote's filter too."""
    tried = [(call, number(call), argument) for call, (argument, _) in arguments.items()]
    harness.make_state(state, "acme")
    with harness.attackers(marked=True, filtered=real) as zygote:
        worker = zygote.spawn(
            harness.worker_spec(state, "acme", **spec),
            harness.order(state, "walk_system_calls", arguments=tried),
        )
        return worker.report()


def check(report: Any, names: frozenset[str], arguments: Mapping[str, tuple[int, Any]]) -> None:
    passing = {call for call, (_, values) in arguments.items() if 0 in values}
    assert set(report["calls"]) == {number(name) for name in names | passing} - {-1}
    for call, (_, values) in arguments.items():
        wanted = {report["pid"] if value is calls.SELF else value for value in values}
        assert set(report["arguments"][call]) == wanted, call


def test_a_workers_calls(state_dir: Path) -> None:
    report = walk(state_dir, calls.WORKERS_ARGUMENTS)
    check(report, calls.WORKERS, calls.WORKERS_ARGUMENTS)


def test_a_fronts_calls(state_dir: Path) -> None:
    # The front does not come from the zygote; its jail is the same.
    spec = {"profile": "front", "tenant": "", "policy": seccomp.compiled("front")}
    report = walk(state_dir, calls.FRONTS_ARGUMENTS, real=False, **spec)
    check(report, calls.FRONTS, calls.FRONTS_ARGUMENTS)


def test_without_seccomp_every_call_passes(state_dir: Path) -> None:
    harness.make_state(state_dir, "acme")
    with harness.attackers(marked=True, skip=["filter_system_calls"]) as zygote:
        worker = zygote.spawn(
            harness.worker_spec(state_dir, "acme"), harness.order(state_dir, "walk_system_calls")
        )
        assert worker.report()["calls"] == marking.CALLS


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the other ABIs of x86_64")
def test_every_x32_call_kills(state_dir: Path) -> None:
    harness.make_state(state_dir, "acme")
    with harness.attackers(skip=["filter_system_calls"]) as zygote:
        worker = zygote.spawn(
            harness.worker_spec(state_dir, "acme"), harness.order(state_dir, "walk_x32")
        )
        assert set(worker.report()["ends"]) == {-signal.SIGSYS}
