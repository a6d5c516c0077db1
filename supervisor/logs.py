"""`gateway.log`: JSON lines, bounded in size, with every control character escaped.

Workers, zygote and front write to pipes of which the supervisor holds the other end, so a tenant
decides neither how much nor in what form it writes here.
"""

import asyncio
import contextlib
import logging
import os
import select
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final, TextIO

import structlog

from protocol.names import token_prefix

LOG_BYTES_MAX: Final = 16 * 1024 * 1024
LOG_FILES_KEPT: Final = 4
LINE_BYTES_MAX: Final = 4096
LINE_OVERHEAD_BYTES: Final = 256
"""What a line costs beside its own bytes: without it, empty ones would be had for nothing."""
PIPE_READ_BYTES: Final = 64 * 1024
PIPE_BURST_BYTES: Final = 256 * 1024
PIPE_BYTES_PER_SECOND: Final = 64 * 1024
PIPE_PAUSE_SECONDS: Final = 0.01
LOST_REPORT_SECONDS: Final = 1.0

Log = structlog.typing.FilteringBoundLogger


class _Console(logging.StreamHandler[TextIO]):
    """Standard error as long as somebody reads it: a full pipe must not stop the supervisor."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`. What cannot be written now is in the log file."""
        try:
            descriptor = self.stream.fileno()
        except (OSError, ValueError):  # no file: nothing that could block
            super().emit(record)
            return
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        if poll.poll(0):
            # Not through the stream: what stays in it, unread, would be an error at our exit.
            with contextlib.suppress(OSError):
                os.write(descriptor, f"{self.format(record)}\n".encode(errors="replace"))

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Handler`. A pipe that can be written to has room for `PIPE_BUF` bytes."""
        return super().format(record)[: select.PIPE_BUF - 1]


def _add_prefix(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Have a tenant's lines found by what its tokens start with, which is no secret."""
    tenant = event.get("tenant")
    if tenant is not None:
        event["prefix"] = token_prefix(tenant)
    return event


def open_log(path: Path) -> Log:
    """Send structured logging to `path`, and warnings and worse to standard error as well."""
    file = RotatingFileHandler(path, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES_KEPT)
    file.setFormatter(logging.Formatter("%(message)s"))
    console = _Console(sys.stderr)
    console.setLevel(logging.WARNING)
    console.setFormatter(logging.Formatter("%(message)s"))
    target = logging.getLogger("openclaw")
    for replaced in target.handlers:
        replaced.close()
    target.handlers[:] = [file, console]
    target.setLevel(logging.INFO)
    target.propagate = False
    path.chmod(0o600)
    structlog.configure(
        processors=[
            _add_prefix,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    log: Log = structlog.get_logger("openclaw")
    return log


class LogPump:
    """Copies the lines of a pipe into the log, as much of them as the rate allows.

    What is over the rate is counted and lost. The pipe is emptied all the same, so a writer goes
    on; one over its rate is read once in `PIPE_PAUSE_SECONDS`, so it cannot keep this process busy.

    Args:
        descriptor: The reading end; owned by the pump from here on.
        log: Where the lines go, bound to who writes them.
    """

    def __init__(self, descriptor: int, log: Log) -> None:
        self._descriptor = descriptor
        self._log: Final = log
        self._loop: Final = asyncio.get_running_loop()
        self._partial = b""
        self._allowance = float(PIPE_BURST_BYTES)
        self._filled_at = self._loop.time()
        self._lost = 0
        self._lost_reported_at = -LOST_REPORT_SECONDS
        self._pause: asyncio.TimerHandle | None = None
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, PIPE_READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        now = self._loop.time()
        earned = (now - self._filled_at) * PIPE_BYTES_PER_SECOND
        self._allowance = min(self._allowance + earned, PIPE_BURST_BYTES)
        self._filled_at = now
        *lines, rest = (self._partial + data).split(b"\n")
        for index, line in enumerate(lines):
            if self._allowance < LINE_OVERHEAD_BYTES:
                # At once: one by one, empty lines would keep this process busy.
                self._lost += sum(map(len, lines[index:])) + len(lines) - index
                break
            self._take(line)
        while len(rest) > LINE_BYTES_MAX:
            self._take(rest[:LINE_BYTES_MAX])
            rest = rest[LINE_BYTES_MAX:]
        self._partial = rest
        if self._lost:
            self._loop.remove_reader(self._descriptor)
            self._pause = self._loop.call_later(PIPE_PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._descriptor, self._read)

    def _take(self, line: bytes) -> None:
        cost = len(line) + LINE_OVERHEAD_BYTES
        if cost > self._allowance:
            self._lost += len(line) + 1
            return
        self._allowance -= cost
        if self._filled_at - self._lost_reported_at >= LOST_REPORT_SECONDS:
            self._report_lost()
        while line:
            text = line[:LINE_BYTES_MAX].decode("utf-8", "replace")
            self._log.info("output", line=text)
            line = line[LINE_BYTES_MAX:]

    def _report_lost(self) -> None:
        if self._lost:
            self._log.warning("output lost", bytes=self._lost)
            self._lost = 0
            self._lost_reported_at = self._filled_at

    def close(self) -> None:
        """Stop; what came without a line end is written too."""
        if self._descriptor < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        if self._partial:
            self._take(self._partial)
        self._report_lost()
