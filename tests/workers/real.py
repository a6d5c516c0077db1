"""What a misbehaving program changes in the real worker; in its own process, after the fork."""

from collections.abc import Callable
from typing import Any

from worker import dispatch

start_call = dispatch.start


def replace_start(start: Callable[..., Any]) -> None:
    """Put something else where every call begins."""
    setattr(dispatch, "start", start)  # noqa: B010 - its type is that of the real one
