"""What lies in a sandbox's directory, which whatever runs in it may change at any time.

Every name is opened relative to a descriptor that is open already, and no link is followed
(`worker.store.files.open_beneath`). What was opened is what is read, whatever its name is by then.
Files made inside are the tenant's own, but their modes may close them to it. Blocks: for a thread.

Every function raises `UnsafePathError` for a path over a link, and `OSError` for what the system
refuses.
"""

import ctypes
import errno
import heapq
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final, NamedTuple

from protocol import limits
from worker.store.files import NotAFileError, open_beneath

_LISTING: Final = os.O_RDONLY | os.O_DIRECTORY
# Non-blocking: neither a pipe without another end nor a lease holds up who opens it.
_FILE: Final = os.O_NONBLOCK | os.O_NOCTTY
_RENAME_NOREPLACE: Final = 1  # linux/fs.h
_BATCH: Final = 1024
_renameat2: Final = ctypes.CDLL(None, use_errno=True).renameat2

Parts = tuple[bytes, ...]
"""A path below the sandbox's directory; empty is the directory itself."""


class Found(NamedTuple):
    """One entry of a directory; `target` is what a link says."""

    name: bytes
    status: os.stat_result
    target: bytes | None


class Piece(NamedTuple):
    """A range of a file, and the status of the whole."""

    data: bytes
    status: os.stat_result


def entries(root: int, path: Parts, after: bytes, limit: int) -> tuple[list[Found], bool]:
    """Give the first entries whose names are greater than `after`, and whether there are more.

    Raises:
        OSError: E2BIG: the directory has more than `SANDBOX_FILES_LISTED_MAX` entries.
    """
    folder = _open(root, path, _LISTING)
    try:
        names = (name for name in _names(folder) if name > after)
        first = heapq.nsmallest(limit + 1, names)
        found = [entry for name in first[:limit] if (entry := _found(folder, name)) is not None]
        return found, len(first) > limit
    finally:
        os.close(folder)


