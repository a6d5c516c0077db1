"""How a tenant's worker is, as an operator sees it."""

import os
from pathlib import Path
from typing import Final

import msgspec

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
# Fields of /proc/<pid>/stat (proc(5)), counted from the one after the name.
_UTIME, _STIME, _RSS = 11, 12, 21


class TenantStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One tenant's worker. Times are seconds or Unix ms, as their names say."""

    tenant_id: str
    state: str
    reason: str | None = None
    pid: int | None = None
    generation: int | None = None
    uptime_seconds: float | None = None
    deaths: int
    last_death: str | None = None
    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    in_flight: int
    held: int
    next_wake_at_ms: int | None = None


def usage(pid: int) -> tuple[int, float] | None:
    """Give resident bytes and CPU seconds of a process, None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    ticks = int(fields[_UTIME]) + int(fields[_STIME])
    return int(fields[_RSS]) * _PAGE_BYTES, ticks / _TICKS_PER_SECOND
