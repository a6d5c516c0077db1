"""Workers whose start goes wrong."""

import contextlib
import ctypes
import os
import signal

from protocol.descriptors import WorkerDescriptors
from tests.workers.puppet import Program, Puppet, pause
from worker import main as worker

SLOW_SECONDS = 1.0
LAST_WORDS = "what the worker died of"


class NeverReady(Puppet):
    """It lives and does nothing."""

    def before_ready(self) -> None:
        while True:
            pause()


class ReadyWhenAborted(Puppet):
    """It says that it is ready when it is asked what keeps it, which is too late."""

    def before_ready(self) -> None:
        def interrupt(*_: object) -> None:
            raise InterruptedError

        signal.signal(signal.SIGABRT, interrupt)
        with contextlib.suppress(InterruptedError):
            pause()


def slow_ready(spec: bytes, fds: WorkerDescriptors) -> None:
    """A good worker, after a while."""
    pause(SLOW_SECONDS)
    worker.run(spec, fds)


def exits(code: int) -> Program:
    def program(_spec: bytes, _fds: WorkerDescriptors) -> None:
        os._exit(code)

    return program


def raises(_spec: bytes, _fds: WorkerDescriptors) -> None:
    raise RuntimeError(LAST_WORDS)


def segfaults(_spec: bytes, _fds: WorkerDescriptors) -> None:
    ctypes.string_at(0)


PROGRAMS: dict[str, Program] = {
    "never-ready": NeverReady.program,
    "ready-when-aborted": ReadyWhenAborted.program,
    "slow-ready": slow_ready,
    "exits-0": exits(0),
    "exits-1": exits(1),
    "exits-3": exits(3),
    "exits-78": exits(78),
    "raises": raises,
    "segfaults": segfaults,
}
