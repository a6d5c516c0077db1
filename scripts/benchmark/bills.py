"""`openclaw billing report --csv` of a million rows against reading the same rows and no more."""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.supervisor.egress import written_ledger

ROWS: Final = {"few": 10_000, "many": 1_000_000}
"""How many each of two tenants has, within a month."""
MONTH: Final = 1_793_491_200_000  # 2026-11-01
OPENCLAW: Final = str(Path(sys.executable).with_name("openclaw"))
BASELINE: Final = """
import sys, apsw
db = apsw.Connection(sys.argv[1], flags=apsw.SQLITE_OPEN_READONLY)
for row in db.execute("SELECT * FROM entries WHERE tenant = 'many' ORDER BY at, id"):
    pass
"""


class Run(NamedTuple):
    """A program, from its start to its end."""

    seconds: float
    resident_mb: float


def figures(rounds: int) -> dict[str, Any]:
    """Measure in turn, each as a process of its own."""
    with tempfile.TemporaryDirectory(prefix="openclaw-bench-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        ledger = root / "ledger"
        ledger.mkdir(mode=0o700)
        file = ledger / "ledger.sqlite"
        with closing(written_ledger.open_ledger(file)) as db:
            # In parts: what this process has in memory would be counted as its children's.
            for rows in (part for each in ROWS.items() for part in _batched(_rows(*each))):
                written_ledger.write(db, *rows)
            written_ledger.sum_up(db)
        found: dict[str, list[Run]] = {}
        for _ in range(rounds):
            for tenant in ROWS:
                report = [OPENCLAW, "billing", "report", tenant, "--period", "2026-11", "--csv"]
                found.setdefault(tenant, []).append(_run(root, report))
            found.setdefault("baseline", []).append(
                _run(root, [sys.executable, "-c", BASELINE, str(file)])
            )
    ratios = zip(found["many"], found["baseline"], strict=True)
    return {name: _median(runs) for name, runs in found.items()} | {
        "rows": ROWS,
        "ratio": round(statistics.median(ours.seconds / bare.seconds for ours, bare in ratios), 2),
    }


def _batched(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Give them in parts."""
    while part := list(itertools.islice(rows, 10_000)):
        yield part


def _rows(tenant: str, count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {
            "tenant": tenant,
            "at": MONTH + number * 2_500,
            "input_tokens": 1000 + number % 977,
            "cache_read_tokens": number % 300,
            "output_tokens": number % 500,
            "tool_calls": number % 3,
            "cost_micro_usd": number * 7 % 1_000_000,
            "request_id": f"chatcmpl-{number:032x}",
            "run_id": f"{number:08x}-0000-4000-8000-000000000000",
            "session_key": f"agent:main:whatsapp:default:direct:+49{number % 1000}",
        }


def _run(root: Path, command: list[str]) -> Run:
    began = time.perf_counter()
    with (root / "out").open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OPENCLAW_STATE_DIR": str(root)},
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[1:4]} ended with {process.returncode}")
    return Run(time.perf_counter() - began, used.ru_maxrss / 1024)


def _median(runs: list[Run]) -> dict[str, float]:
    return {
        "seconds": round(statistics.median(run.seconds for run in runs), 2),
        "resident_mb": round(max(run.resident_mb for run in runs), 1),
    }
