"""The ledger: only ever added to, read while it is written, right or found not to be."""

import json
import stat
from functools import partial
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.egress import Ran
from protocol.models import Spent
from supervisor import ledger_reading
from supervisor.egress import ledger_schema
from supervisor.egress.ledger import LedgerError, open_ledger
from supervisor.egress.periods import periods_at
from supervisor.egress.till import Estimate
from supervisor.ledger_check import Reconciled, reconcile
from supervisor.ledger_reading import open_ledger as read_ledger
from supervisor.ledger_reading import rebuild_totals
from tests.supervisor.egress.tilling import BILLING, MODEL, Clock, reading, rows, till_over

SMALL = Estimate(10, 20)


def run(db: apsw.Connection, statement: str) -> None:
    db.execute(statement)


async def spend(directory: Path, clock: Clock, count: int = 3) -> None:
    async with till_over(directory, clock) as till:
        for number in range(count):
            reservation = await till.reserve("acme", MODEL, SMALL)
            await till.settle(reservation, Spent(input=number, output=1), tool_calls=1)
            clock.now += 3_600_000
        till.ran(Ran(tenant="globex", sandbox_id="s", mode="docker", wall_ms=10, cpu_ms=5))


def checked(directory: Path, now_ms: int = 0) -> Reconciled:
    with reading(directory) as db:
        return reconcile(db, now_ms)


def tamper(directory: Path, *statements: str) -> None:
    db = apsw.Connection(str(directory / ledger_schema.NAME))
    for statement in statements:
        db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET cost_micro_usd = 0",
        "DELETE FROM entries WHERE id = 1",
        "REPLACE INTO entries SELECT * FROM entries WHERE id = 1",
        "UPDATE OR REPLACE entries SET id = 1 WHERE id = 2",
        "UPDATE cards SET body = '{}'",
        "DELETE FROM cards",
    ],
)
async def test_rows_are_only_ever_added(tmp_path: Path, statement: str) -> None:
    await spend(tmp_path, Clock())
    ledger = await open_ledger(tmp_path)
    try:
        with pytest.raises(apsw.ConstraintError, match="only ever added"):
            await ledger.write(partial(run, statement=statement))
    finally:
        ledger.close()
    assert len(rows(tmp_path)) == 4
    assert checked(tmp_path).found == 0


async def test_totals_are_what_the_rows_come_to_and_can_be_made_anew(tmp_path: Path) -> None:
    await spend(tmp_path, Clock("2026-11-30T22:00:00"))
    with reading(tmp_path) as db:
        days = list(ledger_reading.totals(db, "day", tenant="acme"))
        months = list(ledger_reading.totals(db, "month", first="2026-12", last="2026-12"))
        everything = list(db.execute("SELECT * FROM totals ORDER BY 1, 2, 3"))
    assert [(day.period, day.entries, day.cost_micro_usd, day.tool_calls) for day in days] == [
        ("2026-11-30", 2, 5, 2),
        ("2026-12-01", 1, 4, 1),
    ]
    assert [(month.tenant, month.period, month.wall_ms) for month in months] == [
        ("acme", "2026-12", 0),
        ("globex", "2026-12", 10),
    ]
    tamper(tmp_path, "UPDATE totals SET entries = 9 WHERE period = '2026-12-01'", "DELETE FROM "
           "totals WHERE per = 'month' AND tenant = 'globex'")  # fmt: skip
    assert [finding.split(": ")[2] for finding in checked(tmp_path).findings] == [
        "tenant acme, per day, period 2026-12-01, kind model, provider fake, model m",
        "tenant globex, per day, period 2026-12-01, kind sandbox, provider docker, model ",
        "tenant globex, per month, period 2026-12, kind sandbox, provider docker, model ",
    ]
    assert rebuild_totals(tmp_path) == len(everything)
    assert checked(tmp_path).found == 0
    with reading(tmp_path) as db:
        assert list(db.execute("SELECT * FROM totals ORDER BY 1, 2, 3")) == everything


