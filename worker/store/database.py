"""One database: a reader in the event loop's thread, and a writer's thread that commits in groups.

What may take long to read has a connection and a thread of its own, and an end.

A commit with `synchronous=FULL` costs a wait for the disk, however little it holds. So the writer
takes every operation that has come in the meantime, runs each in a savepoint of one transaction,
commits once, and only then tells who waits. An operation that fails undoes its own savepoint.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple, TypeVar

import apsw

from protocol.errors import ErrorCode, GatewayError
from worker import log
from worker.store import pragmas
from worker.store.errors import StoreDamagedError, is_damage, is_refusal, storage_error
from worker.store.files import Directory
from worker.store.gate import Gate
from worker.store.lane import Lane
from worker.store.migrations import migrate

OPERATIONS_WAITING_MAX: Final = 1024
GROUP_MAX: Final = 256
CHECKPOINT_MILLISECONDS: Final = 1000
LOG_PAGES_MAX: Final = 1000
"""A log of so many pages is moved into the file; SQLite's own number."""
PAGES_FREED: Final = 512
SLOW_READ_SECONDS: Final = 5.0
STEPS_BETWEEN_LOOKS: Final = 20_000

T = TypeVar("T")
Operation = Callable[[apsw.Connection], T]
"""Reads and writes through the connection it is given; may be run again after a failed commit."""

_OPEN: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW


class _Waiting(NamedTuple):
    operation: Operation[Any]
    future: asyncio.Future[Any]


class _Outcome(NamedTuple):
    future: asyncio.Future[Any]
    result: Any
    error: Exception | None


class _TransactionLostError(Exception):
    """SQLite rolled the whole transaction back, as it does when the disk is full."""


