"""Landlock in child processes, at every ABI that this kernel speaks."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.zygote import landlock, linux

ABI = landlock.abi()
every_abi = pytest.mark.parametrize("version", range(1, ABI + 1))
pytestmark = pytest.mark.skipif(ABI == 0, reason="this kernel has no Landlock")


def outcome(attempt: Callable[[], object]) -> str:
    """Run in a child, under no_new_privs: `done` or the name of the error."""
    reader, writer = os.pipe()
    pid = linux.fork()
    if pid == 0:
        answer = "died"
        try:
            linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
            attempt()
            answer = "done"
        except OSError as error:
            answer = type(error).__name__ if error.errno == 13 else str(error)
        finally:
            os.write(writer, answer.encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as file:
        return file.read()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("mine", "readable", "others"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("text")
    return tmp_path


@every_abi
@pytest.mark.parametrize(
    ("attempt", "result"),
    [
        (lambda tree: (tree / "mine/file").write_text("more"), "done"),
        (lambda tree: (tree / "mine/file").rename(tree / "mine/new"), "done"),
        (lambda tree: (tree / "mine/deeper").mkdir(), "done"),
        (lambda tree: (tree / "readable/file").read_text(), "done"),
        (lambda tree: list((tree / "readable").iterdir()), "done"),
        (lambda tree: (tree / "readable/file").open("r+b").close(), "PermissionError"),
        (lambda tree: (tree / "readable/new").touch(), "PermissionError"),
        (lambda tree: (tree / "readable/file").unlink(), "PermissionError"),
        (lambda tree: (tree / "others/file").read_text(), "PermissionError"),
        (lambda tree: list((tree / "others").iterdir()), "PermissionError"),
        (lambda tree: (tree / "mine/link").symlink_to("file"), "PermissionError"),
        (lambda tree: os.mkfifo(tree / "mine/fifo"), "PermissionError"),
        (lambda _: os.execv("/usr/bin/true", ["true"]), "PermissionError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rights(version: int, attempt: Callable[[Path], object], result: str, tree: Path) -> None:
    def confined() -> None:
        landlock.restrict(version, ("/usr", f"{tree}/readable"), (f"{tree}/mine",))
        attempt(tree)

    assert outcome(confined) == result


@every_abi
def test_files_may_move_between_directories_from_abi_2(version: int, tree: Path) -> None:
    (tree / "mine/sub").mkdir()

    def confined() -> None:
        landlock.restrict(version, (), (f"{tree}/mine",))
        (tree / "mine/file").rename(tree / "mine/sub/file")

    result = outcome(confined)
    assert result == "done" if version >= 2 else "Invalid cross-device link" in result


def test_truncation_is_refused_from_abi_3(tree: Path) -> None:
    def confined() -> None:
        landlock.restrict(ABI, (f"{tree}/readable",), ())
        os.truncate(tree / "readable/file", 0)

    assert outcome(confined) == ("PermissionError" if ABI >= 3 else "done")


def test_a_plain_file_and_a_device_can_be_readable(tree: Path) -> None:
    def confined() -> None:
        landlock.restrict(ABI, (f"{tree}/readable/file", "/dev/urandom"), ())
        (tree / "readable/file").read_text()
        with Path("/dev/urandom").open("rb", buffering=0) as device:
            device.read(16)

    assert outcome(confined) == "done"


def test_what_is_missing_is_named(tree: Path) -> None:
    result = outcome(lambda: landlock.restrict(ABI, (f"{tree}/nowhere",), ()))
    assert f"{tree}/nowhere" in result
