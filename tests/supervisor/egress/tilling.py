"""A till over a real ledger, a clock to set, and what a call is for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw

from protocol.egress import Billing, Price, Settings
from protocol.quotas import Quota, Standing
from supervisor import ledger_reading
from supervisor.egress.ledger_till import LedgerTill, open_till
from supervisor.egress.till import Purpose

MODEL = Purpose("m", "fake")
BILLING = Billing(rate_card={"m": Price(input=1_000_000, output=2_000_000)})
"""A micro-USD for a token that goes in, two for one that comes out."""


def moment(text: str) -> int:
    """Unix ms of a moment of UTC, written as ISO 8601."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


class Clock:
    """A time of day that stands still until it is set."""

    def __init__(self, text: str = "2026-11-14T12:00:00") -> None:
        self.now = moment(text)

    def __call__(self) -> int:
        return self.now

    def set(self, text: str) -> None:
        self.now = moment(text)


@asynccontextmanager
async def till_over(
    directory: Path,
    clock: Callable[[], int],
    told: list[Standing] | None = None,
    *,
    quota: Quota = Quota(),  # noqa: B008 - frozen
    billing: Billing = BILLING,
    **settings: Any,
) -> AsyncIterator[LedgerTill]:
    """A till whose tenants `acme` and `globex` may spend `quota`."""
    decided = Settings(ledger_directory=str(directory), billing=billing, **settings)
    till = await open_till(decided, (told if told is not None else []).append, clock)
    try:
        for tenant in ("acme", "globex"):
            till.limit(tenant, quota)
        yield till
    finally:
        till.close()


def reading(directory: Path) -> closing[apsw.Connection]:
    db = ledger_reading.open_ledger(directory)
    assert db is not None
    return closing(db)


def rows(directory: Path, **which: Any) -> list[ledger_reading.Entry]:
    with reading(directory) as db:
        return list(ledger_reading.entries(db, **which))


def reserved(directory: Path) -> list[tuple[Any, ...]]:
    with reading(directory) as db:
        return list(db.execute("SELECT * FROM reservations ORDER BY id"))


async def turning(holds: Callable[[], bool]) -> None:
    """Let the loop turn until something holds that another thread brings about."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
