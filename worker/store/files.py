"""Files below one directory that no name leads out of, opened once and used by descriptor.

A path is resolved by the kernel in one call, `openat2` with `RESOLVE_BENEATH`,
`RESOLVE_NO_SYMLINKS` and `RESOLVE_NO_MAGICLINKS` (man openat2), relative to the descriptor of the
directory. Nothing is looked at first and opened afterwards, so nothing can be swapped in between.
"""

import ctypes
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

PATH_BYTES_MAX: Final = 1024
PATH_PARTS_MAX: Final = 16
NAME_BYTES_MAX: Final = 200
ENTRIES_MAX: Final = 10_000

_OPENAT2: Final = 437  # the same number on every architecture
_RESOLVE: Final = 0x02 | 0x04 | 0x08  # NO_MAGICLINKS, NO_SYMLINKS, BENEATH
_ATTEMPTS: Final = 16
_ESCAPES: Final = frozenset((errno.ELOOP, errno.EXDEV))


class UnsafePathError(ValueError):
    """A path that is not of plain names, leads out of its directory, or over a link."""


class NotAFileError(OSError):
    """What the path names is no regular file."""


class _How(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_syscall: Final = ctypes.CDLL(None, use_errno=True).syscall


def open_beneath(directory: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open what a path below an open directory names; gives a descriptor.

    Raises:
        UnsafePathError: the path leads out, or over a link.
        OSError: what the system refuses.
    """
    how = _How(flags | os.O_CLOEXEC, mode, _RESOLVE)
    name = os.fsencode(path)
    for _ in range(_ATTEMPTS):
        descriptor = int(_syscall(_OPENAT2, directory, name, ctypes.byref(how), ctypes.sizeof(how)))
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        # The kernel says EAGAIN when something was renamed while it walked.
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    if number in _ESCAPES:
        raise UnsafePathError(f"the path leads out of its directory, or over a link: {path!r}")
    raise OSError(number, os.strerror(number), os.fsdecode(path))


def check_path(path: str) -> tuple[str, str]:
    """Give the folder (`.` for none) and the last name of a relative path of plain names.

    Raises:
        UnsafePathError: an empty or absolute path, an empty, `.` or `..` part, a NUL, or too long.
    """
    parts = path.split("/")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError as error:
        raise UnsafePathError("the path is not valid Unicode") from error
    plain = all(part not in ("", ".", "..") and "\0" not in part for part in parts)
    bounded = len(parts) <= PATH_PARTS_MAX and sum(sizes) + len(parts) <= PATH_BYTES_MAX
    if not plain or not bounded or max(sizes) > NAME_BYTES_MAX:
        raise UnsafePathError(f"not a plain relative path: {path[:PATH_BYTES_MAX]!r}")
    return "/".join(parts[:-1]) or ".", parts[-1]


class Directory:
    """An open directory.

    Every method raises `UnsafePathError` for a path that is none or leads out, and `OSError` for
    what the system refuses.
    """

    def __init__(self, path: str = ".") -> None:
        self._descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the descriptor; files opened through it stay open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def open_read(self, path: str) -> BinaryIO:
        """Open a regular file.

        Raises:
            NotAFileError: it is a directory, a pipe or another thing that is no file.
        """
        check_path(path)
        # Non-blocking, so that a pipe without a writer does not hold up the process.
        descriptor = open_beneath(self._descriptor, path, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise NotAFileError(errno.EINVAL, "not a regular file", path)
        return os.fdopen(descriptor, "rb")

    @contextmanager
    def open_write(self, path: str) -> Iterator[BinaryIO]:
        """Write a file as a whole: on leaving, it is on disk under its name, or as it was before.

        What the name held is replaced, even if it was a link: never what the link leads to.
        """
        folder, name = check_path(path)
        parent = self.open_folder(folder)
        temporary = f".{secrets.token_hex(16)}.tmp"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            descriptor = open_beneath(parent, temporary, flags, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                os.unlink(temporary, dir_fd=parent)
                raise
            os.fsync(parent)
        finally:
            os.close(parent)

    @contextmanager
    def lock(self, path: str) -> Iterator[None]:
        """Hold a lock that other generations of the worker respect; the file is made as needed.

        Blocks: for a thread other than the event loop's.
        """
        check_path(path)
        descriptor = open_beneath(self._descriptor, path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def make_directory(self, path: str) -> None:
        """Make a directory, on disk when this returns; one that is there is left as it is.

        Raises:
            UnsafePathError: the name is a link.
            NotADirectoryError: the name is a file.
        """
        folder, name = check_path(path)
        parent = self.open_folder(folder)
        try:
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                os.close(open_beneath(parent, name, os.O_PATH | os.O_DIRECTORY))
                return
            os.fsync(parent)
        finally:
            os.close(parent)

    def list(self, path: str = ".") -> list[str]:
        """Give the names in a directory, sorted.

        Raises:
            OSError: E2BIG when there are more than `ENTRIES_MAX`.
        """
        if path != ".":
            check_path(path)
        descriptor = self.open_folder(path)
        names: list[str] = []
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    if len(names) == ENTRIES_MAX:
                        raise OSError(errno.E2BIG, "too many entries", path)
                    names.append(entry.name)
        finally:
            os.close(descriptor)
        return sorted(names)

    def remove(self, path: str) -> None:
        """Remove a file, or a link itself; the name is gone from disk when this returns."""
        folder, name = check_path(path)
        parent = self.open_folder(folder)
        try:
            os.unlink(name, dir_fd=parent)
            os.fsync(parent)
        finally:
            os.close(parent)

    def holds(self, path: str) -> bool:
        """Say whether a path names a regular file now; whoever opens it later may find another."""
        check_path(path)
        try:
            descriptor = open_beneath(self._descriptor, path, os.O_PATH)
        except FileNotFoundError:
            return False
        try:
            return stat.S_ISREG(os.fstat(descriptor).st_mode)
        finally:
            os.close(descriptor)

    def open_folder(self, path: str) -> int:
        """Open a directory for reading; gives a descriptor. The path is not checked to be plain."""
        return open_beneath(self._descriptor, path, os.O_RDONLY | os.O_DIRECTORY)
