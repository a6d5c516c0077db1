"""JSON lines on standard error, which the supervisor copies into the gateway's log.

What users wrote is never logged. An exception's own text may quote it, so only the texts of the
operating system and of SQLite are kept; of any other exception its type and where it was raised.
"""

import os
from types import TracebackType
from typing import Any, Final

import apsw
import msgspec

# The supervisor splits longer lines.
LINE_BYTES_MAX: Final = 4000
FRAMES_MAX: Final = 12
TEXT_CHARS_MAX: Final = 200
_STANDARD_ERROR: Final = 2
_encode: Final = msgspec.json.Encoder().encode


def write(level: str, event: str, **fields: Any) -> None:
    """Write one line.

    Args:
        level: `info`, `warning` or `error`.
        event: What happened, in a few words.
        fields: JSON values.
    """
    line = _encode({"level": level, "event": event, **fields})
    if len(line) > LINE_BYTES_MAX:
        line = _encode({"level": level, "event": event, "cut": sorted(fields)})
    try:
        os.write(_STANDARD_ERROR, line + b"\n")
    except OSError:
        return  # whoever read it is gone, and there is nobody left to tell


def failure(event: str, error: BaseException, **fields: Any) -> None:
    """Write one line about an exception."""
    write("error", event, **fields, **describe(error))


def describe(error: BaseException) -> dict[str, Any]:
    """Give an exception's type, where it was raised and, where that is safe to keep, its text."""
    facts: dict[str, Any] = {
        "error": type(error).__qualname__,
        "at": _frames(error.__traceback__),
    }
    if isinstance(error, (OSError, apsw.Error)):
        facts["text"] = ascii(str(error))[1:-1][:TEXT_CHARS_MAX]
    if error.__cause__ is not None:
        facts["cause"] = type(error.__cause__).__qualname__
    return facts


def _frames(trace: TracebackType | None) -> list[str]:
    # Not by `traceback`: that reads source files, and quotes lines of them.
    frames: list[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f"{code.co_filename[-100:]}:{trace.tb_lineno} {code.co_qualname[-100:]}"
        frames.append(place)
        trace = trace.tb_next
    return frames[-FRAMES_MAX:]
