"""What a process uses of the machine."""

import os
from pathlib import Path
from typing import Final

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
