"""Workers that write to the disk whatever they are told."""

import os
import threading
from typing import Any

from protocol.descriptors import WorkerDescriptors
from tests.workers.puppet import Program, pause
from tests.workers.real import replace_start, start_call
from worker import main as worker

PIECE = bytes(2**20)
PIECE_SECONDS = 0.01


def fills_its_disk(spec: bytes, fds: WorkerDescriptors) -> None:
    """The real worker, and from its first call on it fills a file, for ever."""
    begun = threading.Event()

    def fill() -> None:
        descriptor = os.open("memory/filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        while True:
            os.write(descriptor, PIECE)
            pause(PIECE_SECONDS)

    def start(*arguments: Any) -> Any:
        if not begun.is_set():
            begun.set()
            threading.Thread(target=fill, daemon=True).start()
        return start_call(*arguments)

    replace_start(start)
    worker.run(spec, fds)


PROGRAMS: dict[str, Program] = {"fills-its-disk": fills_its_disk}
