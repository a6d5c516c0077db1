"""Markers of who may run a test, a state directory all uids can reach, a patient hypothesis."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import cgroups
from tests import dockerd as daemon

# pytest-timeout bounds a test; a deadline per example only fails on a busy machine.
settings.register_profile("patient", deadline=None)
# Found examples are kept in the checkout, which may belong to somebody else.
settings.register_profile("patient and forgetful", settings.get_profile("patient"), database=None)
writable = os.access(Path(__file__).parents[1], os.W_OK)
settings.load_profile("patient" if writable else "patient and forgetful")

deselected = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    others = ["user" if os.geteuid() == 0 else "root"]
    if not daemon.can_be_had():
        others.append("docker")
    if cgroups.refusal() is not None:
        others.append("cgroups")
    not_ours = [item for item in items if any(map(item.get_closest_marker, others))]
    config.stash[deselected] = len(not_ours)
    config.hook.pytest_deselected(items=not_ours)
    items[:] = [item for item in items if item not in set(not_ours)]


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    count = config.stash.get(deselected, 0)
    caller = "root" if os.geteuid() == 0 else "an ordinary user"
    if not daemon.can_be_had():
        caller += " without a Docker daemon"
    if cgroups.refusal() is not None:
        caller += f" without cgroups ({cgroups.refusal()})"
    return [f"run by {caller}: {count} tests for others are deselected"] if count else []


def remove_tree(path: Path) -> None:
    """Remove `path` with directories in it that their own owner may not enter."""
    path.chmod(0o700)
    for folder, names, _ in os.walk(path):
        for name in names:
            child = Path(folder, name)
            if not child.is_symlink():
                child.chmod(0o700)
    shutil.rmtree(path)


def make_state_dir() -> Path:
    """Make a directory that every uid can reach, unlike those below pytest's tmp_path (0700)."""
    path = Path(tempfile.mkdtemp(prefix="openclaw-test-", dir="/tmp"))
    path.chmod(0o755)
    return path


@pytest.fixture
def state_dir() -> Iterator[Path]:
    path = make_state_dir()
    yield path
    remove_tree(path)


@pytest.fixture(scope="session")
def dockerd(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a real Docker daemon; whoever asks for it is marked `docker`."""
    with daemon.available() as host:
        yield host
        if request.session.testsfailed:
            daemon.print_errors(host)


@pytest.fixture(scope="session")
def docker_image(dockerd: str) -> str:
    """The id of the base image, which the daemon holds."""
    return daemon.load_image(dockerd)


@pytest.fixture(params=[False, True], ids=["at-once", "spare"])
def both_ways_of_birth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers told what they are at once, and when they have waited for it as spares."""
    from tests.attack import harness

    monkeypatch.setattr(harness, "TELL_SPARES", request.param)
