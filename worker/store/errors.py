"""What goes wrong with a database, in the terms of the error table and of exit codes."""

from typing import Final

import apsw

from protocol.errors import ErrorCode, GatewayError


class StoreConfigurationError(Exception):
    """This program and a database do not fit: trying again changes nothing (exit code 78)."""


class OldSqliteError(StoreConfigurationError):
    """The SQLite library is of a version that can corrupt a database."""


class SchemaTooNewError(StoreConfigurationError):
    """A newer version of this program has written the database."""


class StoreDamagedError(Exception):
    """The file is no database, or a damaged one: trying again changes nothing (exit code 3)."""


_DAMAGED = (apsw.CorruptError, apsw.NotADBError)


def is_damage(error: BaseException) -> bool:
    """Say whether an error means that the file itself is broken."""
    return isinstance(error, _DAMAGED)


_REFUSED: Final = (
    apsw.FullError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
)


def is_refusal(error: BaseException) -> bool:
    """Say whether an error means that the disk takes no writes now; it may later."""
    return isinstance(error, _REFUSED)


def storage_error(error: apsw.Error) -> GatewayError | None:
    """Give what a client is told about an error of SQLite, or None for a mistake in our own code.

    Nothing of SQLite's own text is told: it names files and statements.
    """
    match error:
        case apsw.FullError():
            message = "storage is full; free some space, then try again"
        case apsw.IOError() | apsw.CantOpenError():
            message = "storage cannot be read or written"
        case apsw.ReadOnlyError() | apsw.PermissionsError():
            message = "storage is read-only"
        case apsw.BusyError() | apsw.LockedError():
            message = "storage is busy; try again"
        case apsw.NoMemError() | apsw.InterruptError():
            message = "storage could not finish; try again"
        case apsw.CorruptError() | apsw.NotADBError():
            return GatewayError(ErrorCode.INTERNAL, "storage is damaged")
        case _:
            return None
    return GatewayError(ErrorCode.UNAVAILABLE, message)
