"""Where the gateway's cgroups are."""

import os
import subprocess
from pathlib import Path

import pytest

from supervisor.caps import files, place
from supervisor.caps.v1 import Cgroup1
from supervisor.caps.v2 import Cgroup2
from tests.cgroups import SETTING
from tests.supervisor.caps.conftest import Run
from tests.supervisor.caps.test_groups import DEADLINE_SECONDS, said

Program = subprocess.Popen[str]
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/mem\\040ory rw,relatime shared:9 - cgroup cgroup rw,memory
39 31 0:36 /docker/abc /sys/fs/cgroup/pids ro,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def test_mounts_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    mounts = place.read_mounts(HYBRID)
    assert [mount.kind for mount in mounts] == ["cgroup", "cgroup", "cgroup", "cgroup2"]
    at = place.directory_of
    assert at(mounts, "cgroup", "cpuacct", "/a") == Path("/sys/fs/cgroup/cpu,cpuacct/a")
    assert at(mounts, "cgroup", "memory", "/") == Path("/sys/fs/cgroup/mem ory")
    assert at(mounts, "cgroup", "pids", "/docker/abc/x") == Path("/sys/fs/cgroup/pids/x")
    assert at(mounts, "cgroup", "pids", "/docker/other") is None
    assert at(mounts, "cgroup", "io", "/") is None
    assert at(mounts, "cgroup2", "", "/a/b") == Path("/sys/fs/cgroup/unified/a/b")


def test_own_cgroups_are_read_as_the_kernel_writes_them() -> None:
    found = place.read_own("4:memory:/a:b\n2:cpu,cpuacct:/\n9:name=systemd:/s\n0::/u\n")
    assert found == {"memory": "/a:b", "cpu": "/", "cpuacct": "/", "name=systemd": "/s", "": "/u"}


def test_none_are_none() -> None:
    with pytest.raises(place.UnusableError, match=r"caps.cgroup is none"):
        place.find("none")


def test_a_directory_is_no_cgroup(tmp_path: Path) -> None:
    with pytest.raises(place.UnusableError, match="no cgroup of version 2"):
        place.find(str(tmp_path))


def test_a_state_root_has_one_name(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert place.name_of(link) == place.name_of(tmp_path) != place.name_of(tmp_path / "other")


def test_a_path_says_which_version_it_is() -> None:
    first = "pids=/p/a:memory=/m/a:cpu=/c/a:cpuacct=/c/a"
    assert isinstance(place.reopen(first), Cgroup1)
    assert place.reopen(first).path == first
    assert isinstance(place.reopen("/sys/fs/cgroup/a"), Cgroup2)


def start(area: place.Cgroup, run: Run, gateway: str, setting: str = "auto") -> Program:
    """Start a program that claims cgroups as a gateway does, in a cgroup of its own."""
    os.environ["GATEWAY"] = gateway
    return run(area.make(f"started-{gateway}"), "claim", setting)


@pytest.mark.cgroups
def test_the_gateway_goes_into_a_leaf_and_comes_back(area: place.Cgroup, run: Run) -> None:
    program = start(area, run, "one")
    tenant = place.reopen(said(program))
    while_claimed = said(program)
    assert "/openclaw-one/gateway" in while_claimed
    assert tenant.path.endswith("/openclaw-one/tenant-acme")
    left = run(tenant.child("worker"), "parent")
    said(left)
    assert program.stdin is not None
    program.stdin.write("leave\n")
    program.stdin.flush()
    assert "openclaw-one" not in said(program)
    assert program.wait(DEADLINE_SECONDS) == 0
    assert left.wait(DEADLINE_SECONDS) == -9
    with pytest.raises(FileNotFoundError):
        tenant.adopt(os.getpid())


@pytest.mark.cgroups
def test_what_a_gateway_left_is_ended_by_the_next(area: place.Cgroup, run: Run) -> None:
    dead = start(area, run, "two")
    tenant = place.reopen(said(dead))
    left = run(tenant.child("worker"), "parent")
    said(left)
    dead.kill()
    dead.wait()
    # By version 2 its own cgroup takes no processes any more, before that is swept.
    setting = str(area.at("started-two").directories[0]) if area.VERSION == 2 else "auto"
    home = area.at("started-two") if area.VERSION == 1 else area.make("elsewhere")
    again = run(home, "claim", setting)
    said(again)
    assert left.wait(DEADLINE_SECONDS) == -9


@pytest.mark.cgroups
def test_two_gateways_do_not_meet(area: place.Cgroup, run: Run) -> None:
    first, second = start(area, run, "three"), start(area, run, "four")
    paths = {said(first), said(second)}
    assert len(paths) == 2
    for program in (first, second):
        said(program)
        program.communicate("leave\n", timeout=DEADLINE_SECONDS)
        assert program.returncode == 0
    found = {child.name for child in area.children()}
    assert {"started-three", "started-four"} <= found
    for name in ("three", "four"):
        assert not files.processes(area.make(f"started-{name}").directories)


@pytest.mark.cgroups
def test_tests_have_a_place(area: place.Cgroup) -> None:
    assert place.find(SETTING).group.VERSION == area.VERSION
