"""Removal of a directory that somebody hostile has filled.

It may be nested deeper than any path or stack is long, closed to its own owner, and full of links
that lead elsewhere. So: every entry is handled by name relative to an open descriptor, links are
never followed, the mode of nothing but directories is changed, and what is nested is moved to the
top before it is emptied, so that two descriptors and no recursion are enough for any depth.
"""

import os
import secrets
import stat
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

_BATCH: Final = 1024
_DIRECTORY: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class WipeStoppedError(Exception):
    """It was told to stop, and can be called again."""


def wipe(directory: Path, stopped: threading.Event | None = None) -> None:
    """Remove `directory` and all below it; nothing happens when it is not there.

    Nobody else may write below it meanwhile.

    Args:
        directory: What is removed.
        stopped: When it is set, the removal ends soon, unfinished.

    Raises:
        WipeStoppedError: `stopped` was set.
        OSError: something cannot be removed, or `directory` is a link or no directory. It can be
            tried again.
    """
    try:
        top = _open_directory(str(directory), None)
    except FileNotFoundError:
        return
    try:
        for name in _names(top, stopped):
            _empty(name, top, stopped)
    finally:
        os.close(top)
    directory.rmdir()


def _empty(name: str, top: int, stopped: threading.Event | None) -> None:
    """Remove the entry `name` of `top`; directories in it become entries of `top`."""
    if not _is_directory(name, top):
        os.unlink(name, dir_fd=top)
        return
    nested = _open_directory(name, top)
    try:
        for child in _names(nested, stopped):
            if _is_directory(child, nested):
                # A directory that is closed to its owner cannot be moved by him either.
                os.close(_open_directory(child, nested))
                moved = secrets.token_hex(16)
                os.rename(child, moved, src_dir_fd=nested, dst_dir_fd=top)
            else:
                os.unlink(child, dir_fd=nested)
    finally:
        os.close(nested)
    os.rmdir(name, dir_fd=top)


def _is_directory(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _names(directory: int, stopped: threading.Event | None) -> Iterator[str]:
    """Give names until the directory is empty; each must be gone before the next is asked for."""
    while True:
        with os.scandir(directory) as entries:
            batch = [entry.name for entry in islice(entries, _BATCH)]
        if not batch:
            return
        if stopped is not None and stopped.is_set():
            raise WipeStoppedError
        yield from batch


def _open_directory(name: str, parent: int | None) -> int:
    """Open a directory for listing, with all rights for its owner; a link is refused."""
    handle = os.open(name, _DIRECTORY | os.O_PATH, dir_fd=parent)
    try:
        # By the descriptor that is open already: chmod by name would follow a link.
        path = f"/proc/self/fd/{handle}"
        if os.fstat(handle).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(path, stat.S_IRWXU)  # noqa: PTH101 - a descriptor
        return os.open(".", _DIRECTORY | os.O_RDONLY, dir_fd=handle)
    finally:
        os.close(handle)
