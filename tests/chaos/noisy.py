"""A tenant that goes wild, in its sandboxes and in its worker, beside one that works on.

Each `Act` is one way to take what there is. While it goes on, the other tenant's calls are measured
against those of a quiet window just before; afterwards it is looked at what the wild one was told,
or what its operator reads.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests import cgroups
from tests.e2e.gateway import STOP_SECONDS
from tests.workers.crowd import WAIT_SECONDS, Crowd, Neighbour

PROGRAM: Final = str(Path(__file__).with_name("poke.py"))
MIB: Final = 2**20
CONFIG: Final = {
    "caps": {
        "cgroup": cgroups.SETTING,
        "memory_bytes": 256 * MIB,
        "pids": 128,
        "disk_bytes": 64 * MIB,
        "disk_floor_bytes": 0,
    },
    "sandbox": {
        "memory_bytes": 64 * MIB,
        "pids": 32,
        "file_bytes": 16 * MIB,
        "concurrent": 2,
        "queued": 4,
    },
    "worker": {"memory_bytes": 192 * MIB},
}
WILD, CALM = "wild", "calm"
RUN_MS: Final = 700
REFUSALS: Final = frozenset({"200", "429", "503"})
STOPPED: Final = frozenset({"200", "403", "429", "503", "507"})

BOMB: Final = """
import os
while True:
    try:
        os.fork()
    except BlockingIOError:
        pass
"""
BALLOON: Final = "kept = [bytearray(b'x' * 2**20) for _ in range(512)]"
SPIN: Final = """
import os
for _ in range(3):
    os.fork()
while True:
    pass
"""
DESCRIPTORS: Final = """
import os
try:
    while True:
        os.dup(1)
except OSError as error:
    os.write(2, error.strerror.encode())
"""
FILL: Final = """
for number in range(16):
    with open(f'/work/{number}', 'wb') as file:
        for _ in range(16):
            file.write(bytes(2**20))
"""
FLOOD: Final = """
import os
while True:
    os.write(1, b'flood' * 10000)
    os.write(2, b'flood' * 10000)
"""
DEAF: Final = """
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
while True:
    time.sleep(60)
"""


class Seen(NamedTuple):
    """What came of an act.

    Attributes:
        counts: How often the client was answered with each status.
        answers: The last ones.
        row: What `tenants status` says.
        log: What the gateway's log says of the tenant.
    """

    counts: dict[str, int]
    answers: list[dict[str, Any]]
    row: dict[str, Any]
    log: list[dict[str, Any]]

    def results(self) -> list[dict[str, Any]]:
        """Give those that are no errors."""
        return [answer["result"] for answer in self.answers if "result" in answer]


class Act(NamedTuple):
    """A way to go wild.

    Attributes:
        tenant: Whose id says how its worker behaves.
        method: What its client calls again and again.
        params: With what.
        is_told: Whether it was reported as what it was.
        waits: It goes on until an operator can read that.
        connections: How many clients it has.
    """

    tenant: str
    method: str
    params: Mapping[str, Any]
    is_told: Callable[[Seen], bool]
    waits: bool = False
    connections: int = 2


def sandboxed(
    program: str, is_told: Callable[[Seen], bool], *, connections: int = 2, seconds: bool = True
) -> Act:
    """Give an act in a sandbox."""
    params: dict[str, Any] = {"argv": ["python3", "-c", program]}
    if seconds:
        params["timeoutMs"] = RUN_MS
    return Act(WILD, "sandbox.run", params, is_told, connections=connections)


def works(behaviour: str, is_told: Callable[[Seen], bool]) -> Act:
    """Give an act of a worker itself, which an operator reads of."""
    return Act(f"always-{behaviour}", "health", {}, is_told, waits=True)


def some(what: Callable[[dict[str, Any]], bool]) -> Callable[[Seen], bool]:
    """Say that a run ended like this."""
    return lambda seen: any(what(result) for result in seen.results())


def died(words: str) -> Callable[[Seen], bool]:
    """Say that the operator reads this of a worker's death."""
    return lambda seen: words in seen.row.get("lastDeath", "")


def logged(words: str) -> Callable[[Seen], bool]:
    """Say that the log has this of the tenant."""
    return lambda seen: any(words in json.dumps(line) for line in seen.log)


def out_of_memory(ran: dict[str, Any]) -> bool:
    """Say that a run ended for want of memory, by whatever holds it here."""
    return bool(ran["oomKilled"]) or "MemoryError" in ran["stderr"]


def over_its_disk(seen: Seen) -> bool:
    """Say that the tenant is stopped, and for its disk."""
    return "disk" in seen.row.get("stopped", "")


ACTS: Final[dict[str, Act]] = {
    "sandbox: fork bomb": sandboxed(BOMB, some(lambda ran: ran["timedOut"])),
    "sandbox: memory balloon": sandboxed(BALLOON, some(out_of_memory), seconds=False),
    "sandbox: CPU spin": sandboxed(SPIN, some(lambda ran: ran["timedOut"])),
    "sandbox: descriptors": sandboxed(
        DESCRIPTORS, some(lambda ran: "Too many open files" in ran["stderr"])
    ),
    "sandbox: log flood": sandboxed(FLOOD, some(lambda ran: ran["truncated"] and ran["timedOut"])),
    "sandbox: blocked": sandboxed(DEAF, some(lambda ran: ran["timedOut"])),
    "sandbox: launch flood": sandboxed(
        "", lambda seen: len(seen.counts) > 0 and seen.counts.keys() <= REFUSALS, connections=24
    ),
    "worker: CPU spin": works("spins", lambda seen: seen.row["deaths"] == 0),
    "worker: memory balloon": works("leaks", died("memory limit")),
    "worker: fork bomb": works("forks", logged("PermissionError")),
    "worker: descriptors": works("opens", logged("Too many open files")),
    "worker: log flood": works("floods-its-log", logged("output lost")),
    "worker: blocked loop": works("blocks", died("pings were not answered")),
    "worker: disk fill": works("fills", over_its_disk),
    # Last: it is the whole tenant that is stopped.
    "sandbox: disk fill": sandboxed(FILL, over_its_disk, seconds=False)._replace(waits=True),
}


