"""What one tenant notices of another that takes what it can get, in windows of quiet and noise."""

import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.e2e.gateway import STOP_SECONDS, Gateway
from tests.workers.crowd import Neighbour

PROGRAM = str(Path(__file__).with_name("noise.py"))
NOISY, CALM = "noisy", "calm"


class Volume(NamedTuple):
    """How many connections make each kind of noise."""

    uploads: int = 64
    streams: int = 100
    guesses: int = 300


class Window(NamedTuple):
    """What the calm tenant saw in one window, and what ran meanwhile.

    Attributes:
        seconds: Of each call.
        shares: Of one processor, by process.
    """

    seconds: list[float]
    shares: dict[str, float]

    @property
    def p99_ms(self) -> float:
        ordered = sorted(self.seconds)
        return ordered[len(ordered) * 99 // 100] * 1000


class Fairness:
    """Two tenants of one gateway, of which one is noisy now and then.

    Args:
        gateway: Theirs.
        volume: How noisy.
        say: Told of each window in a line.
    """

    def __init__(self, gateway: Gateway, volume: Volume, say: Callable[[str], None]) -> None:
        self._gateway = gateway
        self._volume = volume
        self._say = say
        self._tokens = {tenant: gateway.create(tenant) for tenant in (NOISY, CALM)}
        for token in self._tokens.values():
            gateway.rpc(token, "health")
        self.quiet: list[Window] = []
        self.noisy: list[Window] = []
        self.done: Counter[str] = Counter()
        """What the noisy tenant was answered."""

    def run(self, rounds: int, calls: int) -> list[str]:
        """Let windows of `calls` calls follow one another; gives what failed for the calm one."""
        with Neighbour(self._gateway, self._tokens[CALM]) as calm:
            self._window(calm, calls, None)
            for number in range(rounds):
                self.quiet.append(self._window(calm, calls, None))
                with self._noise() as noise:
                    self.noisy.append(self._window(calm, calls, noise))
                self._say(
                    f"round {number}: p99 {self.quiet[-1].p99_ms:.2f} ms in quiet,"
                    f" {self.noisy[-1].p99_ms:.2f} in noise, {len(calm.failures)} failed"
                )
        return list(calm.failures)

    @property
    def ratio(self) -> float:
        """The p99 in noise over that in quiet: the median of all rounds."""
        pairs = zip(self.noisy, self.quiet, strict=True)
        return statistics.median(loud.p99_ms / still.p99_ms for loud, still in pairs)

    def figures(self) -> dict[str, object]:
        """Give what was measured, by name."""
        found: dict[str, object] = {"p99 in noise over quiet, median": round(self.ratio, 2)}
        for name, windows in (("quiet", self.quiet), ("noise", self.noisy)):
            p99 = statistics.median(window.p99_ms for window in windows)
            p50 = statistics.median(statistics.median(window.seconds) for window in windows)
            found[name] = f"p50 {p50 * 1000:.2f}, p99 {p99:.2f} ms"
            names = windows[-1].shares
            found[f"processor, {name}"] = ", ".join(
                f"{each} {statistics.median(w.shares.get(each, 0.0) for w in windows):.2f}"
                for each in names
            )
        found["the noisy one"] = dict(sorted(self.done.items()))
        return found

    def _window(self, calm: Neighbour, calls: int, noise: "subprocess.Popen[str] | None") -> Window:
        watched = {
            title.removeprefix("openclaw: "): process
            for title, process in self._gateway.processes().items()
        }
        watched["client"] = psutil.Process()
        if noise is not None:
            watched["noise"] = psutil.Process(noise.pid)
        before, started = _cpu(watched), time.monotonic()
        first = len(calm.seconds)
        wait = threading.Event()
        while len(calm.seconds) < first + calls and calm.is_alive() and len(calm.failures) < calls:
            wait.wait(0.01)
        elapsed = time.monotonic() - started
        after = _cpu(watched)
        shares = {name: (after[name] - before[name]) / elapsed for name in after if name in before}
        return Window(calm.seconds[first : first + calls], shares)

    @contextlib.contextmanager
    def _noise(self) -> "Iterator[subprocess.Popen[str]]":
        host, port = self._gateway.address.split(":")
        settings: dict[str, Any] = {"host": host, "port": int(port), "tenant": NOISY}
        settings |= {"token": self._tokens[NOISY], **self._volume._asdict()}
        with subprocess.Popen(
            [sys.executable, PROGRAM, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == "ready\n"
                yield process
                said, _ = process.communicate(timeout=STOP_SECONDS)
                self.done.update(json.loads(said))
            finally:
                process.kill()


def _cpu(processes: dict[str, psutil.Process]) -> dict[str, float]:
    found = {}
    for name, process in processes.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[name] = times.user + times.system
    return found
