"""The end of a worker that has reached its memory limit (RLIMIT_DATA, `worker.memory_bytes`)."""

import asyncio
import os
from typing import Any

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


def on_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody took in the event loop, for `set_exception_handler`; or end, as above."""
    error = context.get("exception")
    if isinstance(error, BaseException):
        end_if_exhausted(error)
        log.failure("error in the event loop", error)
    else:
        log.write("error", "error in the event loop", text=str(context.get("message"))[:200])
