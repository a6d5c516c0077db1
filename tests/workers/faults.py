"""A disk that fails: a VFS of SQLite between a worker and its files that fails when it is told to.

As SQLite tests itself (https://www.sqlite.org/testing.html, 3.2 I/O error testing): the n-th
operation that changes the disk fails, for n = 1, 2, 3 … until what is tested meets no failure. What
to do is in a small file that the test and the worker both map.
"""

import errno
import mmap
import os
import struct
from types import TracebackType
from typing import Any, Final, Self

import apsw

from protocol.descriptors import WorkerDescriptors
from tests.workers.puppet import Program
from worker import main as worker
from worker.sessions import turns

NAME: Final = "faults"
VFS: Final = "faults"
RETRY_SECONDS: Final = 0.1
_FIELDS: Final = struct.Struct("qqqq")
_ERRORS: Final = {
    errno.EIO: (apsw.SQLITE_IOERR_WRITE, apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_TRUNCATE),
    errno.ENOSPC: (apsw.SQLITE_FULL, apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_FULL),
}


class Orders:
    """The file: after how many operations to fail, with what, once or from then on; and the hits.

    Args:
        path: Where it is; made if it is not there.
    """

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            os.ftruncate(descriptor, _FIELDS.size)
            self._map = mmap.mmap(descriptor, _FIELDS.size)
        finally:
            os.close(descriptor)

    def arm(self, after: int, number: int, *, lasting: bool) -> None:
        """Have operation `after` (from 1) fail with an errno, and all later ones if it lasts."""
        _FIELDS.pack_into(self._map, 0, after, number, lasting, 0)

    def disarm(self) -> int:
        """Have nothing fail any more; gives how many have failed."""
        hits: int = _FIELDS.unpack_from(self._map)[3]
        self.arm(0, 0, lasting=False)
        return hits

    @property
    def hits(self) -> int:
        hits: int = _FIELDS.unpack_from(self._map)[3]
        return hits

    @property
    def after(self) -> int:
        """How many operations there are until the next that fails, this included."""
        after: int = _FIELDS.unpack_from(self._map)[0]
        return after

    @property
    def number(self) -> int:
        """The errno of what fails next."""
        number: int = _FIELDS.unpack_from(self._map)[1]
        return number

    def check(self, kind: int) -> None:
        """Count an operation (0 a write, 1 a sync, 2 a change of size); raise if it is to fail."""
        after, number, lasting, hits = _FIELDS.unpack_from(self._map)
        if not after:
            return
        failing = after == 1
        left = after if failing and lasting else after - 1
        _FIELDS.pack_into(self._map, 0, left, number, lasting, hits + failing)
        if failing:
            code = _ERRORS[number][kind]
            error = apsw.exception_for(code)
            raise error


class _File(apsw.VFSFile):
    def __init__(self, orders: Orders, name: Any, flags: list[int]) -> None:
        self._orders = orders
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._orders.check(0)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._orders.check(1)
        super().xSync(flags)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._orders.check(2)
        super().xTruncate(size)


class FailingVFS(apsw.VFS):
    """The default one while its context lasts."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        super().__init__(VFS, "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        if flags[0] & apsw.SQLITE_OPEN_CREATE:
            self._orders.check(2)
        return _File(self._orders, name, flags)

    def xDelete(self, name: str, sync: bool) -> None:  # noqa: N802
        self._orders.check(2)
        super().xDelete(name, sync)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unregister()


def faulty(spec: bytes, fds: WorkerDescriptors) -> None:
    """The real worker on a disk that fails when the file says so."""
    setattr(turns, "RETRY_SECONDS", RETRY_SECONDS)  # noqa: B010 - it is final for everybody else
    with FailingVFS(Orders(NAME)):
        worker.run(spec, fds)


PROGRAMS: dict[str, Program] = {"faulty": faulty}
