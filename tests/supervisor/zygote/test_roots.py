"""What goes into a confined process's root, worked out before any mount."""

import sys
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.zygote import linux, roots

names = st.sampled_from(["a", "b", "a-b", "ab"])
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(paths, max_size=8))
def test_outermost_covers_everything_once(given_paths: list[str]) -> None:
    kept = roots.outermost(given_paths)
    assert len(set(kept)) == len(kept)
    assert set(kept) <= set(given_paths)
    for path in given_paths:
        covering = [above for above in kept if Path(path).is_relative_to(above)]
        assert len(covering) == 1


def test_readable_paths_hold_python_and_ours() -> None:
    found = [Path(path) for path in roots.readable_paths()]
    wanted = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "/usr", roots.__file__]
    for path in map(Path, wanted):
        assert any(path.is_relative_to(above) for above in found), path
        assert any(path.resolve().is_relative_to(above) for above in found), path
    checkout = Path(roots.__file__).parents[2]
    assert checkout not in found
    assert Path(sys.prefix) not in found
    assert not any((checkout / "tests").is_relative_to(path) for path in found)


def test_a_plan_makes_every_directory_before_what_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "one/two").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    plan = roots.plan((f"{tmp_path}/one/two", f"{tmp_path}/file", "/dev/urandom"))
    made: set[str] = {"."}
    for directory in plan.directories:
        assert str(Path(directory).parent) in made
        made.add(directory)
    assert f"{tmp_path}/one/two"[1:] in made
    assert f"{tmp_path}/file"[1:] in plan.files
    assert plan.devices == ("dev/urandom",)
    assert set(plan.files) == {f"{tmp_path}/file"[1:], "dev/urandom"}
    assert set(plan.mount_points) == {f"{tmp_path}/one/two"[1:], f"{tmp_path}/file"[1:]}
    assert "tenant" in made


def test_a_plan_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        roots.plan((f"{tmp_path}/nothing-here",))


@pytest.mark.parametrize("root", [True, False])
def test_namespaces(root: bool) -> None:
    worker = roots.namespace_flags("worker", root=root)
    front = roots.namespace_flags("front", root=root)
    assert worker == front | linux.CLONE_NEWPID
    assert bool(front & linux.CLONE_NEWUSER) is not root
    for flag in (linux.CLONE_NEWNS, linux.CLONE_NEWNET, linux.CLONE_NEWIPC, linux.CLONE_NEWUTS):
        assert front & flag