class Database:
    """A database file of the tenant.

    Args:
        path: Relative to the working directory, which `directory` is open on.
        migrations: See `worker.store.migrations`.
        directory: The tenant's directory.
        gate: Says whether the tenant may write.
    """

    def __init__(
        self,
        path: str,
        migrations: Sequence[str],
        directory: Directory,
        gate: Gate | None = None,
    ) -> None:
        self._path: Final = path
        self._migrations: Final = migrations
        self._directory: Final = directory
        self._gate: Final = gate or Gate()
        self._reader: apsw.Connection | None = None
        self._writer: apsw.Connection | None = None
        self._slow_reader: apsw.Connection | None = None
        self._slow_lane: Final = Lane("slow reader")
        self._slow_reads_end = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._waiting = 0
        self._log_pages = 0
        self._fold_due = False
        self._closed = False
        self.refusal: str | None = None
        """Why the newest write was refused by the disk; None: it takes writes. Reads go on."""

    @property
    def is_open(self) -> bool:
        """Whether the file has been opened."""
        return self._reader is not None

    def exists(self) -> bool:
        """Say whether there is such a file."""
        return self._directory.holds(self._path)

    def open(self) -> None:
        """Open the file, made and migrated as needed. Whoever reads or writes does it by itself.

        Raises:
            StoreConfigurationError: the file and this program do not fit.
            StoreDamagedError: it is no database, or a damaged one.
            apsw.Error: it cannot be opened or written.
        """
        if self._reader is not None:
            return
        folder = str(PurePosixPath(self._path).parent)
        if folder != ".":
            self._directory.make_directory(folder)
        writer = apsw.Connection(self._path, flags=_OPEN | apsw.SQLITE_OPEN_CREATE)
        try:
            pragmas.apply(writer, pragmas.WRITER)
            migrate(writer, self._path, self._migrations, self._directory)
            writer.set_wal_hook(self._note_log)
            reader = apsw.Connection(self._path, flags=_OPEN)
            pragmas.apply(reader, pragmas.READER)
        except BaseException as error:
            writer.close()
            if is_damage(error):
                raise StoreDamagedError(f"{self._path} is damaged") from error
            raise
        self._writer, self._reader = writer, reader

    def read(self) -> apsw.Connection:
        """Give the connection for short reads in the event loop's thread.

        Raises:
            GatewayError: the file cannot be opened.
        """
        if self._reader is None:
            self._open_for_call()
            assert self._reader is not None
        return self._reader

    async def read_slowly(self, operation: Operation[T]) -> T:
        """Give the result of reads that may take long, done in a thread, `SLOW_READ_SECONDS` each.

        Raises:
            GatewayError: TIMEOUT: they took longer; or the storage refused, or too much waits.
        """
        if self._reader is None:
            self._open_for_call()
        try:
            return await self._slow_lane.run(partial(self._read_slowly, operation))
        except apsw.InterruptError as error:
            message = f"it took longer than {SLOW_READ_SECONDS:.0f} s; ask for less"
            raise GatewayError(ErrorCode.TIMEOUT, message) from error
        except apsw.Error as error:
            raise storage_error(error) or error from error

    def _read_slowly(self, operation: Operation[T]) -> T:
        connection = self._slow_reader
        if connection is None:
            connection = apsw.Connection(self._path, flags=_OPEN)
            pragmas.apply(connection, pragmas.READER)
            self._slow_reader = connection
        until = time.monotonic() + SLOW_READ_SECONDS

        def is_over() -> bool:
            return self._slow_reads_end or time.monotonic() > until

        connection.set_progress_handler(is_over, STEPS_BETWEEN_LOOKS)
        return operation(connection)

    def submit(self, operation: Operation[T], *, grows: bool = True) -> asyncio.Future[T]:
        """Have an operation run and committed; its future is done when it is on disk.

        An operation that was submitted is run, whether or not anybody still waits for it.

        Args:
            operation: What is done.
            grows: False for what removes something, or must be written down to end something: that
                goes on when the tenant may not write.

        Raises (also through the future):
            GatewayError: the storage refused, the tenant may not write, or too much waits for it.
        """
        if self._closed:
            raise GatewayError(ErrorCode.UNAVAILABLE, "storage is being closed; try again")
        if grows:
            self._gate.check()
        if self._waiting >= OPERATIONS_WAITING_MAX:
            raise GatewayError(ErrorCode.UNAVAILABLE, "storage is busy; try again")
        if self._reader is None:
            self._open_for_call()
        self._start()
        assert self._loop is not None
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting += 1
        self._queue.put(_Waiting(operation, future))
        return future

    async def write(self, operation: Operation[T], *, grows: bool = True) -> T:
        """Have an operation run and committed, and give its result. Arguments as of `submit`."""
        return await self.submit(operation, grows=grows)

    async def shrink(self) -> None:
        """Give the disk back what is free in the file, a piece at a time. Raises as `submit`."""
        while await self.write(_free_pages, grows=False):
            pass
        self._fold_due = True
        await self.write(_free_pages, grows=False)

    async def close(self) -> None:
        """Finish what was submitted, move the log into the file, close it."""
        if self._closed or self._reader is None:
            self._closed = True
            return
        self._start()
        self._slow_reads_end = True  # whoever asked has gone, or has been refused
        self._slow_lane.close()
        if self._slow_reader is not None:
            self._slow_reader.close()
        done = self.submit(_checkpoint, grows=False)
        self._closed = True
        try:
            with suppress(GatewayError):
                await done
        finally:
            self._queue.put(None)
            assert self._thread is not None
            assert self._writer is not None
            self._thread.join()
            for connection in (self._reader, self._writer):
                with suppress(apsw.Error):  # as at the checkpoint: nothing is lost by it
                    connection.close()

    def _open_for_call(self) -> None:
        try:
            self.open()
        except (apsw.Error, StoreDamagedError) as error:
            cause = error if isinstance(error, apsw.Error) else error.__cause__
            assert isinstance(cause, apsw.Error)
            self._note([cause])
            raise storage_error(cause) or error from error
        except OSError as error:  # its folder
            message = "storage cannot be read or written"
            raise GatewayError(ErrorCode.UNAVAILABLE, message) from error

    def _start(self) -> None:
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            # A daemon, so that a process that has to end at once does not wait for it.
            self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
            self._thread.start()

    # In the writer's thread.

    def _work(self) -> None:
        assert self._writer is not None
        assert self._loop is not None
        while True:
            group, last = self._take()
            if group:
                try:
                    outcomes = _commit(self._writer, group)
                except Exception as error:  # noqa: BLE001 - the thread outlives every operation
                    outcomes = [_Outcome(waiting.future, None, error) for waiting in group]
                with suppress(RuntimeError):  # the loop is closed: nobody waits
                    self._loop.call_soon_threadsafe(self._resolve, outcomes)
                self._shorten_log()
            if last:
                return

    def _note_log(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        # In place of SQLite's own, which is within the commit: who waits for that waits for it too,
        # and what a VFS in Python raises there comes out as the failure of a commit that has
        # happened.
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _shorten_log(self) -> None:
        """Move a long log into the file: nobody waits for it, and no write fails with it."""
        if self._log_pages >= LOG_PAGES_MAX or self._fold_due:
            self._log_pages, self._fold_due = 0, False
            assert self._writer is not None
            with suppress(apsw.Error):  # as in `_checkpoint`
                self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _take(self) -> tuple[list[_Waiting], bool]:
        """Wait for an operation, then take all there are; says whether to end after them."""
        group: list[_Waiting] = []
        waiting = self._queue.get()
        while waiting is not None:
            group.append(waiting)
            if len(group) == GROUP_MAX:
                return group, False
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    # In the event loop's thread again.

    def _note(self, errors: Sequence[Exception | None]) -> None:
        """Take note, and say it once, when the disk begins to refuse writes and when it ends."""
        refused = next((error for error in errors if error and is_refusal(error)), None)
        if None in errors:  # then it was only too much for what is left
            refused = None
        elif refused is None:
            return  # nothing was tried
        answer = storage_error(refused) if isinstance(refused, apsw.Error) else None
        reason = answer.message if answer else None
        if reason and refused and not self.refusal:
            log.failure("storage is read-only", refused, file=self._path)
        elif self.refusal and not reason:
            log.write("info", "storage takes writes again", file=self._path)
        self.refusal = reason

    def _resolve(self, outcomes: list[_Outcome]) -> None:
        self._waiting -= len(outcomes)
        self._note([outcome.error for outcome in outcomes])
        for future, result, error in outcomes:
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            elif isinstance(error, apsw.Error):
                future.set_exception(storage_error(error) or error)
            else:
                future.set_exception(error)


def _checkpoint(connection: apsw.Connection) -> None:
    """Move the log into the file. Runs alone: `_commit` opens no transaction around it."""
    connection.set_busy_timeout(CHECKPOINT_MILLISECONDS)
    # Nothing is lost without it: whoever opens the file next reads the log, or does this.
    with suppress(apsw.Error):
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def _free_pages(connection: apsw.Connection) -> bool:
    """Take some free pages off the end of the file; says whether there are more."""
    before = int(connection.pragma("freelist_count"))
    if before:
        # Each step of the statement frees a page.
        connection.execute(f"PRAGMA incremental_vacuum({PAGES_FREED})").fetchall()
    return 0 < int(connection.pragma("freelist_count")) < before


def _commit(connection: apsw.Connection, group: list[_Waiting]) -> list[_Outcome]:
    if group[-1].operation is _checkpoint:
        before = _commit(connection, group[:-1]) if len(group) > 1 else []
        _checkpoint(connection)
        return [*before, _Outcome(group[-1].future, None, None)]
    connection.execute("BEGIN IMMEDIATE")
    try:
        outcomes = [_run(connection, waiting) for waiting in group]
        connection.execute("COMMIT")
    except (apsw.Error, _TransactionLostError) as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if len(group) > 1:
            # One by one: an operation that is too big for the disk fails without the others.
            return [outcome for waiting in group for outcome in _commit_alone(connection, waiting)]
        cause = error.__cause__ if isinstance(error, _TransactionLostError) else error
        assert isinstance(cause, Exception)
        return [_Outcome(group[0].future, None, cause)]
    return outcomes


def _commit_alone(connection: apsw.Connection, waiting: _Waiting) -> list[_Outcome]:
    try:
        return _commit(connection, [waiting])
    except apsw.Error as error:
        return [_Outcome(waiting.future, None, error)]


def _run(connection: apsw.Connection, waiting: _Waiting) -> _Outcome:
    connection.execute("SAVEPOINT operation")
    try:
        result = waiting.operation(connection)
    except Exception as error:
        if not connection.in_transaction:
            raise _TransactionLostError from error
        connection.execute("ROLLBACK TO operation")
        connection.execute("RELEASE operation")
        return _Outcome(waiting.future, None, error)
    connection.execute("RELEASE operation")
    return _Outcome(waiting.future, result, None)
