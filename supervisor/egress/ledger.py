"""`ledger.sqlite`: a thread that writes it, in groups, and what it is asked to write.

A commit with `synchronous=FULL` costs a wait for the disk, however little it holds. So what a turn
of the event loop has to write goes to the thread at once, and whatever has come while that waited
for the disk is its next commit. One process has the ledger at a time: it holds a lock.
"""

import asyncio
import contextlib
import fcntl
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from protocol.errors import ErrorCode, GatewayError
from supervisor import schema
from supervisor.egress import ledger_schema
from supervisor.egress.books import Sums
from supervisor.egress.ledger_schema import GROUPED, SUMMED, Kind, Per
from supervisor.egress.periods import periods_at

WAITING_MAX: Final = 16_384
LOCK_SECONDS: Final = 4.0
LOCK_POLL_SECONDS: Final = 0.02
BUSY_MS: Final = 5000
LOG_PAGES_MAX: Final = 1000
"""A log of so many pages is moved into the file; SQLite's own number."""
LOCK_NAME: Final = "ledger.lock"

Operation = Callable[[apsw.Connection], None]
"""What is written; may be run again after a commit that failed."""
_REFUSED: Final = (
    apsw.FullError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.CorruptError,
    apsw.NotADBError,
)


class LedgerError(Exception):
    """The ledger cannot be opened; the message says why."""


class Row(NamedTuple):
    """A row to be added, in the order of the columns of `entries`, without number and card."""

    at: int
    tenant: str
    kind: Kind
    provider: str
    model: str
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    tool_calls: int
    wall_ms: int
    cpu_ms: int
    bytes: int
    cost_micro_usd: int
    estimated: bool
    own_key: bool
    request_id: str
    run_id: str | None
    session_key: str | None
    reservation: int | None


class Left(NamedTuple):
    """What earlier processes have left: calls that nobody will settle."""

    calls: int
    tokens: int
    cost_micro_usd: int


_INSERT: Final = (
    f"INSERT INTO entries ({', '.join(Row._fields)}, card) "  # noqa: S608 - no text from outside
    f"VALUES ({', '.join('?' * len(Row._fields))}, (SELECT id FROM cards WHERE version = ?))"
)
_SUMMED_AT: Final = tuple(Row._fields.index(name) for name in SUMMED)
_ADD: Final = (
    f"INSERT INTO totals ({', '.join(GROUPED)}, entries, {', '.join(SUMMED)}) "  # noqa: S608 - no text from outside
    f"VALUES (?, ?, ?, ?, ?, ?, 1, {', '.join('?' * len(SUMMED))}) ON CONFLICT DO UPDATE SET "
    f"entries = entries + 1, {', '.join(f'{name} = {name} + excluded.{name}' for name in SUMMED)}"
)
_SUMS: Final = (
    "SELECT tenant, sum(input_tokens + cache_read_tokens + cache_write_tokens + output_tokens "
    "+ reasoning_tokens), sum(cost_micro_usd) FROM totals INDEXED BY totals_by_period "
    "WHERE per = ? AND period = ? GROUP BY tenant"
)


class Reserved(NamedTuple):
    """A reservation to be kept, in the order of the columns of `reservations`."""

    id: int
    tenant: str
    kind: Kind
    provider: str
    model: str
    at: int
    lease_until: int
    tokens: int
    cost_micro_usd: int


def keep(db: apsw.Connection, reserved: Reserved) -> None:
    """Keep a reservation."""
    db.execute("INSERT INTO reservations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", reserved)


def drop(db: apsw.Connection, reservation: int) -> None:
    """Forget a reservation, if it is there."""
    db.execute("DELETE FROM reservations WHERE id = ?", (reservation,))


