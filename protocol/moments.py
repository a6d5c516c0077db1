"""The time of day, and how it is written."""

import time


def unix_ms() -> int:
    """Give the time of day in Unix ms."""
    return time.time_ns() // 1_000_000


def rfc3339(at_ms: int) -> str:
    """Write a time of day, given in Unix ms, as RFC 3339 in UTC."""
    seconds, ms = divmod(at_ms, 1000)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{moment}.{ms:03d}Z"
