"""What a tenant may still do that may not write; and that what it removes leaves the disk."""

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import msgspec
import pytest

from protocol.errors import ErrorCode, GatewayError
from protocol.methods.config import Overlay
from protocol.spawn import StorageRefusal
from worker.config.overlay import Loaded, OverlayFile
from worker.store.database import LOG_PAGES_MAX, Database, Operation
from worker.store.files import Directory
from worker.store.gate import Gate

FULL = StorageRefusal(code="QUOTA_EXCEEDED", message="it is full", details={"most": 7})
SCHEMA = ("CREATE TABLE t (x INTEGER PRIMARY KEY, y BLOB) STRICT",)
ROWS, ROW_BYTES = 50, 200_000


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def database(tenant_dir: Path, gate: Gate) -> AsyncIterator[Database]:
    opened = Database("file.sqlite", SCHEMA, Directory(), gate)
    yield opened
    await opened.close()


def insert(x: int) -> Operation[None]:
    def operation(connection: apsw.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (?, randomblob(?))", (x, ROW_BYTES))

    return operation


def delete(connection: apsw.Connection) -> None:
    connection.execute("DELETE FROM t")


async def test_only_what_makes_less_goes_on(database: Database, gate: Gate) -> None:
    await database.write(insert(1))
    gate.hear(msgspec.json.encode(FULL))
    assert gate.reason == FULL.message
    with pytest.raises(GatewayError) as refused:
        await database.write(insert(2))
    assert (refused.value.code, refused.value.details) == (ErrorCode.QUOTA_EXCEEDED, {"most": 7})
    assert database.read().execute("SELECT count(*) FROM t").fetchone() == (1,)
    await database.write(delete, grows=False)
    gate.hear(b"null")
    gate.check()
    await database.write(insert(3))


def test_it_may_be_so_from_the_start() -> None:
    with pytest.raises(GatewayError):
        Gate(FULL).check()
    Gate(None).check()


async def test_the_configuration_is_not_written(tenant_dir: Path) -> None:
    file = OverlayFile(Directory(), Gate(FULL))

    def change(_loaded: Loaded) -> Overlay:
        raise AssertionError

    with pytest.raises(GatewayError, match="it is full"):
        await file.write(change, None)
    assert (await file.current()).exists is False
    file.close()


async def test_what_is_deleted_leaves_the_disk(database: Database, tenant_dir: Path) -> None:
    def size() -> int:
        return sum(path.stat().st_size for path in tenant_dir.glob("file.sqlite*"))

    for number in range(ROWS):
        await database.write(insert(number))
    assert size() > ROWS * ROW_BYTES
    await database.write(delete, grows=False)
    await database.shrink()
    await database.close()
    assert size() < ROW_BYTES


async def test_it_leaves_the_disk_while_the_file_is_open(
    database: Database, tenant_dir: Path
) -> None:
    for number in range(ROWS):
        await database.write(insert(number))
    database.read().execute("SELECT count(*) FROM t").fetchall()
    await database.write(delete, grows=False)
    await database.shrink()
    await database.shrink()  # when it is answered the log has been moved into the file
    assert (tenant_dir / "file.sqlite").stat().st_size < ROW_BYTES
    assert (tenant_dir / "file.sqlite-wal").stat().st_size <= 2 * LOG_PAGES_MAX * 4096
