"""The n-th change of the disk fails, for every n, while a store is made, written and closed."""

import errno
import itertools
from pathlib import Path
from typing import Any

import apsw
import pytest

from protocol.errors import ErrorCode, GatewayError
from tests.workers.faults import FailingVFS, Orders
from worker.store.database import LOG_PAGES_MAX, Database
from worker.store.files import Directory

ROWS = 2
MIGRATIONS = (
    "CREATE TABLE t (x INTEGER PRIMARY KEY, y BLOB) STRICT;",
    "CREATE INDEX i ON t (y);",
)
MANY = 500
UNREACHED = 1_000_000


async def use(migrations: tuple[str, ...], first: int) -> tuple[list[int], list[GatewayError]]:
    """Open, write one by one and close; gives what was acknowledged and what was refused."""
    database = Database("folder/file.sqlite", migrations, Directory())
    done: list[int] = []
    refused: list[GatewayError] = []
    reasons: list[str | None] = []
    for x in range(first, first + ROWS):

        def insert(connection: apsw.Connection, x: int = x) -> int:
            connection.execute("INSERT INTO t VALUES (?, zeroblob(3000))", (x,))
            return x

        try:
            done.append(await database.write(insert))
            assert database.refusal is None
        except GatewayError as error:
            refused.append(error)
            reasons.append(database.refusal)
        if done:  # reads go on
            assert done == [
                row for row in done if (row,) in database.read().execute("SELECT x FROM t")
            ]
    await database.close()
    assert reasons == [error.message for error in refused]
    return done, refused


def clear() -> None:
    for path in Path("folder").glob("*"):
        path.unlink()


def stored() -> set[int]:
    with apsw.Connection("folder/file.sqlite") as connection:
        found: list[Any] = connection.execute("SELECT x FROM t").fetchall()
        rows = {x for (x,) in found}
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return rows


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
async def test_every_change_fails_in_turn(tenant_dir: Path, number: int, lasting: bool) -> None:
    orders = Orders("faults")
    kept: set[int] = set()
    with FailingVFS(orders):
        first = itertools.count(0, ROWS)
        for after in range(1, MANY):
            orders.arm(after, number, lasting=lasting)
            # A file that has been made once is migrated in the next round, and then only written.
            migrations = MIGRATIONS[: 1 + (after > 1)]
            done, refused = await use(migrations, next(first))
            hits = orders.disarm()
            kept |= set(done)
            for error in refused:
                assert error.code is ErrorCode.UNAVAILABLE
                assert error.message.startswith("storage ")
            if not hits:
                break
            # It recovers by itself, and nothing that was acknowledged is lost.
            done, refused = await use(migrations, next(first))
            assert (len(done), refused) == (ROWS, [])
            kept |= set(done)
            assert kept <= stored()
        else:
            raise AssertionError(f"after {MANY} changes there are more")
        assert after > 10


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
async def test_every_change_at_the_first_open_fails_in_turn(tenant_dir: Path, number: int) -> None:
    orders = Orders("faults")
    with FailingVFS(orders):
        for after in range(1, MANY):
            clear()
            orders.arm(after, number, lasting=False)
            done, _ = await use(MIGRATIONS, 0)
            if not orders.disarm():
                break
            done += (await use(MIGRATIONS, ROWS))[0]
            assert set(done) <= stored()
            assert done[-ROWS:] == list(range(ROWS, 2 * ROWS))
        else:
            raise AssertionError(f"after {MANY} changes there are more")
        assert after > 10


async def test_a_log_that_cannot_be_moved_fails_no_write(tenant_dir: Path) -> None:
    """Nor does a write wait for it: what it wrote is on the disk before."""
    orders = Orders("faults")
    statement = f"INSERT INTO t VALUES (?, zeroblob({LOG_PAGES_MAX * 4096}))"
    with FailingVFS(orders):
        database = Database("folder/file.sqlite", MIGRATIONS, Directory())

        async def write(x: int) -> None:
            await database.write(lambda connection: connection.execute(statement, (x,)))
            await database.write(lambda _: None)  # after what the writer does in between

        await write(1)
        orders.arm(UNREACHED, errno.EIO, lasting=True)
        await write(2)
        changes = UNREACHED - orders.after
        # The last of them move the log, a page at a time.
        orders.arm(changes - LOG_PAGES_MAX // 2, errno.EIO, lasting=True)
        await write(3)
        assert orders.disarm() > 0
        assert database.refusal is None
        await database.close()
    assert stored() == {1, 2, 3}
