"""How a tenant's worker is, as an operator sees it."""

import os
from pathlib import Path
from typing import Final

import msgspec

from supervisor.lifecycle import Death

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
# Fields of /proc/<pid>/stat (proc(5)), counted from the one after the name.
_UTIME, _STIME, _RSS = 11, 12, 21


class DeathRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """How one process of a tenant ended. `at_ms` is Unix ms."""

    at_ms: int
    generation: int
    uptime_seconds: float
    cause: str
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False


class TenantStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One tenant's worker. Times are seconds or Unix ms, as their names say."""

    tenant_id: str
    state: str
    reason: str | None = None
    pid: int | None = None
    generation: int | None = None
    uptime_seconds: float | None = None
    restarts: int = 0
    """How often another generation was started after a death, or because an operator asked."""
    deaths: int
    last_death: str | None = None
    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    in_flight: int
    held: int
    next_wake_at_ms: int | None = None
    death_history: tuple[DeathRecord, ...] = ()
    """The last hundred deaths, oldest first; only where one tenant was asked for."""


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


def usage(pid: int) -> tuple[int, float] | None:
    """Give resident bytes and CPU seconds of a process, None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    ticks = int(fields[_UTIME]) + int(fields[_STIME])
    return int(fields[_RSS]) * _PAGE_BYTES, ticks / _TICKS_PER_SECOND
