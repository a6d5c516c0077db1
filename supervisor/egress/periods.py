"""Days and months of UTC, as the ledger's totals name them: `2026-11-03`, `2026-11`."""

import time
from functools import lru_cache

from protocol.quotas import DAY_MS


def periods_at(at_ms: int) -> tuple[str, str]:
    """Give the day and the month that a moment, in Unix ms, lies in."""
    return _periods_of(at_ms // DAY_MS)


@lru_cache(maxsize=64)
def _periods_of(day: int) -> tuple[str, str]:
    moment = time.gmtime(day * DAY_MS // 1000)
    month = f"{moment.tm_year:04d}-{moment.tm_mon:02d}"
    return f"{month}-{moment.tm_mday:02d}", month
