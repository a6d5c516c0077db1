"""`openclaw billing` as a shell starts it, on a ledger that a till has written."""

import csv
import io
import json
import os
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest

from protocol.models import Spent
from supervisor.egress.till import Estimate, Purpose
from tests.cli.command import Command
from tests.supervisor.egress.tilling import Clock, till_over

LEDGER_UID = 4242
"""As root the ledger is another's, as in a gateway."""


@pytest.fixture
async def billed(openclaw: Command) -> Command:
    """A state directory in which two tenants have called models on two days."""
    directory = openclaw.state_dir / "ledger"
    openclaw.state_dir.mkdir(mode=0o755)
    directory.mkdir(mode=0o700)
    clock = Clock("2026-11-03T23:59:59.123")
    async with till_over(directory, clock) as till:
        for tenant, day in (("acme", 3), ("acme", 4), ("globex", 4)):
            clock.set(f"2026-11-{day:02}T23:59:59.123")
            purpose = Purpose("m", "fake", "run-1", '=cmd|"x"')
            held = await till.reserve(tenant, purpose, Estimate(100, 100))
            await till.settle(held, Spent(input=7, output=3), request_id="chatcmpl-1", tool_calls=2)
        owned = Purpose("m", "fake", own_key=True)
        held = await till.reserve("acme", owned, Estimate(100, 100))
        await till.settle(held, Spent(input=1))
    if os.geteuid() == 0:
        for path in (directory, *directory.iterdir()):
            os.chown(path, LEDGER_UID, LEDGER_UID)
    return openclaw


def rows(text: str) -> list[dict[str, str]]:
    assert text.endswith("\n")
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_a_report_has_every_call(billed: Command) -> None:
    said = billed("billing", "report", "acme", "--period", "2026-11", "--csv")
    assert (said.code, said.err) == (0, "openclaw: acme is deleted; these rows stay\n")
    found = rows(said.out)
    assert [(row["timestamp"], row["cost_usd"], row["own_key"]) for row in found] == [
        ("2026-11-03T23:59:59.123Z", "0.000013", "false"),
        ("2026-11-04T23:59:59.123Z", "0.000013", "false"),
        ("2026-11-04T23:59:59.123Z", "0.000000", "true"),
    ]
    assert found[0]["session_key"] == '\'=cmd|"x"'
    assert found[0]["request_id"] == "chatcmpl-1"
    lines = billed("billing", "report", "acme", "--period", "2026-11-03", "--json").out.splitlines()
    (row,) = map(json.loads, lines)
    assert (row["costMicroUsd"], row["inputTokens"], row["toolCalls"]) == (13, 7, 2)
    assert row["sessionKey"] == '=cmd|"x"'
    table = billed("billing", "report", "acme", "--from", "2026-11-04", "--to", "2026-11-04").out
    assert "TOTAL" in table
    assert "0.000013" in table
    from_noon = ("--from", "2026-11-04T12:00:00Z", "--to", "2026-11-05T00:00:00+00:00")
    assert len(rows(billed("billing", "report", "acme", *from_noon, "--csv").out)) == 2


def test_nobody_has_used_anything_today(billed: Command) -> None:
    assert billed("tenants", "create", "acme").code == 0
    said = billed("billing", "report", "acme", "--period", "2026-10", "--csv")
    assert (said.code, said.err, rows(said.out)) == (0, "", [])
    assert billed("tenants", "create", "fresh").code == 0
    assert billed("billing", "report", "fresh", "--json").out == ""
    assert "no tenant nobody" in billed("billing", "report", "nobody").refused()
    assert "tenant: must match" in billed("billing", "report", "No/body").refused()


