"""Workers that want more than they should have: processors, memory, log, processes."""

import itertools
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from protocol.descriptors import WorkerDescriptors
from tests.workers.puppet import Program
from tests.workers.real import replace_start, start_call
from worker import main as worker

LEAK_BYTES = 8 * 2**20
FLOOD_BYTES = 2 * 2**20
LINE = b"flood" * 200 + b"\n"

_leaked: list[bytearray] = []


def before_each_call(act: Callable[[], None]) -> None:
    def start(*arguments: Any) -> Any:
        act()
        return start_call(*arguments)

    replace_start(start)


def leaks(spec: bytes, fds: WorkerDescriptors) -> None:
    """The real worker, and every call costs memory for ever."""

    def leak() -> None:
        _leaked.append(bytearray(os.urandom(1)) * LEAK_BYTES)

    before_each_call(leak)
    worker.run(spec, fds)


def swallows(spec: bytes, fds: WorkerDescriptors) -> None:
    """It takes all the memory it can get before it says that it is ready."""
    while True:
        _leaked.append(bytearray(os.urandom(1)) * LEAK_BYTES)


def floods_its_log(spec: bytes, fds: WorkerDescriptors) -> None:
    """The real worker, and every call writes much: once in long lines, once in empty ones."""

    def flood() -> None:
        for text in (LINE, b"\n"):
            left = memoryview(text * (FLOOD_BYTES // len(text)))
            while left:
                left = left[os.write(2, left) :]

    before_each_call(flood)
    worker.run(spec, fds)


def _exec() -> None:
    os.execv("/usr/bin/env", ["env"])


def _spawn() -> None:
    os.posix_spawn("/usr/bin/env", ["env"], {})


TRIES: dict[str, Callable[[], object]] = {
    "fork": os.fork,
    "exec": _exec,
    "spawn": _spawn,
    "kill parent": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "kill all": lambda: os.kill(-1, signal.SIGKILL),
    "socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
}


def forks(spec: bytes, fds: WorkerDescriptors) -> None:
    """It tries what it may not and logs what became of it; then it is the real worker."""
    outcome = {}
    for name, attempt in TRIES.items():
        try:
            attempt()
        except OSError as error:
            outcome[name] = type(error).__name__
        else:
            outcome[name] = "done"
    os.write(2, json.dumps(outcome).encode() + b"\n")
    worker.run(spec, fds)


def spins(spec: bytes, fds: WorkerDescriptors) -> None:
    """The real worker, which answers, with two threads that compute for ever."""

    def spin() -> None:
        while True:
            pow(3, 10**5)

    for _ in range(2):
        threading.Thread(target=spin, daemon=True).start()
    worker.run(spec, fds)


def opens(spec: bytes, fds: WorkerDescriptors) -> None:
    """The real worker, and every call takes all the descriptors there are, and logs the end."""

    def take() -> None:
        taken = []
        try:
            while True:
                taken.append(os.dup(2))
        except OSError as error:
            reason = os.strerror(error.errno or 0)
        for descriptor in taken:
            os.close(descriptor)
        os.write(2, f"{reason} after {len(taken)}\n".encode())

    before_each_call(take)
    worker.run(spec, fds)


def fills(spec: bytes, fds: WorkerDescriptors) -> None:
    """The real worker, and every call writes a file of 8 MiB, the seventeenth over the first."""
    numbers = itertools.cycle(range(16))

    def fill() -> None:
        flags = os.O_CREAT | os.O_WRONLY
        try:
            file = os.open(f"sandbox/filling-{next(numbers)}", flags, 0o600)
        except OSError as error:
            os.write(2, f"{error.strerror}\n".encode())
            return
        try:
            for _ in range(8):
                os.write(file, bytes(2**20))
        except OSError as error:
            os.write(2, f"{error.strerror}\n".encode())
        finally:
            os.close(file)

    before_each_call(fill)
    worker.run(spec, fds)


PROGRAMS: dict[str, Program] = {
    "spins": spins,
    "leaks": leaks,
    "swallows": swallows,
    "floods-its-log": floods_its_log,
    "forks": forks,
    "opens": opens,
    "fills": fills,
}
