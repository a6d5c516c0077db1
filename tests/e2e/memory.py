"""What is in the memory of a process."""

import contextlib
from pathlib import Path


def holds(pid: int, text: str) -> bool:
    """Look through the memory of a process; only root may."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, permissions, *_, name = [*line.split(), ""]
        if not permissions.startswith("rw") or name.startswith("[v"):
            continue
        begin, end = (int(part, 16) for part in span.split("-"))
        memory = Path(f"/proc/{pid}/mem").open("rb", buffering=0)  # noqa: SIM115 - closed below
        with memory, contextlib.suppress(OSError):
            memory.seek(begin)
            if text.encode() in memory.read(end - begin):
                return True
    return False
