"""Reports and sums against what Python makes of the same rows."""

import csv
import io
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import apsw
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.moments import rfc3339
from protocol.periods import DAY_MS, Period, day_of
from protocol.usage import BillRow, Use
from supervisor.bills import COLUMNS, HEADER, Bills, Mark, _cell, cell
from supervisor.ledger_reading import open_ledger
from tests.supervisor.egress import written_ledger
from tests.supervisor.egress.written_ledger import CARD, PLAIN, add, write

EVER = Period(0, 2**52)
MONTH = 1_793_491_200_000  # 2026-11-01
CLASSES = ("input", "cache_read", "cache_write", "output", "reasoning")
amounts = st.integers(0, 2**40)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["=1+1", "+49", "-1", "@x", "\t=1", "\r", "\n", "a,b", 'say "hi"', "a\0,b", "\0", "chatcmpl-1"]
)
rows = st.fixed_dictionaries(
    {
        "at": st.integers(MONTH, MONTH + 3 * DAY_MS) | st.integers(0, 2**42),
        "tenant": st.sampled_from(["acme", "globex"]),
        "kind": st.sampled_from(["model", "embedding", "sandbox", "egress"]),
        "provider": st.sampled_from(["openai", "fetch"]) | texts,
        "model": st.sampled_from(["gpt-4o", "local/x:1"]) | texts,
        **{f"{name}_tokens": amounts for name in CLASSES},
        **dict.fromkeys(("tool_calls", "wall_ms", "cpu_ms", "bytes", "cost_micro_usd"), amounts),
        "estimated": st.integers(0, 1),
        "own_key": st.integers(0, 1),
        "request_id": texts,
        "run_id": st.none() | texts,
        "session_key": st.none() | texts,
    }
)


class Written:
    """A ledger, and what Python knows of its rows."""

    def __init__(self, directory: Path, *written: dict[str, Any]) -> None:
        (directory / "ledger.sqlite").unlink(missing_ok=True)
        self.db = written_ledger.open_ledger(directory / "ledger.sqlite")
        add(self.db, *written)
        self.rows = [{"id": number, **PLAIN, **row} for number, row in enumerate(written, 1)]
        reading = open_ledger(directory)
        assert reading is not None
        self._reading = reading
        self.bills = Bills(reading)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reading.close()
        self.db.close()

    def of(self, tenant: str, period: Period = EVER) -> list[dict[str, Any]]:
        mine = [
            row
            for row in self.rows
            if row["tenant"] == tenant and period.start_ms <= row["at"] < period.end_ms
        ]
        return sorted(mine, key=lambda row: (row["at"], row["id"]))


def guarded(text: str | None) -> str:
    """A text as it stands in the CSV once that has been read."""
    return f"'{text}" if text and text[0] in "=+-@\t\r\n" else text or ""


def as_csv(row: dict[str, Any]) -> dict[str, str]:
    return {
        "timestamp": rfc3339(row["at"]),
        "tenant_id": row["tenant"],
        "kind": row["kind"],
        "provider": guarded(row["provider"]),
        "model": guarded(row["model"]),
        **{f"{name}_tokens": str(row[f"{name}_tokens"]) for name in CLASSES},
        "tool_calls": str(row["tool_calls"]),
        "egress_bytes": str(row["bytes"]),
        "estimated": str(bool(row["estimated"])).lower(),
        "own_key": str(bool(row["own_key"])).lower(),
        **{name: guarded(row[name]) for name in ("request_id", "run_id", "session_key")},
        "rate_card": CARD,
        "entry_id": str(row["id"]),
    }


