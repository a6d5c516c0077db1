from pathlib import Path

import apsw
import pytest

from tests.worker.harness import names
from worker.store.database import Database
from worker.store.errors import SchemaTooNewError
from worker.store.files import Directory
from worker.store.migrations import copy_name

FIRST = "CREATE TABLE t (x INTEGER PRIMARY KEY) STRICT"
SECOND = "ALTER TABLE t ADD COLUMN y TEXT; INSERT INTO t VALUES (2, 'two')"
BROKEN = "INSERT INTO t VALUES (3, 'three'); SELECT * FROM absent"
PATH = "file.sqlite"


async def opened(*migrations: str) -> Database:
    database = Database(PATH, migrations, Directory())
    database.open()
    return database


def version(path: str) -> int:
    connection = apsw.Connection(path)
    found = int(connection.pragma("user_version"))
    connection.close()
    return found


async def with_rows(*migrations: str) -> None:
    database = await opened(*migrations)
    await database.write(lambda c: c.execute("INSERT INTO t (x) VALUES (1)"))
    await database.close()


async def test_new_file_gets_every_migration_and_no_copy(tenant_dir: Path) -> None:
    database = await opened(FIRST, SECOND)
    assert database.read().execute("SELECT * FROM t").fetchall() == [(2, "two")]
    await database.close()
    assert version(PATH) == 2
    assert names(tenant_dir) == [PATH]


async def test_older_file_is_copied_then_migrated(tenant_dir: Path) -> None:
    await with_rows(FIRST)
    database = await opened(FIRST, SECOND)
    assert database.read().execute("SELECT x FROM t").fetchall() == [(1,), (2,)]
    await database.close()
    copy = copy_name(PATH, 1)
    assert version(copy) == 1
    with apsw.Connection(copy) as connection:
        assert connection.execute("SELECT * FROM t").fetchall() == [(1,)]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_broken_migration_changes_nothing(tenant_dir: Path) -> None:
    await with_rows(FIRST)
    with pytest.raises(apsw.SQLError):
        await opened(FIRST, SECOND, BROKEN)
    assert version(PATH) == 1
    database = await opened(FIRST)
    assert database.read().execute("SELECT * FROM t").fetchall() == [(1,)]
    await database.close()


async def test_copy_of_an_earlier_attempt_is_replaced(tenant_dir: Path) -> None:
    await with_rows(FIRST)
    (tenant_dir / copy_name(PATH, 1)).write_bytes(b"half a copy")
    database = await opened(FIRST, SECOND)
    await database.close()
    assert version(copy_name(PATH, 1)) == 1


async def test_copy_goes_over_no_link(tenant_dir: Path) -> None:
    await with_rows(FIRST)
    elsewhere = tenant_dir.parent / "elsewhere"
    elsewhere.write_bytes(b"theirs")
    (tenant_dir / copy_name(PATH, 1)).symlink_to(elsewhere)
    database = await opened(FIRST, SECOND)
    await database.close()
    assert elsewhere.read_bytes() == b"theirs"


async def test_newer_file_is_refused(tenant_dir: Path) -> None:
    await with_rows(FIRST, "CREATE TABLE u (x)")
    with pytest.raises(SchemaTooNewError, match=r"file\.sqlite has schema version 2"):
        await opened(FIRST)
    assert version(PATH) == 2
