import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.harness import names
from worker.store import files
from worker.store.files import Directory, NotAFileError, UnsafePathError


@pytest.fixture
def directory(tenant_dir: Path) -> Iterator[Directory]:
    opened = Directory()
    yield opened
    opened.close()


@pytest.fixture
def outside(tenant_dir: Path) -> Path:
    folder = tenant_dir.parent / "outside"
    folder.mkdir()
    (folder / "secret").write_text("theirs")
    return folder


def open_descriptors() -> int:
    return len(names(Path("/proc/self/fd")))


def write(directory: Directory, path: str, data: bytes) -> None:
    with directory.open_write(path) as file:
        file.write(data)


def read(directory: Directory, path: str) -> bytes:
    with directory.open_read(path) as file:
        return file.read()


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../outside/secret",
        "a/../../outside/secret",
        ".",
        "a//b",
        "a/",
        "a\0b",
        "\ud800",
        "x" * 201,
        "/".join("x" * 17),
    ],
)
def test_paths_that_are_not_plain(directory: Directory, outside: Path, path: str) -> None:
    with pytest.raises(UnsafePathError):
        directory.open_read(path)
    with pytest.raises(UnsafePathError), directory.open_write(path):
        pass
    with pytest.raises(UnsafePathError):
        directory.make_directory(path)
    with pytest.raises(UnsafePathError):
        directory.remove(path)
    with pytest.raises(UnsafePathError):
        directory.holds(path)


def test_written_file_is_read(directory: Directory, tenant_dir: Path) -> None:
    directory.make_directory("a")
    directory.make_directory("a/b")
    write(directory, "a/b/file", b"one")
    write(directory, "a/b/file", b"two")
    assert read(directory, "a/b/file") == b"two"
    assert directory.list("a/b") == ["file"]
    assert directory.list() == ["a"]
    assert (tenant_dir / "a/b/file").stat().st_mode & 0o077 == 0
    directory.remove("a/b/file")
    assert directory.list("a/b") == []
    assert not directory.holds("a/b/file")


def test_failed_write_leaves_what_was_there(directory: Directory) -> None:
    write(directory, "file", b"old")

    def fail() -> None:
        with directory.open_write("file") as file:
            file.write(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read(directory, "file") == b"old"
    assert directory.list() == ["file"]


def test_links_are_never_followed(directory: Directory, tenant_dir: Path, outside: Path) -> None:
    (tenant_dir / "link").symlink_to(outside / "secret")
    (tenant_dir / "folder").symlink_to(outside)
    (tenant_dir / "mine").write_text("x")
    (tenant_dir / "inner").symlink_to("mine")
    for path in ("link", "folder/secret", "inner"):
        with pytest.raises(UnsafePathError):
            directory.open_read(path)
    for path in ("folder/new", "folder/secret"):
        with pytest.raises(UnsafePathError):
            write(directory, path, b"mine now")
        with pytest.raises(UnsafePathError):
            directory.remove(path)
        with pytest.raises(UnsafePathError):
            directory.make_directory(path)
    with pytest.raises(UnsafePathError):
        directory.make_directory("folder")
    with pytest.raises(UnsafePathError):
        directory.list("folder")
    assert (outside / "secret").read_text() == "theirs"
    assert names(outside) == ["secret"]


def test_writing_replaces_a_link_itself(
    directory: Directory, tenant_dir: Path, outside: Path
) -> None:
    (tenant_dir / "link").symlink_to(outside / "secret")
    write(directory, "link", b"mine")
    assert (outside / "secret").read_text() == "theirs"
    assert read(directory, "link") == b"mine"


def test_magic_links_are_refused(directory: Directory) -> None:
    with Path("/dev/null").open("rb") as null:
        proc = Directory("/proc/self/fd")
        with pytest.raises(UnsafePathError):
            proc.open_read(str(null.fileno()))
        proc.close()


def test_only_regular_files_are_opened(directory: Directory, tenant_dir: Path) -> None:
    directory.make_directory("folder")
    os.mkfifo(tenant_dir / "pipe")
    for path in ("folder", "pipe"):
        with pytest.raises(NotAFileError):
            directory.open_read(path)


def test_directory_is_opened_once(directory: Directory, tenant_dir: Path, outside: Path) -> None:
    tenant_dir.rename(tenant_dir.with_name("moved"))
    tenant_dir.symlink_to(outside)
    write(directory, "file", b"x")
    assert names(outside) == ["secret"]
    assert (tenant_dir.with_name("moved") / "file").exists()


def test_make_directory_takes_one_that_is_there_and_no_file(
    directory: Directory, tenant_dir: Path
) -> None:
    directory.make_directory("folder")
    directory.make_directory("folder")
    (tenant_dir / "file").touch()
    with pytest.raises(NotADirectoryError):
        directory.make_directory("file")
    with pytest.raises(FileNotFoundError):
        directory.make_directory("absent/folder")


def test_listing_is_bounded(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ENTRIES_MAX", 2)
    for name in ("a", "b"):
        write(directory, name, b"")
    assert directory.list() == ["a", "b"]
    write(directory, "c", b"")
    with pytest.raises(OSError, match="too many") as raised:
        directory.list()
    assert raised.value.errno == errno.E2BIG


def test_no_descriptor_is_left_open(directory: Directory, outside: Path, tenant_dir: Path) -> None:
    (tenant_dir / "folder").symlink_to(outside)
    before = open_descriptors()
    test_paths = ("folder/x", "absent/x", "../x")
    for path in test_paths:
        with pytest.raises((UnsafePathError, FileNotFoundError)):
            write(directory, path, b"")
        with pytest.raises((UnsafePathError, FileNotFoundError)):
            directory.open_read(path)
    os.mkfifo(tenant_dir / "pipe")
    with pytest.raises(NotAFileError):
        directory.open_read("pipe")
    directory.list()
    directory.holds("pipe")
    assert open_descriptors() == before
