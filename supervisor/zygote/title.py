"""What ps shows of a process that was exec'd without an environment.

setproctitle finds the arguments' memory by way of the environment that lies behind it, and does
nothing where there is none. The kernel tells where they lie: proc(5), /proc/pid/stat, fields 48
(arg_start) and 49 (arg_end).
"""

import ctypes
import functools
from pathlib import Path
from typing import Final

from supervisor.zygote import linux

_PR_SET_NAME: Final = 15
_NAME_BYTES_MAX: Final = 15
# A worker's is the longest: a tenant id has up to 40 characters.
TITLE_BYTES_MAX: Final = len("openclaw: worker ") + 40
# To be an argument of a process that sets its title: the title can be no longer than they are.
ROOM: Final = "-" * TITLE_BYTES_MAX


@functools.cache
def _arguments() -> tuple[int, int]:
    stat = Path("/proc/self/stat").read_bytes()
    # The name, in parentheses, is the second field and may hold anything.
    fields = stat.rpartition(b")")[2].split()
    return int(fields[48 - 3]), int(fields[49 - 3])


def set_title(text: str) -> None:
    """Make ps show `text`; cut to what the process's arguments have room for.

    Raises:
        OSError: at the first call, if there is no /proc; a forked child needs none after it.
    """
    start, end = _arguments()
    title = text.encode(errors="replace")[: end - start - 1]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, title, len(title))
    name = ctypes.create_string_buffer(title[:_NAME_BYTES_MAX])
    linux.prctl(_PR_SET_NAME, ctypes.addressof(name))
