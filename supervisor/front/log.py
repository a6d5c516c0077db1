"""What the front has to say: JSON lines on standard error, which the supervisor collects.

A client decides neither how many lines there are nor what they look like: each kind of event has
its own rate, every character outside printable ASCII is escaped, and a full pipe loses lines
rather than stop the process.
"""

import json
import os
import select
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final

LINE_BYTES_MAX: Final = 4096
EVENTS_PER_WINDOW_MAX: Final = 20
WINDOW_SECONDS: Final = 10.0
_VALUE_CHARS_MAX: Final = 512

Value = str | int | float | bool | None


class Log:
    """Writes events as lines of at most `LINE_BYTES_MAX` bytes.

    Args:
        descriptor: Where to.
        clock: Monotonic seconds, for the rate.
    """

    def __init__(self, descriptor: int = 2, clock: Callable[[], float] = time.monotonic) -> None:
        self._descriptor: Final = descriptor
        self._clock: Final = clock
        self._room: Final = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._windows: dict[str, tuple[float, int]] = {}

    def info(self, event: str, **fields: Value) -> None:
        """Something an operator may want to know. `event` is one of our own constants."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Value) -> None:
        """Something went wrong for one client or one tenant."""
        self._write("warning", event, fields)

    def broken(self, event: str, error: BaseException) -> None:
        """A mistake of our own: its type and place. Its text may hold what a client sent."""
        self._write(
            "error", event, {"error": type(error).__name__, "at": _place(error.__traceback__)}
        )

    def _write(self, level: str, event: str, fields: dict[str, Value]) -> None:
        now = self._clock()
        started, count = self._windows.get(event, (now, 0))
        if now - started >= WINDOW_SECONDS:
            if count > EVENTS_PER_WINDOW_MAX:
                fields = {**fields, "suppressed": count - EVENTS_PER_WINDOW_MAX}
            started, count = now, 0
        self._windows[event] = (started, count + 1)
        if count >= EVENTS_PER_WINDOW_MAX:
            return
        timestamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"timestamp": timestamp, "level": level, "event": event, **_cut(fields)}
        text = json.dumps(line, separators=(",", ":")).replace("\x7f", "\\u007f")
        data = text.encode("ascii")[: LINE_BYTES_MAX - 1] + b"\n"
        # A pipe is writable when it takes 4096 bytes, so a line never blocks and is never torn.
        if self._room.poll(0):
            try:
                os.write(self._descriptor, data)
            except OSError:
                return


def _cut(fields: dict[str, Value]) -> dict[str, Value]:
    return {
        name: value[:_VALUE_CHARS_MAX] if isinstance(value, str) else value
        for name, value in fields.items()
    }


def _place(trace: TracebackType | None) -> str:
    places = []
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " ".join(places[-4:])
