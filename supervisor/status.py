"""How a tenant's worker is, as an operator sees it: what it uses, and how it died."""

import os
from pathlib import Path
from typing import Final

from protocol.control.shapes import DeathRecord
from supervisor.lifecycle import Death

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
# Fields of /proc/<pid>/stat (proc(5)), counted from the one after the name.
_UTIME, _STIME, _RSS = 11, 12, 21


def usage(pid: int) -> tuple[int, float] | None:
    """Give resident bytes and CPU seconds of a process, None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    ticks = int(fields[_UTIME]) + int(fields[_STIME])
    return int(fields[_RSS]) * _PAGE_BYTES, ticks / _TICKS_PER_SECOND


def death_record(death: Death, age_seconds: float, now_ms: int) -> DeathRecord:
    """Give a death as an operator sees it.

    Args:
        death: Which.
        age_seconds: How long ago it was.
        now_ms: The time of day in Unix ms.
    """
    return DeathRecord(
        at_ms=now_ms - round(age_seconds * 1000),
        generation=death.generation,
        uptime_seconds=round(death.uptime, 3),
        cause=death.cause,
        exit_code=death.exit_code,
        signal=death.signal,
        out_of_memory=death.out_of_memory,
    )
