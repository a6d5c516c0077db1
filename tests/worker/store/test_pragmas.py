from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from worker.store import pragmas
from worker.store.errors import OldSqliteError


@pytest.fixture
def connection(tenant_dir: Path) -> Iterator[apsw.Connection]:
    opened = apsw.Connection("file.sqlite")
    yield opened
    opened.close()


def test_writer(connection: apsw.Connection) -> None:
    pragmas.apply(connection, pragmas.WRITER)
    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("synchronous") == 2
    assert connection.pragma("temp_store") == 2
    assert connection.pragma("foreign_keys") == 1
    assert connection.pragma("trusted_schema") == 0
    assert connection.pragma("cell_size_check") == 1
    assert connection.pragma("journal_size_limit") == pragmas.JOURNAL_BYTES_KEPT
    assert connection.pragma("cache_size") == -pragmas.CACHE_KIB
    assert connection.pragma("busy_timeout") == pragmas.BUSY_MILLISECONDS
    assert connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, -1) == 1


def test_reader_writes_nothing(connection: apsw.Connection) -> None:
    connection.execute("CREATE TABLE t (x)")
    pragmas.apply(connection, pragmas.READER)
    with pytest.raises(apsw.ReadOnlyError):
        connection.execute("INSERT INTO t VALUES (1)")
    assert connection.pragma("busy_timeout") == pragmas.READER_BUSY_MILLISECONDS


def test_double_quotes_are_names(connection: apsw.Connection) -> None:
    pragmas.apply(connection, pragmas.WRITER)
    with pytest.raises(apsw.SQLError, match="no such column"):
        connection.execute('SELECT "nothing"')


def test_without_a_write_ahead_log_there_is_no_database() -> None:
    with pytest.raises(apsw.CantOpenError, match="write-ahead"):
        pragmas.use_write_ahead_log(apsw.Connection(":memory:"))


@pytest.mark.parametrize("version", ["3.51.2", "3.50.4", "3.7.17"])
def test_old_sqlite_is_refused(version: str) -> None:
    with pytest.raises(OldSqliteError, match=r"3\.51\.3"):
        pragmas.check_version(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.54.1", "4.0.0"])
def test_new_sqlite_is_taken(version: str) -> None:
    pragmas.check_version(version)


def test_the_one_there_is_is_taken() -> None:
    pragmas.check_version()