@pytest.mark.parametrize(
    ("statements", "finding"),
    [
        (
            ("DROP TRIGGER entries_are_kept", "DELETE FROM entries WHERE id = 2"),
            "entries: between 1 and 3 some are missing",
        ),
        (
            ("DROP TRIGGER entries_are_final", "UPDATE entries SET cost_micro_usd = 1 WHERE id=3"),
            "entries: 3 costs 1 micro-USD, by its card 4",
        ),
        (
            ("DROP TRIGGER entries_are_final", "UPDATE entries SET wall_ms = 10000 WHERE id = 4"),
            "totals: not what the rows come to: tenant globex, per day, ",
        ),
        (
            ("DROP TRIGGER cards_are_final", "UPDATE cards SET body = '{}'"),
            " says something else than it did",
        ),
        (
            ("DROP TRIGGER cards_are_final", "UPDATE cards SET body = 'none'"),
            " cannot be read",
        ),
        (("UPDATE entries SET card = 7 WHERE id = 1",), "row 1 names what is not in cards"),
        (
            ("INSERT INTO reservations VALUES (7, 'acme', 'model', 'p', 'm', 1, 2, 3, 4)",),
            "reservations: 7 of acme has outlived its lease",
        ),
        (("DROP TRIGGER entries_are_kept",), "schema: the trigger entries_are_kept is not there"),
    ],
)
async def test_what_does_not_hold_is_found(
    tmp_path: Path, statements: tuple[str, ...], finding: str
) -> None:
    await spend(tmp_path, Clock())
    if "SET card" in statements[0]:
        statements = ("PRAGMA foreign_keys=OFF", "DROP TRIGGER entries_are_final", *statements)
    tamper(tmp_path, *statements)
    result = checked(tmp_path, now_ms=10)
    assert result.found == len(result.findings) > 0
    assert any(finding in each for each in result.findings), result.findings


async def test_it_is_read_while_it_is_written(tmp_path: Path) -> None:
    clock = Clock()
    async with till_over(tmp_path, clock) as till:
        await till.settle(await till.reserve("acme", MODEL, SMALL), Spent(input=1))
        under_way = await till.reserve("acme", MODEL, SMALL)
        with reading(tmp_path) as db:
            first = ledger_reading.entries(db)
            assert next(first).input_tokens == 1
            await till.settle(under_way, Spent(input=2))
            assert list(first) == []  # a report is of one moment
        result = checked(tmp_path, clock.now)
        assert (result.found, result.entries, result.cost_micro_usd) == (0, 2, 3)


async def test_rows_of_a_tenant_a_time_and_a_kind(tmp_path: Path) -> None:
    clock = Clock()
    start = clock.now
    await spend(tmp_path, clock)
    assert [row.input_tokens for row in rows(tmp_path, tenant="acme")] == [0, 1, 2]
    span = rows(tmp_path, since_ms=start + 1, until_ms=start + 7_200_000)
    assert [row.input_tokens for row in span] == [1]
    assert [row.tenant for row in rows(tmp_path, kinds=("sandbox", "egress"))] == ["globex"]
    assert [row.id for row in rows(tmp_path)] == [1, 2, 3, 4]
    with reading(tmp_path) as db:
        (text,) = {text for (text,) in db.execute("SELECT body FROM cards")}
    assert json.loads(text)["rate_card"]["m"]["input"] == BILLING.rate_card["m"].input


def test_where_nothing_was_spent_there_is_no_ledger(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) is None


async def test_a_ledger_that_is_none_or_newer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ledger_schema.NAME
    path.write_bytes(b"no database, but long enough to look like one" * 100)
    with pytest.raises(LedgerError, match="cannot be opened"):
        await open_ledger(tmp_path)
    with pytest.raises(ledger_reading.LedgerError, match="cannot be read"):
        read_ledger(tmp_path)
    path.unlink()
    (await open_ledger(tmp_path)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    tamper(tmp_path, f"PRAGMA user_version={ledger_schema.SCHEMA_VERSION + 1}")
    with pytest.raises(LedgerError, match="this version knows"):
        await open_ledger(tmp_path)
    with pytest.raises(ledger_reading.LedgerError, match="this version knows"):
        read_ledger(tmp_path)


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (await open_ledger(tmp_path / "elsewhere")).close()
    (tmp_path / ledger_schema.NAME).symlink_to(tmp_path / "elsewhere" / ledger_schema.NAME)
    with pytest.raises(ledger_reading.LedgerError):
        read_ledger(tmp_path)


@given(st.integers(0, 4_102_444_800_000))
@settings(max_examples=50)
def test_sql_has_the_same_periods(at_ms: int) -> None:
    db = apsw.Connection(":memory:")
    made = db.execute(
        "SELECT strftime('%Y-%m-%d', ?1 / 1000, 'unixepoch'), "
        "strftime('%Y-%m', ?1 / 1000, 'unixepoch')",
        (at_ms,),
    ).get
    assert made == periods_at(at_ms)