ANY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@ANY
@given(written=st.lists(rows, max_size=12))
def test_the_csv_says_what_the_rows_say_and_no_spreadsheet_runs_it(
    state_dir: Path, written: list[dict[str, Any]]
) -> None:
    with Written(state_dir, *written) as ledger:
        for tenant in ("acme", "globex"):
            lines = [line for page in ledger.bills.pages("csv", tenant, EVER) for line in page]
            text = "".join(f"{line}\r\n" for line in (HEADER, *lines))
            read = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
            assert len(read) == len(ledger.of(tenant))
            for said, row in zip(read, ledger.of(tenant), strict=True):
                money, wall, cpu = (
                    said.pop(name)
                    for name in ("cost_usd", "sandbox_seconds", "sandbox_cpu_seconds")
                )
                assert said == as_csv(row)
                assert Decimal(money) * 1_000_000 == row["cost_micro_usd"]
                assert len(money.partition(".")[2]) == 6
                assert [Decimal(wall) * 1000, Decimal(cpu) * 1000] == [
                    row["wall_ms"],
                    row["cpu_ms"],
                ]
                assert not any(value[:1] in tuple("=+-@\t\r\n") for value in said.values() if value)


@ANY
@given(written=st.lists(rows, max_size=12))
def test_the_json_says_what_the_rows_say(state_dir: Path, written: list[dict[str, Any]]) -> None:
    with Written(state_dir, *written) as ledger:
        lines = [line for page in ledger.bills.pages("json", "acme", EVER) for line in page]
        read = [msgspec.json.decode(line, type=BillRow) for line in lines]
        assert read == [
            BillRow(
                timestamp=rfc3339(row["at"]),
                entry_id=row["id"],
                tenant_id=row["tenant"],
                kind=row["kind"],
                provider=row["provider"],
                model=row["model"],
                **{f"{name}_tokens": row[f"{name}_tokens"] for name in CLASSES},
                tool_calls=row["tool_calls"],
                sandbox_wall_ms=row["wall_ms"],
                sandbox_cpu_ms=row["cpu_ms"],
                egress_bytes=row["bytes"],
                cost_micro_usd=row["cost_micro_usd"],
                estimated=bool(row["estimated"]),
                own_key=bool(row["own_key"]),
                rate_card=CARD,
                request_id=row["request_id"],
                run_id=row["run_id"],
                session_key=row["session_key"],
            )
            for row in ledger.of("acme")
        ]
        assert all(set(msgspec.json.decode(line)) <= set(wire_names()) for line in lines)


def wire_names() -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(BillRow)]


def use_of(of: list[dict[str, Any]]) -> Use:
    models = [row for row in of if row["kind"] in ("model", "embedding")]
    tokens = {f"{name}_tokens": sum(row[f"{name}_tokens"] for row in of) for name in CLASSES}
    return Use(
        calls=len(models),
        **tokens,
        total_tokens=sum(tokens.values()),
        tool_calls=sum(row["tool_calls"] for row in of),
        sandbox_wall_ms=sum(row["wall_ms"] for row in of),
        sandbox_cpu_ms=sum(row["cpu_ms"] for row in of),
        egress_bytes=sum(row["bytes"] for row in of),
        estimated_calls=sum(row["estimated"] for row in of),
        cost_micro_usd=sum(row["cost_micro_usd"] for row in of),
    )


@ANY
@given(written=st.lists(rows, max_size=20))
def test_sums_are_those_of_the_rows(state_dir: Path, written: list[dict[str, Any]]) -> None:
    with Written(state_dir, *written) as ledger:
        first, last = day_of(MONTH), day_of(MONTH + DAY_MS)
        period = Period(MONTH, MONTH + 2 * DAY_MS)
        by_day: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for row in ledger.of("acme", period):
            by_day[day_of(row["at"]), row["kind"], row["provider"], row["model"]].append(row)
        totals = ledger.bills.totals(
            "day", first, last, tenant="acme", by=("period", "kind", "provider", "model")
        )
        assert {total.of: total.use for total in totals} == {
            key: use_of(of) for key, of in by_day.items()
        }
        everybody = ledger.bills.totals("month", "1970-01", "9999-12", by=("tenant",))
        assert {total.of[0]: total.use for total in everybody} == {
            tenant: use_of(ledger.of(tenant)) for tenant in ("acme", "globex") if ledger.of(tenant)
        }
        by_model = ledger.bills.by_model("acme", period)
        whole = Use()
        for total in by_model:
            whole += total.use
        assert whole == use_of(ledger.of("acme", period))


