"""A cgroup as the kernel keeps it: the same tests for version 1 and version 2."""

import errno
import subprocess
import time
from pathlib import Path

import pytest

from protocol.launching import Caps
from supervisor.caps import files, place
from supervisor.caps.v1 import Cgroup1
from supervisor.caps.v2 import Cgroup2
from tests.supervisor.caps.conftest import Run

pytestmark = pytest.mark.cgroups

MIB = 2**20
DEADLINE_SECONDS = 30


def said(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


def wait_until_empty(group: place.Cgroup) -> None:
    until = time.monotonic() + DEADLINE_SECONDS
    while files.processes(group.directories):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_wants_more_memory_is_ended_and_counted(group: place.Cgroup, run: Run) -> None:
    group.limit(Caps(memory_bytes=32 * MIB))
    program = run(group, "balloon", 256)
    assert said(program) == ""
    assert program.wait(DEADLINE_SECONDS) == -9
    used = group.usage()
    assert used.oom_kills == group.oom_kills() == 1
    assert used.memory_peak_bytes is None or used.memory_peak_bytes <= 32 * MIB


def test_an_end_for_want_of_memory_is_counted_above(group: place.Cgroup, run: Run) -> None:
    group.limit(Caps(memory_bytes=32 * MIB))
    worker, other = group.child("worker"), group.child("other")
    assert run(worker, "balloon", 256).wait(DEADLINE_SECONDS) == -9
    assert (group.oom_kills(), worker.oom_kills(), other.oom_kills()) == (1, 1, 0)


def test_what_forks_on_and_on_is_refused(group: place.Cgroup, run: Run) -> None:
    group.limit(Caps(pids=12))
    program = run(group, "bomb")
    assert said(program) == "forking"
    until = time.monotonic() + DEADLINE_SECONDS
    while group.usage().pids < 12:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert len(files.processes(group.directories)) <= 12
    group.kill()
    wait_until_empty(group)
    assert program.wait(DEADLINE_SECONDS) == -9
    while group.usage().pids:  # the dead count until somebody has waited for them
        assert time.monotonic() < until
        time.sleep(0.01)
    # It was a kill, and no cap: what comes next may fork again.
    assert said(run(group, "parent")).isdigit()


def test_what_uses_more_time_than_it_may_is_stopped_meanwhile(
    group: place.Cgroup, run: Run
) -> None:
    assert said(run(group, "spin")) == "spinning"
    group.limit(Caps(cpus=0.05))
    cpu = next(each for each in group.directories if (each / "cpu.stat").exists())
    until = time.monotonic() + DEADLINE_SECONDS
    while files.counts(cpu / "cpu.stat")["nr_throttled"] < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert group.usage().cpu_seconds > 0


def test_a_limit_holds_for_all_below_together(group: place.Cgroup, run: Run) -> None:
    group.limit(Caps(pids=3))
    first, second = group.child("first"), group.child("second")
    assert said(run(first, "parent")).isdigit()
    assert said(run(second, "parent")) == ""
    assert group.usage().pids <= 3


def test_children_are_born_where_their_parent_is(group: place.Cgroup, run: Run) -> None:
    program = run(group, "parent")
    child = int(said(program))
    for directory in group.directories:
        assert files.processes([directory]) == {program.pid, child}


def test_caps_are_raised_and_taken_away_live(group: place.Cgroup, run: Run) -> None:
    group.limit(Caps(memory_bytes=64 * MIB, cpus=0.5, pids=8))
    assert said(run(group, "balloon", 32)) == "32"
    group.limit(Caps(memory_bytes=128 * MIB, cpus=0.25, pids=9))
    group.limit(Caps(memory_bytes=80 * MIB, cpus=1.5, pids=7))
    assert said(run(group, "balloon", 16)) == "16"
    group.limit(Caps())
    assert said(run(group, "balloon", 96)) == "96"
    assert group.oom_kills() == 0


def test_a_cap_below_what_is_in_use(group: place.Cgroup, run: Run) -> None:
    """Version 2 ends what is over it, version 1 says that it cannot be had."""
    group.limit(Caps(memory_bytes=128 * MIB))
    program = run(group, "balloon", 64)
    assert said(program) == "64"
    if group.VERSION == 2:
        group.limit(Caps(memory_bytes=32 * MIB))
        assert program.wait(DEADLINE_SECONDS) == -9
        assert group.oom_kills() == 1
        return
    with pytest.raises(OSError, match="bytes are in use and cannot be had back") as raised:
        group.limit(Caps(memory_bytes=32 * MIB))
    assert raised.value.errno == errno.EBUSY
    assert program.poll() is None


def test_pages_that_can_be_had_back_do_not_hinder_a_lower_cap(
    group: place.Cgroup, run: Run, tmp_path: Path
) -> None:
    group.limit(Caps(memory_bytes=128 * MIB))
    assert run(group, "write", tmp_path / "file").wait(DEADLINE_SECONDS) == 0
    group.limit(Caps(memory_bytes=32 * MIB))
    assert group.usage().memory_bytes <= 32 * MIB


def test_all_of_one_end_together(group: place.Cgroup, run: Run) -> None:
    group.limit(Caps(memory_bytes=48 * MIB))
    group.unite()
    idle = run(group, "parent")
    said(idle)
    assert run(group, "balloon", 256).wait(DEADLINE_SECONDS) == -9
    if group.VERSION == 2:
        assert idle.wait(DEADLINE_SECONDS) == -9
        wait_until_empty(group)


def test_kill_reaches_what_is_below(group: place.Cgroup, run: Run) -> None:
    deep = group.child("sandbox-1").child("inner") if group.VERSION == 1 else group.child("one")
    program = run(deep, "parent")
    said(program)
    group.kill()
    assert program.wait(DEADLINE_SECONDS) == -9
    wait_until_empty(group)
    group.remove()
    group.remove()
    assert not any(directory.exists() for directory in group.directories)


def test_what_is_in_use_is_not_removed(group: place.Cgroup, run: Run) -> None:
    said(run(group, "parent"))
    with pytest.raises(OSError, match="busy"):
        group.remove(0.05)


def test_another_process_opens_it_by_its_path(group: place.Cgroup) -> None:
    there = place.reopen(group.path)
    assert there.path == group.path
    there.child("sandbox-1")
    assert [child.name for child in group.children()] == ["sandbox-1"]


def test_a_process_that_is_gone_is_not_adopted(group: place.Cgroup) -> None:
    with subprocess.Popen(["true"]) as program:
        program.wait()
    with pytest.raises(ProcessLookupError):
        group.adopt(program.pid)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", ".hidden", "a\0b"])
def test_a_name_stays_inside(group: place.Cgroup, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a cgroup"):
        group.child(name)


def test_weights_are_kept(group: place.Cgroup) -> None:
    group.weigh(500)
    found = {
        int(file.read_text())
        for each in group.directories
        for file in (each / "cpu.weight", each / "cpu.shares")
        if file.exists()
    }
    assert found <= {500, 5120}
    assert bool(found) is ("cpu" in group.controllers)


def test_a_child_may_be_given_more_time_than_its_parent(group: place.Cgroup) -> None:
    """Version 1 refuses that, and that a parent is lowered below its child."""
    group.limit(Caps(cpus=0.5))
    child = group.child("sandbox-1")
    child.limit(Caps(cpus=2.0))
    group.limit(Caps(cpus=0.25))
    group.limit(Caps(cpus=4.0))
    child.limit(Caps(cpus=2.0))
    group.limit(Caps())
    if isinstance(child, Cgroup1):
        cpu = next(each for each in child.directories if (each / "cpu.cfs_quota_us").exists())
        assert files.number(cpu / "cpu.cfs_quota_us") == 200_000


def test_where_there_is_no_swap_file_of_its_own_caps_hold_too(group: place.Cgroup) -> None:
    group.limit(Caps(memory_bytes=64 * MIB))
    if isinstance(group, Cgroup2):
        swap = group.directory / "memory.swap.max"
        assert not swap.exists() or files.read(swap) == "0"
