"""What a directory takes, counted while somebody hostile fills it."""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.caps import disk_walk
from supervisor.caps.disk_walk import Use, Walk
from tests.conftest import remove_tree

PRIVILEGED = os.geteuid() == 0


@pytest.fixture
def tree(state_dir: Path) -> Path:
    path = state_dir / "tenant"
    path.mkdir()
    return path


def count(directory: Path, inodes_max: int | None = None, *, privileged: bool = PRIVILEGED) -> Use:
    walk = Walk(str(directory), inodes_max, privileged=privileged)
    for _ in walk.steps():
        pass
    return walk.use


def kibibytes(directory: Path) -> int:
    """What du(1) says."""
    done = subprocess.run(["du", "-sk", directory], capture_output=True, check=True)
    return int(done.stdout.split()[0])


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_it_counts_as_du_does(tree: Path) -> None:
    for number in range(3):
        folder = tree / f"folder{number}" / "below"
        folder.mkdir(parents=True)
        for size in (0, 1, 5000, 200_000):
            (folder / str(size)).write_bytes(os.urandom(size))
        (folder / "link").symlink_to("/")
        os.mkfifo(folder / "pipe")
    before = open_descriptors()
    use = count(tree)
    assert use == Use(kibibytes(tree) * 1024, 1 + 3 * 8)
    assert open_descriptors() == before


def test_a_sparse_file_costs_what_it_holds_and_a_reserved_one_what_it_reserves(tree: Path) -> None:
    with (tree / "sparse").open("wb") as file:
        file.truncate(2**40)
    assert count(tree).bytes < 2**20
    with (tree / "reserved").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2**21)
    assert 2**21 <= count(tree).bytes < 2**22


def test_a_file_of_many_names_counts_once(tree: Path) -> None:
    (tree / "file").write_bytes(os.urandom(2**20))
    alone = count(tree)
    (tree / "folder").mkdir()
    for number in range(50):
        (tree / "folder" / str(number)).hardlink_to(tree / "file")
    linked = count(tree)
    assert linked.inodes == alone.inodes + 1
    assert linked.bytes - alone.bytes < 2**16


def test_it_ends_when_there_are_too_many(tree: Path) -> None:
    for number in range(3000):
        (tree / str(number)).touch()
    assert count(tree).inodes == 3001
    assert 1000 < count(tree, 1000).inodes < 1000 + 2 * disk_walk.ENTRIES_PER_STEP
    walk = Walk(str(tree), None, privileged=PRIVILEGED)
    assert sum(1 for _ in walk.steps()) >= 3000 // disk_walk.ENTRIES_PER_STEP


def test_nothing_outside_is_counted(tree: Path, state_dir: Path) -> None:
    outside = state_dir / "outside"
    outside.mkdir()
    (outside / "big").write_bytes(os.urandom(2**20))
    before = count(tree)
    (tree / "link").symlink_to(outside)
    (tree / "up").symlink_to("..")
    use = count(tree)
    assert use.inodes == before.inodes + 2
    assert use.bytes < 2**20
    assert count(tree / "link") == Use()
    assert count(tree / "absent") == Use()
    assert count(outside / "big") == Use()


@pytest.fixture
def deep(tree: Path) -> Iterator[Path]:
    """Deeper than any path is long; made from the inside."""
    before = os.open(".", os.O_PATH)
    os.chdir(tree)
    for _ in range(3000):
        os.mkdir("d")  # noqa: PTH102 - relative to the working directory
        os.chdir("d")
    Path("file").write_bytes(os.urandom(100_000))
    os.chdir(before)
    os.close(before)
    yield tree
    subprocess.run(["rm", "-rf", tree / "d"], check=True)


def test_a_tree_deeper_than_any_path(deep: Path) -> None:
    before = open_descriptors()
    use = count(deep)
    assert (use.inodes, use.fault) == (3002, None)
    assert use.bytes > 100_000
    assert open_descriptors() == before


def test_what_is_nested_beyond_measure_is_not_let_off(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_walk, "LEVELS_MAX", 2)
    monkeypatch.setattr(disk_walk, "WAITING_MAX", 4)
    folder = tree / "a" / "b" / "c"
    folder.mkdir(parents=True)
    assert count(tree).fault is None
    for number in range(6):
        (tree / "a" / str(number)).mkdir()
    before = open_descriptors()
    assert count(tree).fault == disk_walk.NESTED
    assert open_descriptors() == before


def test_one_that_is_given_up_leaves_nothing_open(tree: Path) -> None:
    (tree / "a" / "b").mkdir(parents=True)
    before = open_descriptors()
    steps = Walk(str(tree), None, privileged=PRIVILEGED).steps()
    next(steps)
    next(steps)
    assert open_descriptors() != before
    steps.close()
    assert open_descriptors() == before


@pytest.mark.parametrize("mode", [0o000, 0o300, 0o400, 0o200])
def test_what_is_closed_to_its_owner_is_counted_all_the_same(tree: Path, mode: int) -> None:
    hidden = tree / "folder" / "hidden"
    hidden.mkdir(parents=True)
    (hidden / "file").write_bytes(os.urandom(2**20))
    hidden.chmod(mode)
    hidden.parent.chmod(mode)
    use = count(tree)
    assert (use.inodes, use.fault) == (4, None)
    assert use.bytes > 2**20


@pytest.mark.user
def test_what_cannot_be_opened_to_its_owner_is_a_fault(tree: Path) -> None:
    (tree / "folder").mkdir()
    (tree / "folder").chmod(0)
    assert count(tree, privileged=True).fault == disk_walk.CLOSED


@pytest.mark.root
def test_another_disk_that_is_mounted_below_is_not_counted(tree: Path) -> None:
    other = tree / "other"
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", other], check=True)
    try:
        (other / "file").write_bytes(os.urandom(2**20))
        use = count(tree)
    finally:
        subprocess.run(["umount", "--lazy", other], check=True)
    assert use.inodes == 1
    assert use.bytes < 2**20


def test_a_tree_that_changes_all_the_time_is_counted_to_the_end(tree: Path) -> None:
    """Names come and go, are swapped for links and moved, for as long as it takes."""
    outside = tree.parent / "outside"
    outside.mkdir()
    for number in range(200):
        (outside / str(number)).touch()
    folders = [tree / str(number) for number in range(20)]
    for folder in folders:
        folder.mkdir()
        for number in range(50):
            (folder / str(number)).touch()
    over = threading.Event()

    def act() -> None:
        while not over.is_set():
            for folder in folders:
                moved = folder.with_name(f"{folder.name}-moved")
                folder.rename(moved)
                folder.symlink_to(outside)
                (moved / "0").unlink()
                (moved / "0").touch()
                folder.unlink()
                moved.rename(folder)

    before = open_descriptors()
    thread = threading.Thread(target=act)
    thread.start()
    try:
        found = [count(tree) for _ in range(50)]
    finally:
        over.set()
        thread.join()
    assert open_descriptors() == before
    assert all(use.fault is None and use.inodes <= 1 + 20 * 52 for use in found)
    assert count(tree).inodes == 1 + 20 * 51
    remove_tree(outside)