@ANY
@given(written=st.lists(rows, min_size=1, max_size=20), at_most=st.integers(1, 4))
def test_pages_are_the_whole_whatever_is_added_meanwhile(
    state_dir: Path, written: list[dict[str, Any]], at_most: int
) -> None:
    with Written(state_dir, *written) as ledger:
        whole = [line for page in ledger.bills.pages("csv", "acme", EVER) for line in page]
        newest, found, after = ledger.bills.newest(), list[str](), None
        while True:
            page = ledger.bills.page(
                "csv", "acme", EVER, after=after, newest=newest, at_most=at_most
            )
            found += page.lines
            write(ledger.db, written[0] | {"tenant": "acme"})
            if page.last is None:
                break
            after = page.last
        assert found == whole


def test_a_reader_that_stands_still_keeps_no_log_open(state_dir: Path) -> None:
    with Written(state_dir, *({"at": number} for number in range(3))) as ledger:
        first = ledger.bills.page("csv", "acme", EVER, after=None, newest=3, at_most=1)
        assert first.last == Mark(0, 1)
        add(ledger.db, {"at": 9})
        assert ledger.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall() == [(0, 0, 0)]


def test_nothing_can_be_written(state_dir: Path) -> None:
    with Written(state_dir, {}) as ledger, pytest.raises(apsw.ReadOnlyError):
        ledger.bills._db.execute("DELETE FROM totals")


def test_who_is_known(state_dir: Path) -> None:
    with Written(state_dir, {"at": 5, "tenant": "acme"}) as ledger:
        assert ledger.bills.knows("acme")
        assert not ledger.bills.knows("globex")
        assert ledger.bills.count("acme", Period(0, 5)) == 0
        assert ledger.bills.count("acme", Period(5, 6)) == 1
        assert ledger.bills.newest() == 1


def test_sessions_last_used_first(state_dir: Path) -> None:
    written: list[dict[str, Any]] = [
        {"at": 1, "session_key": "agent:main:a", "input_tokens": 3, "cost_micro_usd": 5},
        {"at": 2, "session_key": "agent:main:b", "output_tokens": 4},
        {"at": 3, "session_key": "agent:main:a", "reasoning_tokens": 2, "cost_micro_usd": 1},
        {"at": 4, "session_key": "agent:main:b", "tenant": "globex"},
        {"at": 5, "session_key": None},
        {"at": 9, "session_key": "agent:main:b"},
    ]
    with Written(state_dir, *written) as ledger:
        found = ledger.bills.sessions("acme", Period(0, 9), key=None, at_most=9)
        assert [(each.key, each.calls, each.first_at, each.last_at) for each in found] == [
            ("agent:main:a", 2, 1, 3),
            ("agent:main:b", 1, 2, 2),
        ]
        assert (found[0].total_tokens, found[0].cost_micro_usd) == (5, 6)
        (only,) = ledger.bills.sessions("acme", Period(0, 99), key="agent:main:b", at_most=9)
        assert (only.calls, only.last_at) == (2, 9)
        assert len(ledger.bills.sessions("acme", Period(0, 99), key=None, at_most=1)) == 1


@given(texts)
def test_a_cell_is_the_same_in_python_and_in_sql(text: str) -> None:
    db = apsw.Connection(":memory:")
    assert db.execute(f"SELECT {_cell('?1')}", (text,)).get == cell(text)


@given(texts)
def test_a_cell_is_one_to_whoever_reads_csv(text: str) -> None:
    read = next(csv.reader(io.StringIO(f"{cell(text)},x\r\n", newline=""), strict=True))
    assert read == [guarded(text), "x"]


def test_the_columns_are_those_that_are_promised() -> None:
    promised = (
        "timestamp,tenant_id,kind,provider,model,input_tokens,cache_read_tokens,"
        "cache_write_tokens,output_tokens,reasoning_tokens,tool_calls,sandbox_seconds,"
        "sandbox_cpu_seconds,egress_bytes,cost_usd,estimated,own_key,request_id,run_id,"
        "session_key,rate_card,entry_id"
    )
    assert promised == HEADER
    page = (Path(__file__).parents[2] / "docs" / "billing.md").read_text()
    assert all(f"`{name}`" in page for name in COLUMNS)
