"""How every connection of a worker is set up: one function a setting, each with its reason.

What the settings mean: https://www.sqlite.org/pragma.html and, for those of `config`,
https://www.sqlite.org/c3ref/c_dbconfig_defensive.html
"""

from collections.abc import Callable
from typing import Final

import apsw

from worker.store.errors import OldSqliteError

SQLITE_VERSION_MIN: Final = (3, 51, 3)
BUSY_MILLISECONDS: Final = 5000
READER_BUSY_MILLISECONDS: Final = 200
JOURNAL_BYTES_KEPT: Final = 4 * 1024 * 1024
CACHE_KIB: Final = 1024

Setting = Callable[[apsw.Connection], None]


def check_version(version: str | None = None) -> None:
    """Refuse a SQLite whose write-ahead log can be reset under a reader (before 3.51.3).

    Raises:
        OldSqliteError: it is older.
    """
    found = version or apsw.sqlite_lib_version()
    if tuple(int(part) for part in found.split(".")[:3]) < SQLITE_VERSION_MIN:
        needed = ".".join(map(str, SQLITE_VERSION_MIN))
        raise OldSqliteError(f"SQLite {found} is too old: {needed} or later is needed")


def wait_for_other_generation(connection: apsw.Connection) -> None:
    """While a new generation starts, two processes write to one file and take turns."""
    connection.set_busy_timeout(BUSY_MILLISECONDS)


def hardly_wait(connection: apsw.Connection) -> None:
    """A reader is in the event loop's thread, which must not stand still; WAL lets it read."""
    connection.set_busy_timeout(READER_BUSY_MILLISECONDS)


def give_back_free_pages(connection: apsw.Connection) -> None:
    """What is deleted can leave the file (`Database.shrink`); only a new file learns it."""
    if not int(connection.pragma("page_count")):
        connection.pragma("auto_vacuum", "incremental")


def use_write_ahead_log(connection: apsw.Connection) -> None:
    """Readers and the writer do not wait for each other, and a commit is one append."""
    mode = connection.pragma("journal_mode", "wal")
    if mode != "wal":
        raise apsw.CantOpenError(f"no write-ahead log can be had: journal_mode is {mode}")


def sync_fully(connection: apsw.Connection) -> None:
    """What was acknowledged survives a power cut, not only the end of the process."""
    connection.pragma("synchronous", "full")


def keep_temporary_tables_in_memory(connection: apsw.Connection) -> None:
    """In the jail there is no /var/tmp: a big sort would fail to open its file."""
    connection.pragma("temp_store", "memory")


def enforce_foreign_keys(connection: apsw.Connection) -> None:
    """SQLite leaves them unchecked unless told."""
    connection.pragma("foreign_keys", value=True)


def distrust_schema(connection: apsw.Connection) -> None:
    """A schema that somebody else wrote into the file may not call functions with side effects."""
    connection.pragma("trusted_schema", value=False)


def defend_schema(connection: apsw.Connection) -> None:
    """Ordinary SQL cannot corrupt the file: no writes to shadow tables or the schema itself."""
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)


def check_cell_sizes(connection: apsw.Connection) -> None:
    """A damaged page is found when it is read, not when it has spread."""
    connection.pragma("cell_size_check", value=True)


def give_back_log_space(connection: apsw.Connection) -> None:
    """A burst must not leave its log on the tenant's disk quota for ever."""
    connection.pragma("journal_size_limit", JOURNAL_BYTES_KEPT)


def bound_cache(connection: apsw.Connection) -> None:
    """A hundred workers each keep a little in memory; the kernel caches the rest once."""
    connection.pragma("cache_size", -CACHE_KIB)


def refuse_double_quoted_strings(connection: apsw.Connection) -> None:
    """A misspelt column name in double quotes is an error, not a string."""
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)


def refuse_writes(connection: apsw.Connection) -> None:
    """Only the writer's thread writes; a write elsewhere is a mistake in our code."""
    connection.pragma("query_only", value=True)


_BOTH: Final[tuple[Setting, ...]] = (
    defend_schema,
    distrust_schema,
    refuse_double_quoted_strings,
    keep_temporary_tables_in_memory,
    check_cell_sizes,
    bound_cache,
)
WRITER: Final[tuple[Setting, ...]] = (
    wait_for_other_generation,
    give_back_free_pages,
    use_write_ahead_log,
    sync_fully,
    give_back_log_space,
    enforce_foreign_keys,
    *_BOTH,
)
READER: Final[tuple[Setting, ...]] = (hardly_wait, refuse_writes, *_BOTH)


def apply(connection: apsw.Connection, settings: tuple[Setting, ...]) -> None:
    """Set a connection up.

    Raises:
        OldSqliteError: the library is of a version that must not be used.
        apsw.Error: the file cannot be used, or has no write-ahead log.
    """
    check_version()
    for setting in settings:
        setting(connection)