def read(root: int, path: Parts, offset: int, length: int) -> Piece:
    """Read a range of a regular file; less than `length` only where it ends.

    Raises:
        NotAFileError: it is a directory, a pipe or another thing that is no file.
    """
    file = _open_file(root, path, os.O_RDONLY)
    try:
        data = bytearray()
        while len(data) < length:
            more = os.pread(file, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return Piece(bytes(data), os.fstat(file))
    finally:
        os.close(file)


def write(
    root: int, path: Parts, data: bytes, *, overwrite: bool, executable: bool
) -> os.stat_result:
    """Write a file as a whole: on disk under its name when this returns, or nothing has changed.

    Directories above it are made. What the name held is replaced, even if it was a link.

    Raises:
        FileExistsError: the name is taken, and it is not to `overwrite`.
    """
    *above, name = path
    with _folder(root, tuple(above)) as folder:
        temporary = f".{secrets.token_hex(16)}.tmp".encode()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        file = open_beneath(folder, temporary, flags, 0o700 if executable else 0o600)
        try:
            try:
                _write_all(file, data)
                os.fsync(file)
                status = os.fstat(file)
            finally:
                os.close(file)
            _move(folder, temporary, name, 0 if overwrite else _RENAME_NOREPLACE)
        except BaseException:
            os.unlink(temporary, dir_fd=folder)
            raise
        os.fsync(folder)
    return status


def write_range(root: int, path: Parts, data: bytes, offset: int) -> os.stat_result:
    """Write a range of a regular file, at most from its end on; on disk when this returns.

    Raises:
        NotAFileError: it is a directory, a pipe or another thing that is no file.
        OSError: ESPIPE: the file ends before the range begins.
    """
    file = _open_file(root, path, os.O_WRONLY)
    try:
        if offset > os.fstat(file).st_size:
            raise OSError(errno.ESPIPE, "beyond the end")
        os.lseek(file, offset, os.SEEK_SET)
        _write_all(file, data)
        os.fsync(file)
        return os.fstat(file)
    finally:
        os.close(file)


def remove(root: int, path: Parts, *, recursive: bool) -> tuple[int, bool]:
    """Remove an entry, or all that is in the sandbox's directory if the path is empty.

    Gives how many entries are gone, and whether that is all: not more than
    `SANDBOX_FILES_DELETED_MAX` are removed at once. A link is removed itself.

    Raises:
        OSError: ENOTEMPTY: it is not empty, and it is not to be `recursive`. E2BIG: what is in it
            is nested more than `SANDBOX_FILES_DEPTH_MAX` deep.
    """
    removal = _Removal(recursive=recursive)
    if not path:
        done = removal.empty(root, 0)
    else:
        folder = _open(root, path[:-1], _LISTING)
        try:
            done = removal.remove(folder, path[-1], 0)
        finally:
            os.close(folder)
    return removal.count, done


class _Removal:
    """The way through what is removed. `count` is of entries that are gone."""

    def __init__(self, *, recursive: bool) -> None:
        self._recursive: Final = recursive
        self.count = 0

    def remove(self, folder: int, name: bytes, depth: int) -> bool:
        if self.count >= limits.SANDBOX_FILES_DELETED_MAX:
            return False
        if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=folder)
        else:
            if self._recursive and not self._empty_named(folder, name, depth):
                return False
            os.rmdir(name, dir_fd=folder)
        self.count += 1
        return True

    def _empty_named(self, folder: int, name: bytes, depth: int) -> bool:
        if depth >= limits.SANDBOX_FILES_DEPTH_MAX:
            raise OSError(errno.E2BIG, "nested too deeply")
        nested = open_beneath(folder, name, _LISTING)
        try:
            return self.empty(nested, depth + 1)
        finally:
            os.close(nested)

    def empty(self, folder: int, depth: int) -> bool:
        while True:
            with os.scandir(folder) as found:
                names = [os.fsencode(entry.name) for entry in islice(found, _BATCH)]
            if not names:
                return True
            if not self._recursive:
                raise OSError(errno.ENOTEMPTY, "not empty")
            for name in names:
                try:
                    if not self.remove(folder, name, depth):
                        return False
                except FileNotFoundError:
                    continue  # somebody inside was faster


def _open(root: int, path: Parts, flags: int) -> int:
    return open_beneath(root, b"/".join(path) or b".", flags)


def _open_file(root: int, path: Parts, access: int) -> int:
    try:
        file = _open(root, path, access | _FILE)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EISDIR):  # a socket, or a pipe without a reader
            raise NotAFileError(errno.EINVAL, "not a regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise NotAFileError(errno.EINVAL, "not a regular file")
    return file


@contextmanager
def _folder(root: int, path: Parts) -> Iterator[int]:
    """Open a directory that is made, with those above it, as far as it is not there."""
    folder = _open(root, (), _LISTING)
    try:
        for name in path:
            try:
                os.mkdir(name, 0o700, dir_fd=folder)
                os.fsync(folder)
            except FileExistsError:
                pass
            inner = open_beneath(folder, name, _LISTING)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)


def _names(folder: int) -> Iterator[bytes]:
    with os.scandir(folder) as found:
        for count, entry in enumerate(found):
            if count >= limits.SANDBOX_FILES_LISTED_MAX:
                raise OSError(errno.E2BIG, "too many entries")
            yield os.fsencode(entry.name)


def _found(folder: int, name: bytes) -> Found | None:
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        is_link = stat.S_ISLNK(status.st_mode)
        return Found(name, status, os.readlink(name, dir_fd=folder) if is_link else None)
    except (FileNotFoundError, OSError) as error:
        # It was removed, or is another thing, since its name was read.
        if error.errno in (errno.ENOENT, errno.EINVAL):
            return None
        raise


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _move(folder: int, name: bytes, to: bytes, flags: int) -> None:
    if _renameat2(folder, name, folder, to, flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
