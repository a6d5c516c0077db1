"""kill -9 of what holds the till, at any moment: the ledger is within the limit and has all of it.

After each kill every call that was said to be settled is there with its cost, the rows come to no
more than the limit, and the next start has released what was reserved.
"""

import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from supervisor import ledger_reading
from supervisor.egress.ledger_till import unix_ms
from supervisor.ledger_check import reconcile
from tests.workers.till_program import NOW_MS

ROOT = Path(__file__).resolve().parents[2]
TOKENS = 4000
"""So much may be spent more in each life: enough to be killed in the middle, or at the limit."""
LINES_MAX = 600


def wrong(state_dir: Path) -> list[str]:
    """What does not hold of a gateway's ledger; calls under way are among it."""
    db = ledger_reading.open_ledger(state_dir / "ledger")
    if db is None:
        return []
    with closing(db):
        result = reconcile(db, unix_ms())
    left = result.open_reservations
    return [*result.findings, *([f"{left} calls are under way"] if left else [])]


class TillKills:
    """See the module.

    Args:
        directory: Of the ledger.
        seed: Of every choice.
        say: Hears of progress.
    """

    def __init__(self, directory: Path, seed: int, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._chance = random.Random(seed)
        self._say = say
        self._settled: dict[int, int] = {}
        self._tokens = 0
        self.broken: list[str] = []
        self.acknowledged = 0
        self.rows = 0
        self.left = 0
        """Reservations that were open when it was killed."""
        self.full = 0
        """How often the limit was reached before."""

    def run(self, cycles: int) -> list[str]:
        """Kill so often; gives what was broken."""
        for cycle in range(1, cycles + 1):
            limit = self._tokens + TOKENS
            self._live(limit)
            self._check(cycle, limit)
            if cycle % 50 == 0:
                self._say(f"{cycle} of {cycles}: {self.rows} rows, {len(self.broken)} broken")
        return self.broken

    def _live(self, tokens: int) -> None:
        """Start it, and kill it after so many of its words."""
        arguments = [str(self._directory), str(tokens), str(self._chance.randrange(2**32))]
        command = [sys.executable, "-m", "tests.workers.till_program", *arguments]
        left = self._chance.randrange(LINES_MAX)
        self._settled.clear()
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    self._hear(line.split())
                    left -= 1
                    if left <= 0:
                        break
            finally:
                process.kill()
            for line in process.stdout:  # said before it was killed
                if line.endswith(b"\n"):
                    self._hear(line.split())

    def _hear(self, words: list[bytes]) -> None:
        match words:
            case [b"s", number, cost]:
                self._settled[int(number)] = int(cost)
                self.acknowledged += 1
            case [b"full"]:
                self.full += 1

    def _check(self, cycle: int, limit: int) -> None:
        db = ledger_reading.open_ledger(self._directory)
        if db is None:
            return  # killed before it had made one
        with closing(db):
            if not db.pragma("user_version"):
                return
            result = reconcile(db, NOW_MS)
            kept = dict(db.execute("SELECT reservation, cost_micro_usd FROM entries"))
            self._tokens = int(
                db.execute("SELECT ifnull(sum(input_tokens + output_tokens), 0) FROM entries").get
            )
            older = db.execute(
                "SELECT count(*) FROM reservations WHERE id <= (SELECT ifnull(max(reservation), 0) "
                "FROM entries WHERE id <= ?)",
                (self.rows,),
            ).get
        self.rows = result.entries
        self.left += result.open_reservations
        self.broken += result.findings
        if self._tokens > limit:
            self.broken.append(f"cycle {cycle}: {self._tokens} tokens of {limit}")
        if older:
            self.broken.append(f"cycle {cycle}: {older} reservations of an earlier life")
        for number, cost in self._settled.items():
            if kept.get(number) != cost:
                self.broken.append(f"cycle {cycle}: {number} cost {cost}, says {kept.get(number)}")
