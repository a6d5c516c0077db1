"""How much of the disk a directory takes, counted while somebody hostile may be filling it.

Every entry is looked at by name relative to an open descriptor and no link is followed, so nothing
outside is ever counted. Sizes are blocks that are allocated (`st_blocks`, 512 bytes each: stat(2)),
so a sparse file costs what it holds; a file of several names counts once. What is moved while it is
being counted can be missed this time.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Generator
from typing import Final, NamedTuple

ENTRIES_PER_STEP: Final = 512
LEVELS_MAX: Final = 64
"""Nested deeper than this, a directory waits, open, until what is above it has been counted."""
WAITING_MAX: Final = 256
TRIES_MAX: Final = 3
BLOCK_BYTES: Final = 512
CLOSED: Final = "a directory of its cannot be read"
NESTED: Final = "its directories are nested too deep to be counted"
_DIRECTORY: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READABLE: Final = stat.S_IRUSR | stat.S_IXUSR


class Use(NamedTuple):
    """What has been counted. `fault` is why it is not all; then it may be any amount more."""

    bytes: int = 0
    inodes: int = 0
    fault: str | None = None


class _Level(NamedTuple):
    """A directory whose entries have been counted, and which of them are directories."""

    descriptor: int
    folders: list[str]


class Walk:
    """One count of a directory, in steps: iterate over `steps`, then read `use`.

    Args:
        directory: Its path; what leads to it is trusted, it itself is not.
        inodes_max: It ends when more than so many have been found; None counts them all.
        privileged: Whether the caller may read what its owner may not. Otherwise a directory that
            is closed to its own owner, which is the caller's uid then, is opened to him.
    """

    def __init__(self, directory: str, inodes_max: int | None, *, privileged: bool) -> None:
        self._directory: Final = directory
        self._inodes_max: Final = inodes_max
        self._privileged: Final = privileged
        self._device = -1
        self._bytes = 0
        self._inodes = 0
        self._fault: str | None = None
        # Of several names, and directories: what is moved meanwhile can be listed twice.
        self._met: Final[set[int]] = set()
        self._levels: Final[list[_Level]] = []
        self._waiting: Final[list[int]] = []

    @property
    def use(self) -> Use:
        """What has been counted so far."""
        return Use(self._bytes, self._inodes, self._fault)

    def steps(self) -> Generator[None]:
        """Count; pauses after every `ENTRIES_PER_STEP` entries, and closes what it opened.

        Raises:
            OSError: there are no descriptors left, or the disk cannot be read.
        """
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                top = self._open(self._directory, None)
                if top is not None:
                    status = os.fstat(top)
                    self._device = status.st_dev
                    self._add(status)
                    yield from self._enter(top)
            while (self._levels or self._waiting) and not self._is_over():
                yield from self._go_on()
        finally:
            for descriptor in (*self._waiting, *(level.descriptor for level in self._levels)):
                os.close(descriptor)

    def _is_over(self) -> bool:
        return self._inodes_max is not None and self._inodes > self._inodes_max

    def _go_on(self) -> Generator[None]:
        if not self._levels:
            yield from self._enter(self._waiting.pop())
            return
        level = self._levels[-1]
        if not level.folders:
            os.close(self._levels.pop().descriptor)
            return
        below = self._open(level.folders.pop(), level.descriptor)
        if below is None:
            return
        if len(self._levels) < LEVELS_MAX:
            yield from self._enter(below)
        elif len(self._waiting) < WAITING_MAX:
            self._waiting.append(below)
        else:
            os.close(below)
            self._fault = NESTED

    def _enter(self, descriptor: int) -> Generator[None]:
        """Count the entries of a directory, which is the lowest level then."""
        folders: list[str] = []
        self._levels.append(_Level(descriptor, folders))
        with os.scandir(descriptor) as entries:
            for number, entry in enumerate(entries, 1):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # gone since
                    continue
                except PermissionError:  # closed again since
                    self._fault = CLOSED
                    return
                if status.st_dev == self._device and self._add(status):
                    folders.append(entry.name)
                if number % ENTRIES_PER_STEP == 0:
                    yield
                    if self._is_over():
                        return
        yield

    def _add(self, status: os.stat_result) -> bool:
        """Count one; says whether it is a directory that is met for the first time."""
        is_folder = stat.S_ISDIR(status.st_mode)
        if is_folder or status.st_nlink > 1:
            if status.st_ino in self._met:
                return False
            self._met.add(status.st_ino)
        self._bytes += status.st_blocks * BLOCK_BYTES
        self._inodes += 1
        return is_folder

    def _open(self, name: str, parent: int | None) -> int | None:
        """Open a directory for listing; None if there is none (any more)."""
        for _ in range(TRIES_MAX):
            try:
                descriptor = os.open(name, _DIRECTORY | os.O_RDONLY, dir_fd=parent)
            except PermissionError:
                if self._privileged or not self._unlock(name, parent):
                    break
                continue
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                return None  # it is a link now
            status = os.fstat(descriptor)
            if self._device not in (-1, status.st_dev):  # something is mounted there
                os.close(descriptor)
                return None
            if self._privileged or status.st_mode & _READABLE == _READABLE:
                return descriptor
            os.close(descriptor)
            if not self._unlock(name, parent):
                break
        self._fault = CLOSED
        return None

    def _unlock(self, name: str, parent: int | None) -> bool:
        """Open a directory to its owner; says whether that could be tried."""
        try:
            handle = os.open(name, _DIRECTORY | os.O_PATH, dir_fd=parent)
        except OSError:
            return False
        try:
            mode = stat.S_IMODE(os.fstat(handle).st_mode)
            # By the descriptor that is open already: chmod by name would follow a link.
            os.chmod(f"/proc/self/fd/{handle}", mode | _READABLE)  # noqa: PTH101 - a descriptor
        except OSError:
            return False
        finally:
            os.close(handle)
        return True
