"""Reserve and settle against one bare commit of the same durability, in turn; reports of a year."""

import asyncio
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import apsw
import uvloop

from protocol.egress import Billing, Price, Settings
from protocol.models import Spent
from protocol.quotas import Quota
from supervisor import ledger_reading
from supervisor.egress import ledger
from supervisor.egress.ledger import Row
from supervisor.egress.ledger_till import LedgerTill, open_till
from supervisor.egress.rates import RateCard
from supervisor.egress.till import Estimate, Purpose
from supervisor.ledger_check import reconcile

PAIRS: Final = {1: 400, 64: 6400}
"""Calls of each round, by how many are under way at a time."""
BARE: Final = 400
ROWS: Final = 1_000_000
BILLING: Final = Billing(rate_card={"m": Price(input=2_500_000, output=10_000_000)})
_CARD: Final = RateCard(BILLING)


def figures(rounds: int) -> dict[str, Any]:
    """Measure, beside each other on the disk that the temporary directory is on."""
    found: dict[str, Any] = {}
    ratios: dict[int, list[float]] = {at_once: [] for at_once in PAIRS}
    pairs: dict[int, list[float]] = {at_once: [] for at_once in PAIRS}
    waits: dict[int, list[float]] = {at_once: [] for at_once in PAIRS}
    commits = []
    for _ in range(rounds):
        for at_once, count in PAIRS.items():
            with tempfile.TemporaryDirectory(prefix="openclaw-bench-") as folder:
                commit = _bare_commit(Path(folder))
                seconds, p50 = uvloop.run(_pairs(Path(folder), at_once, count))
            commits.append(commit)
            pairs[at_once].append(seconds)
            waits[at_once].append(p50)
            ratios[at_once].append((p50 if at_once == 1 else seconds) / commit)
    found["bare_commit_ms"] = round(statistics.median(commits) * 1000, 3)
    for at_once in PAIRS:
        found[f"reserve_and_settle_{at_once}_at_once"] = {
            "ms_each": round(statistics.median(pairs[at_once]) * 1000, 3),
            "p50_ms": round(statistics.median(waits[at_once]) * 1000, 3),
            "ratio": round(statistics.median(ratios[at_once]), 2),
        }
    with tempfile.TemporaryDirectory(prefix="openclaw-bench-") as folder:
        found["ledger"] = _ledger(Path(folder))
    return found


def _bare_commit(folder: Path) -> float:
    """Seconds of one commit of one row, with `synchronous=FULL`: the median."""
    db = apsw.Connection(str(folder / "bare.sqlite"))
    db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, body TEXT)")
    found = []
    for _ in range(BARE):
        began = time.perf_counter()
        with db:
            db.execute("INSERT INTO rows (body) VALUES (?)", ("x" * 200,))
        found.append(time.perf_counter() - began)
    db.close()
    return statistics.median(found)


async def _pairs(folder: Path, at_once: int, count: int) -> tuple[float, float]:
    """Seconds for each call, of all there were; and what each has waited for both, p50."""
    settings = Settings(ledger_directory=str(folder), billing=BILLING, concurrent=1024)
    till = await open_till(settings, lambda _standing: None)
    till.limit("bench", Quota(tokens_per_day=2**50, cost_per_month_micro_usd=2**50))
    waits: list[float] = []
    began = time.perf_counter()
    await asyncio.gather(*(_calls(till, count // at_once, waits) for _ in range(at_once)))
    seconds = (time.perf_counter() - began) / count
    till.close()
    return seconds, statistics.median(waits)


async def _calls(till: LedgerTill, count: int, waits: list[float]) -> None:
    purpose, estimate, spent = Purpose("m", "bench"), Estimate(100, 100), Spent(input=50, output=50)
    for _ in range(count):
        began = time.perf_counter()
        reservation = await till.reserve("bench", purpose, estimate)
        await till.settle(reservation, spent)
        waits.append(time.perf_counter() - began)


def _ledger(folder: Path) -> dict[str, Any]:
    """A ledger of a million rows: read as a whole, checked, its totals made anew."""
    asyncio.run(_fill(folder))
    db = ledger_reading.open_ledger(folder)
    assert db is not None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: dict[str, Any] = {"rows": ROWS}
    steps: dict[str, Callable[[], object]] = {
        "read_seconds": lambda: sum(1 for _ in ledger_reading.entries(db, tenant="bench")),
        "reconcile_seconds": lambda: reconcile(db, 0).found,
        "rebuild_seconds": lambda: ledger_reading.rebuild_totals(folder),
    }
    for name, step in steps.items():
        began = time.perf_counter()
        step()
        found[name] = round(time.perf_counter() - began, 2)
        if name == "read_seconds":
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            found["read_memory_kib"] = after - before
    db.close()
    return found


async def _fill(folder: Path) -> None:
    opened = await ledger.open_ledger(folder)
    chance = random.Random(1)  # noqa: S311 - the same ledger each time
    started_at = 1_764_000_000_000

    def add(db: apsw.Connection, first: int) -> None:
        for number in range(first, first + ROWS // 20):
            inside, out = chance.randrange(4000), chance.randrange(1000)
            row = Row(
                at=started_at + number * 2500,
                tenant="bench",
                kind="model",
                provider="bench",
                model="m",
                input_tokens=inside,
                cache_read_tokens=0,
                cache_write_tokens=0,
                output_tokens=out,
                reasoning_tokens=0,
                tool_calls=0,
                wall_ms=0,
                cpu_ms=0,
                bytes=0,
                cost_micro_usd=_CARD.cost("m", Spent(input=inside, output=out)),
                estimated=False,
                own_key=False,
                request_id=f"req-{number}",
                run_id=None,
                session_key="agent:main:main",
                reservation=number,
            )
            ledger.add(db, row, _CARD.version, _CARD.text)

    for first in range(0, ROWS, ROWS // 20):
        await opened.write(partial(add, first=first))
    opened.close()
