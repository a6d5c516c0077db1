"""Listings of sessions, kept as JSON for as long as nothing has been written.

A caller that polls its list costs the front and one look at a counter. The counter is SQLite's
`PRAGMA data_version`, which changes for this connection when any other one has committed, those of
another generation of the worker included.
"""

from typing import Final, Self

import apsw
import msgspec

from protocol.methods.registry import Result
from protocol.methods.sessions import ListDefaults, ListParams, SessionRow
from worker.sessions import reads

PAGES_MAX: Final = 8
PAGE_BYTES_MAX: Final = 64 * 1024

_encode: Final = msgspec.json.Encoder().encode


class Page(msgspec.Struct, frozen=True):
    """Rows as JSON, how many they are, and how many match in all."""

    rows: msgspec.Raw
    count: int
    total: int

    @classmethod
    def of(cls, rows: list[SessionRow], total: int) -> Self:
        """Make one of what `reads.sessions` gives."""
        return cls(msgspec.Raw(_encode(rows)), len(rows), total)


class StoredListing(Result, frozen=True, kw_only=True):
    """A `ListResult` whose rows are JSON already."""

    ts: int
    count: int
    total: int
    defaults: ListDefaults
    sessions: msgspec.Raw


class Pages:
    """The listings of one store; for the connection of the event loop's thread alone."""

    def __init__(self) -> None:
        self._version: object = None
        self._pages: Final[dict[ListParams, Page]] = {}

    def get(self, connection: apsw.Connection, params: ListParams, now: int) -> Page:
        """Give a page of sessions, newest first."""
        version = connection.pragma("data_version")
        if version != self._version:
            self._version = version
            self._pages.clear()
        page = self._pages.get(params)
        if page is None:
            page = Page.of(*reads.sessions(connection, params, now))
            # What is listed by the time of day goes out of date without a write.
            if params.active_minutes is None and len(page.rows) <= PAGE_BYTES_MAX:
                if len(self._pages) >= PAGES_MAX:
                    del self._pages[next(iter(self._pages))]
                self._pages[params] = page
        return page