def add(db: apsw.Connection, row: Row, version: str, text: str) -> None:
    """Add a row, its part of the totals and, if it is new, the card that has priced it.

    The reservation that it settles ends with it.

    Args:
        db: In a transaction.
        row: The row.
        version: Of the card.
        text: The card.
    """
    if row.reservation is not None:
        db.execute("DELETE FROM reservations WHERE id = ?", (row.reservation,))
    db.execute(
        "INSERT INTO cards (version, body) VALUES (?, ?) ON CONFLICT DO NOTHING", (version, text)
    )
    db.execute(_INSERT, (*row, version))
    amounts = [row[index] for index in _SUMMED_AT]
    for per, period in zip(("day", "month"), periods_at(row.at), strict=True):
        of = (row.tenant, per, period, row.kind, row.provider, row.model)
        db.execute(_ADD, (*of, *amounts))


class _Waiting(NamedTuple):
    operation: Operation
    future: asyncio.Future[None]


class Ledger:
    """The open ledger.

    Attributes:
        left: What earlier processes have left; it is released.
        next_reservation: A number that no reservation and no row has had.
    """

    def __init__(self, path: Path, lock: int) -> None:
        """See `open_ledger`."""
        self._lock: Final = lock
        self._loop: Final = asyncio.get_running_loop()
        self._db: Final = _connect(path)
        try:
            ledger_schema.migrate(self._db, path)
            self.left, self.next_reservation = _release_all(self._db)
            self._reader: Final = _connect(path)
        except BaseException:
            self._db.close()
            raise
        self._log_pages = 0
        # In place of SQLite's own checkpoint, which is within the commit: who waits for that would
        # wait for it too.
        self._db.set_wal_hook(self._note_log)
        self._gathered: list[_Waiting] = []
        self._waiting = 0
        self._closed = False
        self._queue: Final[queue.SimpleQueue[list[_Waiting] | None]] = queue.SimpleQueue()
        # A daemon, so that a process that has to end at once does not wait for it.
        self._thread: Final = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def sums(self, per: Per, period: str) -> dict[str, Sums]:
        """Give what was settled in a window, by tenant.

        Raises:
            GatewayError: UNAVAILABLE: it cannot be read.
        """
        try:
            return {
                tenant: Sums(tokens, cost)
                for tenant, tokens, cost in self._reader.execute(_SUMS, (per, period))
            }
        except apsw.Error as error:
            message = "the ledger cannot be read, so nothing can be spent; try again"
            raise GatewayError(ErrorCode.UNAVAILABLE, message, retryAfterMs=1000) from error

    async def write(self, operation: Operation) -> None:
        """Have something written; it is on the disk when this returns.

        It is written whether or not anybody still waits for it.

        Raises:
            GatewayError: UNAVAILABLE: the disk refuses it, or too much waits; nothing was written.
        """
        await self.submit(operation)

    def submit(self, operation: Operation) -> asyncio.Future[None]:
        """Give a future that is done when something is on the disk. Raises as `write`."""
        if self._closed or self._waiting >= WAITING_MAX:
            raise GatewayError(ErrorCode.UNAVAILABLE, "the ledger is busy; try again")
        future: asyncio.Future[None] = self._loop.create_future()
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(_Waiting(operation, future))
        self._waiting += 1
        return future

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._queue.put(gathered)

    def close(self) -> None:
        """Write what was submitted, and close the file; blocks."""
        if self._closed:
            return
        self._closed = True
        self._flush()
        self._queue.put(None)
        self._thread.join()
        self._reader.close()
        with contextlib.suppress(apsw.Error):  # what is in the log is as safe as elsewhere
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._db.close()
        os.close(self._lock)

    # In the ledger's thread.

    def _work(self) -> None:
        while True:
            group, is_last = self._take()
            if group:
                outcomes = _commit(self._db, group)
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    self._loop.call_soon_threadsafe(self._resolve, outcomes)
                self._shorten_log()
            if is_last:
                return

    def _take(self) -> tuple[list[_Waiting], bool]:
        """Wait for something to write, then take all there is; says whether to end after it."""
        group: list[_Waiting] = []
        gathered = self._queue.get()
        while gathered is not None:
            group += gathered
            try:
                gathered = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _note_log(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _shorten_log(self) -> None:
        if self._log_pages >= LOG_PAGES_MAX:
            with contextlib.suppress(apsw.Error):  # the next commit tries again
                self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    # In the event loop's thread again.

    def _resolve(self, outcomes: Sequence[tuple[_Waiting, Exception | None]]) -> None:
        self._waiting -= len(outcomes)
        for waiting, error in outcomes:
            future = waiting.future
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            elif isinstance(error, _REFUSED):
                message = "the ledger cannot be written, so nothing can be spent; try again"
                refusal = GatewayError(ErrorCode.UNAVAILABLE, message, retryAfterMs=1000)
                refusal.__cause__ = error
                future.set_exception(refusal)
            else:
                future.set_exception(error)


def _commit(db: apsw.Connection, group: list[_Waiting]) -> list[tuple[_Waiting, Exception | None]]:
    try:
        db.execute("BEGIN IMMEDIATE")
        for waiting in group:
            waiting.operation(db)
        db.execute("COMMIT")
    except Exception as error:  # noqa: BLE001 - the thread outlives every operation
        with contextlib.suppress(apsw.Error):
            if db.in_transaction:
                db.execute("ROLLBACK")
        if len(group) > 1:
            # One by one: what is too big for the disk, or wrong, fails without the others.
            return [outcome for waiting in group for outcome in _commit(db, [waiting])]
        return [(group[0], error)]
    return [(waiting, None) for waiting in group]


async def open_ledger(directory: Path) -> Ledger:
    """Open the ledger, made and migrated as needed; what earlier processes had reserved is over.

    Args:
        directory: Where it is, or is to be.

    Raises:
        LedgerError: another process has it, it is damaged or newer, or the disk refuses.
    """
    try:
        lock = await _locked(directory / LOCK_NAME)
        try:
            path = directory / ledger_schema.NAME
            # SQLite gives the files beside it the mode of this one. Not once it is open: closing
            # any descriptor of a file gives up all our locks on it (fcntl(2)).
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            return Ledger(path, lock)
        except BaseException:
            os.close(lock)
            raise
    except (apsw.Error, OSError, schema.TooNewError) as error:
        raise LedgerError(f"the ledger cannot be opened: {error}") from error


async def _locked(path: Path) -> int:
    """Have the ledger for ourselves: whoever had it before is dead, or about to be."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    until = asyncio.get_running_loop().time() + LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if asyncio.get_running_loop().time() > until:
                    raise LedgerError("another process has the ledger") from error
                await asyncio.sleep(LOCK_POLL_SECONDS)
            else:
                return lock
    except BaseException:
        os.close(lock)
        raise


def _connect(path: Path) -> apsw.Connection:
    mode = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW
    db = apsw.Connection(str(path), flags=mode)
    try:
        db.set_busy_timeout(BUSY_MS)
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "recursive_triggers=ON",  # else a REPLACE deletes a row without a word
            "trusted_schema=OFF",
            "temp_store=MEMORY",  # there is no other place that we may write
            "cell_size_check=ON",
        ):
            db.execute(f"PRAGMA {pragma}")
    except BaseException:
        db.close()
        raise
    return db


def _release_all(db: apsw.Connection) -> tuple[Left, int]:
    """Release what is reserved; gives that, and the first number for a new reservation."""
    with db:
        calls, tokens, cost, newest = db.execute(
            "SELECT count(*), ifnull(sum(tokens), 0), ifnull(sum(cost_micro_usd), 0), "
            "max(ifnull(max(id), 0), (SELECT ifnull(max(reservation), 0) FROM entries)) "
            "FROM reservations"
        ).get
        if calls:
            db.execute("DELETE FROM reservations")
    return Left(calls, tokens, cost), newest + 1
