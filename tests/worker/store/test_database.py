import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from protocol.errors import ErrorCode, GatewayError
from worker.store import database as module
from worker.store.database import Database
from worker.store.errors import StoreDamagedError
from worker.store.files import Directory, UnsafePathError

SCHEMA = ("CREATE TABLE t (x INTEGER PRIMARY KEY, y BLOB) STRICT",)


@pytest.fixture
async def database(tenant_dir: Path) -> AsyncIterator[Database]:
    opened = Database("folder/file.sqlite", SCHEMA, Directory())
    yield opened
    await opened.close()


def insert(x: int, size: int = 0) -> module.Operation[int]:
    def operation(connection: apsw.Connection) -> int:
        connection.execute("INSERT INTO t VALUES (?, zeroblob(?))", (x, size))
        return x

    return operation


def stored(database: Database) -> list[int]:
    return [row[0] for row in database.read().execute("SELECT x FROM t ORDER BY x")]


class Hold:
    """An operation that keeps the writer until the test lets it go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.commits = 0

    def __call__(self, connection: apsw.Connection) -> None:
        connection.set_commit_hook(self._count)
        self.entered.set()
        assert self.go.wait(20)

    def _count(self) -> bool:
        self.commits += 1
        return False


async def held(database: Database) -> tuple[Hold, asyncio.Future[None]]:
    hold = Hold()
    future = database.submit(hold)
    assert await asyncio.to_thread(hold.entered.wait, 20)
    return hold, future


async def test_opened_when_first_used(database: Database, tenant_dir: Path) -> None:
    assert (database.is_open, database.exists()) == (False, False)
    assert not (tenant_dir / "folder").exists()
    assert await database.write(insert(1)) == 1
    assert (database.is_open, database.exists()) == (True, True)
    assert stored(database) == [1]


async def test_what_waits_is_committed_together(database: Database) -> None:
    hold, first = await held(database)
    waiting = [database.submit(insert(x)) for x in range(50)]
    hold.go.set()
    await first
    assert await asyncio.gather(*waiting) == list(range(50))
    assert hold.commits == 2
    assert stored(database) == list(range(50))


async def test_failing_operation_undoes_itself_alone(database: Database) -> None:
    def fail(connection: apsw.Connection) -> None:
        insert(100)(connection)
        raise GatewayError(ErrorCode.CONFLICT, "no")

    hold, first = await held(database)
    futures: list[asyncio.Future[int] | asyncio.Future[None]] = [
        database.submit(insert(1)),
        database.submit(fail),
        database.submit(insert(1)),  # violates the primary key
        database.submit(insert(2)),
    ]
    hold.go.set()
    await first
    one, conflict, twice, two = await asyncio.gather(*futures, return_exceptions=True)
    assert (one, two) == (1, 2)
    assert isinstance(conflict, GatewayError)
    assert conflict.code is ErrorCode.CONFLICT
    assert isinstance(twice, apsw.ConstraintError)
    assert stored(database) == [1, 2]
    assert hold.commits == 2


async def test_full_storage_refuses_what_is_too_big_alone(database: Database) -> None:
    await database.write(lambda connection: connection.pragma("max_page_count", 16))
    hold, first = await held(database)
    futures = [
        database.submit(insert(1, 100)),
        database.submit(insert(2, 1_000_000)),
        database.submit(insert(3, 100)),
    ]
    hold.go.set()
    await first
    one, big, three = await asyncio.gather(*futures, return_exceptions=True)
    assert (one, three) == (1, 3)
    assert isinstance(big, GatewayError)
    assert big.code is ErrorCode.UNAVAILABLE
    assert big.message.startswith("storage is full")
    assert stored(database) == [1, 3]


async def test_commit_that_fails_takes_only_its_own(database: Database) -> None:
    """A commit hook that vetoes stands for a disk that fails at the end of a transaction."""
    vetoes = iter([True, False, True, False])

    def install(connection: apsw.Connection) -> None:
        connection.set_commit_hook(lambda: next(vetoes))

    hold = Hold()
    database.submit(hold)
    assert await asyncio.to_thread(hold.entered.wait, 20)
    hold.go.set()
    blocker, _ = await held(database)
    database.submit(install)
    futures = [database.submit(insert(x)) for x in (1, 2)]
    blocker.go.set()
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    # The group is vetoed; then `install` alone passes, the next is vetoed, the last passes.
    assert isinstance(outcomes[0], apsw.ConstraintError)
    assert outcomes[1] == 2
    assert stored(database) == [2]


async def test_queue_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPERATIONS_WAITING_MAX", 3)
    hold, first = await held(database)
    waiting = [database.submit(insert(x)) for x in (1, 2)]
    with pytest.raises(GatewayError, match="busy") as raised:
        database.submit(insert(3))
    assert raised.value.code is ErrorCode.UNAVAILABLE
    hold.go.set()
    await asyncio.gather(first, *waiting)
    assert await database.write(insert(3)) == 3


async def test_groups_are_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_MAX", 10)
    hold, first = await held(database)
    waiting = [database.submit(insert(x)) for x in range(25)]
    hold.go.set()
    await asyncio.gather(first, *waiting)
    assert hold.commits == 1 + 3


async def test_nobody_waits_and_it_is_written_all_the_same(database: Database) -> None:
    hold, first = await held(database)
    task = asyncio.create_task(database.write(insert(1)))
    await asyncio.sleep(0)
    task.cancel()
    hold.go.set()
    await first
    await database.write(insert(2))
    assert task.cancelled()
    assert stored(database) == [1, 2]


async def test_readers_do_not_wait_for_the_writer(database: Database) -> None:
    await database.write(insert(1))
    hold, first = await held(database)
    assert stored(database) == [1]
    hold.go.set()
    await first


async def test_close_finishes_and_empties_the_log(database: Database, tenant_dir: Path) -> None:
    waiting = [database.submit(insert(x)) for x in range(5)]
    await database.close()
    assert [future.result() for future in waiting] == list(range(5))
    assert not (tenant_dir / "folder/file.sqlite-wal").exists()
    with pytest.raises(GatewayError, match="being closed"):
        database.submit(insert(9))
    assert not [thread for thread in threading.enumerate() if thread.name == "writer"]


async def test_close_with_another_process_reading(database: Database, tenant_dir: Path) -> None:
    await database.write(insert(1))
    other = apsw.Connection("folder/file.sqlite")
    reading = other.execute("SELECT * FROM t")
    next(reading)
    await database.close()
    reading.close()
    assert other.execute("SELECT x FROM t").fetchall() == [(1,)]
    other.close()


async def test_close_of_what_was_never_opened(database: Database, tenant_dir: Path) -> None:
    await database.close()
    assert not (tenant_dir / "folder").exists()


async def test_folder_that_is_a_link_is_refused(database: Database, tenant_dir: Path) -> None:
    elsewhere = tenant_dir.parent / "elsewhere"
    elsewhere.mkdir()
    (tenant_dir / "folder").symlink_to(elsewhere)
    with pytest.raises(UnsafePathError):
        database.open()
    assert list(elsewhere.iterdir()) == []


async def test_file_that_is_a_link_is_refused(database: Database, tenant_dir: Path) -> None:
    (tenant_dir / "folder").mkdir()
    (tenant_dir / "folder/file.sqlite").symlink_to(tenant_dir.parent / "elsewhere.sqlite")
    with pytest.raises(GatewayError) as raised:
        database.read()
    assert raised.value.code is ErrorCode.UNAVAILABLE
    assert not (tenant_dir.parent / "elsewhere.sqlite").exists()


async def test_folder_that_is_a_file_is_a_typed_error(database: Database, tenant_dir: Path) -> None:
    (tenant_dir / "folder").touch()
    for use in (database.read, lambda: database.submit(insert(1))):
        with pytest.raises(GatewayError, match="storage cannot be") as raised:
            use()
        assert raised.value.code is ErrorCode.UNAVAILABLE


async def test_damaged_file_is_named(database: Database, tenant_dir: Path) -> None:
    (tenant_dir / "folder").mkdir()
    (tenant_dir / "folder/file.sqlite").write_bytes(b"no database at all " * 500)
    with pytest.raises(StoreDamagedError, match=r"folder/file\.sqlite"):
        database.open()
    with pytest.raises(GatewayError, match="damaged") as raised:
        database.read()
    assert raised.value.code is ErrorCode.INTERNAL


async def test_writer_of_another_process_is_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.write(insert(1))
    await database.write(lambda connection: connection.set_busy_timeout(50))
    other = apsw.Connection("folder/file.sqlite")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(GatewayError, match="busy") as raised:
        await database.write(insert(2))
    assert raised.value.code is ErrorCode.UNAVAILABLE
    other.execute("ROLLBACK")
    other.close()
    assert await database.write(insert(3)) == 3
