"""Workers that live and do not listen."""

import signal
from typing import Any

from protocol.descriptors import WorkerDescriptors
from tests.workers.puppet import Program, Puppet, pause
from tests.workers.real import replace_start
from worker import main as worker


class Deaf(Puppet):
    """It answers calls, and never reads its link to the supervisor."""

    def after_ready(self) -> None:
        self.hears_supervisor = False


def handler_that_never_returns(*_: Any) -> bytes:
    while True:
        pause()


def blocks_its_loop(spec: bytes, fds: WorkerDescriptors) -> None:
    """The real worker, with a handler that keeps its event loop for ever."""
    replace_start(handler_that_never_returns)
    worker.run(spec, fds)


def ignores_the_end(spec: bytes, fds: WorkerDescriptors) -> None:
    """The real worker, as long as nothing but SIGKILL ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    setattr(worker.Worker, "start_draining", lambda *_: None)  # noqa: B010 - mypy knows it is a method
    worker.run(spec, fds)


PROGRAMS: dict[str, Program] = {
    "deaf": Deaf.program,
    "blocks": blocks_its_loop,
    "ignores-the-end": ignores_the_end,
}
