import os
import socket
import threading
from pathlib import Path

import pytest

from supervisor.wipe import WipeStoppedError, wipe
from tests.supervisor.scripts import line_of, running

WIPE_DEEP = """
import os, resource, sys
from pathlib import Path
from supervisor.wipe import WipeStoppedError, wipe
top = Path(sys.argv[1])
top.mkdir()
here = os.open(top, os.O_RDONLY)
for depth in range(1100):
    os.mkdir("d" * 200, dir_fd=here)
    os.close(os.open("file", os.O_CREAT, dir_fd=here))
    below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
    os.close(here)
    here = below
os.close(here)
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
wipe(top)
print(top.exists(), flush=True)
"""


@pytest.fixture
def outside(state_dir: Path) -> Path:
    path = state_dir / "outside"
    path.mkdir()
    (path / "precious").write_text("kept")
    (path / "precious").chmod(0o400)
    (path / "closed").mkdir(0o000)
    return path


@pytest.fixture
def directory(state_dir: Path) -> Path:
    path = state_dir / "tenant"
    path.mkdir(0o700)
    return path


def look(outside: Path) -> list[tuple[str, int, int]]:
    paths = [outside, *sorted(outside.iterdir())]
    return [(path.name, path.lstat().st_mode, path.lstat().st_mtime_ns) for path in paths]


def test_what_is_not_there_is_wiped_already(directory: Path) -> None:
    wipe(directory)
    wipe(directory)
    assert not directory.exists()


def test_links_are_removed_and_never_followed(directory: Path, outside: Path) -> None:
    before = look(outside)
    nested = directory / "a" / "b"
    nested.mkdir(parents=True)
    for number, folder in enumerate((directory, directory / "a", nested)):
        (folder / "to-directory").symlink_to(outside)
        (folder / "to-file").symlink_to(outside / "precious")
        (folder / "to-closed").symlink_to(outside / "closed")
        (folder / "to-nothing").symlink_to("/nowhere")
        (folder / "to-itself").symlink_to("to-itself")
        (folder / "upwards").symlink_to("../../outside")
        (folder / f"hard-{number}").hardlink_to(outside / "precious")
    wipe(directory)
    assert not directory.exists()
    assert look(outside) == before
    assert (outside / "precious").stat().st_nlink == 1
    assert (outside / "precious").read_text() == "kept"


def test_every_kind_of_file_is_removed(directory: Path) -> None:
    os.mkfifo(directory / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "socket"))
    (directory / "large").write_bytes(b"")
    os.truncate(directory / "large", 1 << 40)
    for name in (b"\xff\xfe", b"\n", b" ", b"-rf", b"x" * 255, b".new", b"\x1b[2J", "ä🦀".encode()):
        (directory / os.fsdecode(name)).write_text("x")
        (directory / os.fsdecode(b"d" + name[:254])).mkdir()
    wipe(directory)
    assert not directory.exists()


def test_directories_closed_to_their_owner_are_removed(directory: Path) -> None:
    for mode in (0o000, 0o100, 0o200, 0o400, 0o500, 0o7000):
        outer = directory / f"{mode:o}"
        inner = outer / "inner"
        inner.mkdir(parents=True)
        (inner / "file").write_text("x")
        (outer / "file").write_text("x")
        inner.chmod(mode)
        outer.chmod(mode)
    directory.chmod(0o000)
    wipe(directory)
    assert not directory.exists()


def test_more_entries_than_a_batch_are_removed(directory: Path) -> None:
    for number in range(1100):
        (directory / f"link{number}").symlink_to("x")
    for number in range(30):
        (directory / f"folder{number}" / "inner").mkdir(parents=True)
    wipe(directory)
    assert not directory.exists()


def test_any_depth_is_removed_with_few_descriptors(state_dir: Path) -> None:
    with running(WIPE_DEEP, state_dir / "deep") as process:
        assert line_of(process) == "False"


def test_a_link_in_place_of_the_directory_is_refused(
    directory: Path, outside: Path, state_dir: Path
) -> None:
    before = look(outside)
    directory.rmdir()
    directory.symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        wipe(directory)
    assert directory.is_symlink()
    assert look(outside) == before
    (state_dir / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        wipe(state_dir / "file")


def test_it_stops_when_it_is_told_to_and_can_go_on(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "c").touch()
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(WipeStoppedError):
        wipe(top, stopped)
    assert (top / "a" / "b" / "c").exists()
    wipe(top, threading.Event())
    assert not top.exists()
