"""A root file system for a guest, made of this host's own files: Python, .venv and the checkout.

Nothing is downloaded. `mke2fs -d` writes the image, so no mount and no root is needed.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PYTHON: Final = Path(sys.prefix) / "bin/python"
# Tools of ours that no program in a guest needs, and what the standard library can do without.
LEFT_OUT: Final = frozenset(
    (
        *("mypy", "mypyc", "ruff", "pip", "setuptools", "numpy", "numpy.libs", "hypothesis"),
        *("schemathesis", "jsonschema_rs", "graphql", "librt", "ast_serialize", "werkzeug"),
        *("test", "idlelib", "lib2to3", "tkinter", "ensurepip", "pydoc_data"),
        *(".git", ".fuzz", ".machine"),
        *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"),
    )
)
_LINKS: Final = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
_FOLDERS: Final = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var/lib", "usr/sbin")
_LDCONFIG: Final = "/usr/sbin/ldconfig"  # ctypes asks it where a library is


def build(
    image: Path,
    busybox: Path,
    left_out: AbstractSet[str] = LEFT_OUT,
    programs: Sequence[str] = (),
    room_mib: int = 32,
) -> None:
    """Write a root file system to `image`.

    Args:
        image: A file that is not there yet.
        busybox: A static busybox, for the guest's shell.
        left_out: Names of files and folders that the guest does without.
        programs: Others of this host that it needs, by their paths.
        room_mib: How much can be written to it at least.

    Raises:
        OSError, subprocess.CalledProcessError: it cannot be made; what failed has said why.
    """
    tree = image.with_suffix(".tree")
    try:
        _fill(tree, busybox, left_out, programs)
        megabytes = sum(p.lstat().st_size for p in tree.rglob("*")) // 2**20
        image.touch()
        options = ("-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0")
        size = f"{megabytes * 5 // 4 + room_mib}M"
        subprocess.run(
            ["/usr/sbin/mke2fs", *options, "-d", str(tree), str(image), size],
            check=True,
        )
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _fill(tree: Path, busybox: Path, left_out: AbstractSet[str], programs: Sequence[str]) -> None:
    for folder in _FOLDERS:
        (tree / folder).mkdir(parents=True)
    for name, target in _LINKS.items():
        (tree / target).mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(target)
    _copy_file(busybox, tree / "usr/bin/busybox")
    for command in ("sh", "mount", "mkdir", "ip", "poweroff", "cat", "ls", "true"):
        (tree / "usr/bin" / command).symlink_to("busybox")
    interpreter = Path(sys.executable).resolve()
    library = Path(os.__file__).parent
    site = Path(next(path for path in sys.path if path.endswith("site-packages")))
    _copy(interpreter, tree)
    named = (Path(sys.prefix) / "bin/python3").readlink()  # by .venv
    if named != interpreter:
        (tree / named.relative_to("/")).symlink_to(interpreter)
    _copy_tree(library, tree, left_out)
    _copy_tree(ROOT, tree, left_out)  # .venv is in it
    for program in programs:
        _copy(Path(program), tree)
    for name in filter(os.path.exists, (_LDCONFIG, "/etc/ld.so.cache", "/etc/passwd")):
        _copy(Path(name), tree)
    objects = [p for folder in (library, site) for p in folder.rglob("*.so*") if _is_in(p, tree)]
    seccomp = sorted(Path("/usr/lib").glob("*/libseccomp.so.2"))
    for path in _libraries([interpreter, *map(Path, programs), *objects, *seccomp]) | set(seccomp):
        _copy(path, tree)


def _is_in(path: Path, tree: Path) -> bool:
    return (tree / path.relative_to("/")).exists()


def _copy(path: Path, tree: Path) -> None:
    _copy_file(path, tree / path.relative_to("/"))


def _copy_file(path: Path, target: Path) -> None:
    # Through the links of _LINKS, which a guest has as well.
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(path, target)


def _copy_tree(folder: Path, tree: Path, left_out: AbstractSet[str]) -> None:
    def ignored(_folder: str, names: list[str]) -> set[str]:
        return {name for name in names if name in left_out or name.endswith(".a")}

    target = tree / folder.relative_to("/")
    shutil.copytree(folder, target, symlinks=True, ignore=ignored, dirs_exist_ok=True)


def _libraries(objects: Iterable[Path]) -> set[Path]:
    """Give the shared libraries that these files need (ldd), by the paths they are looked up by."""
    found: set[Path] = set()
    for path in objects:
        listed = subprocess.run(
            ["ldd", str(path)], capture_output=True, text=True, check=False
        ).stdout
        found |= {Path(name) for name in re.findall(r"(/\S+)(?= \(0x)", listed)}
    return found
