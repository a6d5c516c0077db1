"""What requests cost each process: CPU, context switches and page faults, from /proc.

The scheduler counts in ns, whoever else is busy on the machine; so these hold where rates do not.
"""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Fields of /proc/<pid>/stat (proc(5)), counted from the one after the name.
_MINFLT = 7


class Cost(NamedTuple):
    """What processes have used so far: CPU seconds, switches of either kind, minor faults."""

    cpu_s: float
    waits: int
    preemptions: int
    faults: int

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(
            self.cpu_s - other.cpu_s,
            self.waits - other.waits,
            self.preemptions - other.preemptions,
            self.faults - other.faults,
        )

    def per(self, requests: int) -> dict[str, Any]:
        """Give the share of one request, CPU in µs."""
        return {
            "cpu_us": round(self.cpu_s / requests * 1e6, 1),
            "waits": round(self.waits / requests, 3),
            "preemptions": round(self.preemptions / requests, 3),
            "faults": round(self.faults / requests, 4),
        }


def used(pids: Iterable[int]) -> Cost:
    """Give the sum over processes, all threads; those that have ended count for nothing."""
    cpu_s, waits, preemptions, faults = 0.0, 0, 0, 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*"):
            status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
            cpu_s += int((task / "schedstat").read_text().split()[0]) / 1e9
            waits += int(status["voluntary_ctxt_switches"])
            preemptions += int(status["nonvoluntary_ctxt_switches"])
            faults += int((task / "stat").read_text().rpartition(")")[2].split()[_MINFLT])
    return Cost(cpu_s, waits, preemptions, faults)


def medians(rounds: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Give the median over rounds of each figure of each group of processes."""
    return {
        group: {name: statistics.median(one[group][name] for one in rounds) for name in figures}
        for group, figures in rounds[0].items()
    }