class Measured(NamedTuple):
    """One act: the calm tenant's calls in quiet and in noise, p99 by the window, in ms."""

    quiet: list[float]
    noisy: list[float]

    @property
    def ratio(self) -> float:
        """Of noise to quiet: the median of all windows."""
        return statistics.median(
            loud / still for loud, still in zip(self.noisy, self.quiet, strict=True)
        )


class Noisy:
    """A gateway in which tenants go wild one after the other, and a calm one.

    Args:
        gateway: Theirs, with `CONFIG`.
        say: Told of each act in a line.
        measures: Whether there are windows of quiet too, to compare with.
    """

    def __init__(
        self, gateway: Crowd, say: Callable[[str], None], *, measures: bool = True
    ) -> None:
        self._gateway = gateway
        self._measures = measures
        self._say = say
        tenants = {CALM, *(act.tenant for act in ACTS.values())}
        self._tokens = {tenant: gateway.create(tenant) for tenant in sorted(tenants)}
        self.broken: list[str] = []
        self.measured: dict[str, Measured] = {}

    def run(self, rounds: int, calls: int, acts: Mapping[str, Act] = ACTS) -> None:
        """Let each act go on for so many windows of so many calls of the calm tenant, or longer."""
        with Neighbour(self._gateway, self._tokens[CALM]) as calm:
            _window(calm, calls)
            for name, act in acts.items():
                self._act(name, act, calm, rounds, calls)
        row = self._gateway.status(CALM)
        if (row["state"], row["deaths"]) != ("ready", 0):
            self.broken.append(f"the calm tenant's worker: {row}")

    def _act(self, name: str, act: Act, calm: Neighbour, rounds: int, calls: int) -> None:
        failed, quiet, noisy = len(calm.failures), [], []
        for _ in range(rounds):
            self._set(act.tenant, "suspend")
            if self._measures:
                quiet.append(_window(calm, calls))
            self._set(act.tenant, "resume")
            with self._poked(act) as answers:
                noisy.append(_window(calm, calls))
                self._wait_until_told(act)
        new = calm.failures[failed:]
        if new:
            self.broken.append(f"{name}: {len(new)} calls of the calm tenant failed: {new[0]}")
        seen = self._seen(act, answers[0], answers[1:])
        if not act.is_told(seen):
            self.broken.append(
                f"{name}: not told as what it was: {seen._replace(log=seen.log[-3:])}"
            )
        self._set(act.tenant, "suspend")
        if self._measures:
            self.measured[name] = Measured(quiet, noisy)
        self._say(f"{name}: p99 {quiet} ms in quiet, {noisy} in noise; {seen.counts}")

    def _seen(self, act: Act, counts: dict[str, int], answers: list[dict[str, Any]]) -> Seen:
        row, log = self._gateway.status(act.tenant), self._gateway.log_of(act.tenant)
        return Seen(counts, answers, row, log)

    def _wait_until_told(self, act: Act) -> None:
        deadline, wait = time.monotonic() + WAIT_SECONDS, threading.Event()
        while act.waits and not act.is_told(self._seen(act, {}, [])):
            if time.monotonic() > deadline:
                return  # which is told below
            wait.wait(0.1)

    def _set(self, tenant: str, change: str) -> None:
        reply = self._gateway.control("POST", f"/v1/tenants/{tenant}/{change}")
        assert reply.status == 200, reply.body

    @contextlib.contextmanager
    def _poked(self, act: Act) -> Iterator[list[Any]]:
        """Have the tenant's clients call; gives what they were answered when the block is over."""
        settings = {
            "address": self._gateway.address,
            "token": self._tokens[act.tenant],
            "method": act.method,
            "params": act.params,
            "connections": act.connections,
        }
        answers: list[Any] = []
        with subprocess.Popen(
            [sys.executable, PROGRAM, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield answers
                said, _ = process.communicate(timeout=STOP_SECONDS)
                answers.extend(json.loads(line) for line in said.splitlines())
            finally:
                process.kill()

    def figures(self) -> dict[str, object]:
        """Give what was measured, by name."""
        found: dict[str, object] = {
            name: f"p99 {statistics.median(one.quiet):.2f} ms in quiet, "
            f"{statistics.median(one.noisy):.2f} in noise: {one.ratio:.2f} x"
            for name, one in self.measured.items()
        }
        found["all, median"] = round(
            statistics.median(one.ratio for one in self.measured.values()), 2
        )
        found["cgroups"] = cgroups.refusal() or "yes"
        return found


def _window(calm: Neighbour, calls: int) -> float:
    """Wait for so many calls; gives their p99, ms."""
    first, wait = len(calm.seconds), threading.Event()
    while len(calm.seconds) < first + calls and calm.is_alive() and len(calm.failures) < calls:
        wait.wait(0.01)
    ordered = sorted(calm.seconds[first : first + calls])
    return round(ordered[len(ordered) * 99 // 100] * 1000, 2)