def test_sums_in_every_form(billed: Command) -> None:
    summary = ("billing", "summary", "--period", "2026-11")
    assert [
        (each["tenantId"], each["calls"], each["costMicroUsd"])
        for each in billed(*summary, "--json").json()
    ] == [
        ("acme", 3, 26),
        ("globex", 1, 13),
    ]
    assert [(row["tenant_id"], row["cost_usd"]) for row in rows(billed(*summary, "--csv").out)] == [
        ("acme", "0.000026"),
        ("globex", "0.000013"),
    ]
    assert billed(*summary).out.splitlines()[-1].split()[:2] == ["TOTAL", "4"]
    assert billed("tenants", "create", "globex").code == 0
    rollup = ("billing", "rollup", "--tenant", "globex", "--period", "2026-11")
    (day,) = billed(*rollup, "--format", "json").json()
    assert (day["date"], day["model"], day["totalTokens"]) == ("2026-11-04", "m", 10)
    (row,) = rows(billed(*rollup, "--format", "csv").out)
    assert (row["date"], row["kind"], row["provider"], row["cost_usd"]) == (
        *("2026-11-04", "model", "fake", "0.000013"),
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("report", "acme", "--period", "soon"), "'--period': 'soon' is no period; there are"),
        (("report", "acme", "--from", "x"), "'--from': 'x' is no moment: 2026-11-03 or"),
        (("report", "acme", "--to", "2026-11-03"), "--to needs --from"),
        (("report", "acme", "--from", "2026-11-03", "--to", "2026-11-01"), "is not after --from"),
        (("report", "acme", "--period", "today", "--from", "2026-11-03"), "exclude each other"),
        (("summary", "--from", "2026-11-03T01:00:00Z", "--to", "2026-11-04"), "whole days"),
        (("rollup", "--tenant", "acme", "--format", "xml"), "'--format'"),
        (("rollup",), "'--tenant'"),
    ],
)
def test_what_cannot_be_told_is_named(
    billed: Command, arguments: tuple[str, ...], sentence: str
) -> None:
    said = billed("billing", *arguments)
    assert (said.code, said.out) == (2, "")
    assert sentence in said.err


def test_without_a_ledger_nothing_looks_like_an_empty_bill(openclaw: Command) -> None:
    for arguments in (("report", "acme", "--csv"), ("summary",), ("reconcile",), ("rebuild",)):
        assert "nothing was ever metered" in openclaw("billing", *arguments).refused()
    assert not openclaw.state_dir.exists()


def test_it_reconciles_until_somebody_lays_hands_on_it(billed: Command) -> None:
    assert "4 rows" in billed("billing", "reconcile").out
    assert billed("billing", "reconcile", "--json").json()["findings"] == []
    ledger = billed.state_dir / "ledger" / "ledger.sqlite"
    with closing(apsw.Connection(str(ledger))) as db:
        db.execute("UPDATE totals SET cost_micro_usd = 1 WHERE tenant = 'globex'")
    said = billed("billing", "reconcile")
    assert said.code == 1
    assert "totals: not what the rows come to" in said.out
    assert "does not reconcile: 2 findings in 4 rows" in said.err
    assert billed("billing", "rebuild").code == 0
    assert billed("billing", "reconcile").code == 0


@pytest.mark.root
def test_root_reads_as_the_owner_and_follows_no_link(billed: Command, state_dir: Path) -> None:
    assert billed("billing", "summary").code == 0
    directory = billed.state_dir / "ledger"
    assert {path.stat().st_uid for path in directory.iterdir()} == {LEDGER_UID}
    secret = state_dir / "secret.sqlite"
    (directory / "ledger.sqlite").rename(secret)
    os.chown(secret, 0, 0)
    secret.chmod(0o600)
    (directory / "ledger.sqlite").symlink_to(secret)
    assert "cannot be read" in billed("billing", "summary").refused()
    for left in directory.glob("ledger.sqlite*"):
        left.unlink()
    os.link(secret, directory / "ledger.sqlite")
    assert "cannot be read" in billed("billing", "summary").refused()


def test_the_default_period_is_this_month(billed: Command) -> None:
    now = datetime.now(UTC)
    month = billed("billing", "summary", "--period", f"{now:%Y-%m}", "--csv").out
    assert billed("billing", "summary", "--csv").out == month
