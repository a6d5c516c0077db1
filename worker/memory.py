"""The end of a worker that has reached its memory limit (RLIMIT_DATA, `worker.memory_bytes`)."""

import os

from protocol.spawn import EXIT_OUT_OF_MEMORY
from worker import log


def end_if_exhausted(error: BaseException) -> None:
    """End the process at once if `error` says that there is no memory; else return.

    At its limit a worker would fail call after call. What was acknowledged is on disk, so a fresh
    one is better, and its supervisor can name the cause.
    """
    if not isinstance(error, MemoryError):
        return
    try:
        log.failure("memory limit reached", error)
    finally:
        os._exit(EXIT_OUT_OF_MEMORY)
