"""Those who watch terminals through this worker, and the end of that when it ends."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final


class Watchers:
    """See the module."""

    def __init__(self) -> None:
        self._all: Final[set[asyncio.Event]] = set()
        self.leaving = False

    def let_go(self) -> None:
        """Have them go on at the next worker."""
        self.leaving = True
        for changed in self._all:
            changed.set()

    @contextmanager
    def watcher(self) -> Iterator[asyncio.Event]:
        """Give what wakes one of them."""
        changed = asyncio.Event()
        self._all.add(changed)
        try:
            yield changed
        finally:
            self._all.discard(changed)
