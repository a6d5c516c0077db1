"""Schema versions: `user_version` counts the migrations that a file has seen."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import apsw

from worker.store.errors import SchemaTooNewError
from worker.store.files import Directory

_COPY_FLAGS: Final = (
    apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_NOFOLLOW
)


def version(connection: apsw.Connection) -> int:
    """Give how many migrations the file has seen; 0 for a new one."""
    return int(connection.pragma("user_version"))


def copy_name(path: str, of_version: int) -> str:
    """Give the name of the copy that is made before a file of `of_version` is changed."""
    return f"{path}.before-v{of_version + 1}"


def migrate(
    connection: apsw.Connection, path: str, migrations: Sequence[str], directory: Directory
) -> None:
    """Bring a file to the newest schema, all of it or nothing; a used file is copied first.

    Args:
        connection: Open for writing on `path`.
        path: The file, relative to `directory`, which is the working directory.
        migrations: The SQL script that makes each version from the one before; only ever added to.
        directory: Where the copy goes.

    Raises:
        SchemaTooNewError: the file has seen more migrations than there are here.
        apsw.Error: the file, or its copy, cannot be written.
    """
    if version(connection) == len(migrations):
        return
    before = version(connection)
    if 0 < before < len(migrations):
        _copy(connection, copy_name(path, before), directory)
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read again: another generation may have been faster.
        before = _known_version(connection, path, len(migrations))
        for script in migrations[before:]:
            connection.execute(script)
        connection.pragma("user_version", len(migrations))
        connection.execute("COMMIT")
    except BaseException:
        with suppress(apsw.Error):
            connection.execute("ROLLBACK")
        raise


def _known_version(connection: apsw.Connection, path: str, known: int) -> int:
    found = version(connection)
    if found > known:
        raise SchemaTooNewError(
            f"{path} has schema version {found}; this program knows up to {known}"
        )
    return found


def _copy(connection: apsw.Connection, name: str, directory: Directory) -> None:
    with suppress(FileNotFoundError):
        directory.remove(name)
    copy = apsw.Connection(name, flags=_COPY_FLAGS)
    try:
        with copy.backup("main", connection, "main") as backup:
            backup.step()
    finally:
        copy.close()
