"""Whether the kernel has been ending processes for want of memory."""

from pathlib import Path
from typing import Final

VMSTAT: Final = Path("/proc/vmstat")


class Memory:
    """Compares the kernel's count of such ends, `oom_kill` in /proc/vmstat (proc(5)), with before.

    The count is the whole system's: it makes it likely, not certain, that a process which was
    killed at that time, and not by us, was one of them.

    Args:
        path: Where the count is read.
    """

    def __init__(self, path: Path = VMSTAT) -> None:
        self._path: Final = path
        self._seen = self._count()

    def look(self) -> None:
        """Forget what was before; called again and again."""
        self._seen = self._count()

    def is_short(self) -> bool:
        """Say whether there was another one since the last `look`."""
        return self._count() > self._seen

    def _count(self) -> int:
        try:
            text = self._path.read_text()
        except OSError:
            return 0
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
        return 0
