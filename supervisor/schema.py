"""Databases of the gateway's own: brought to their newest schema, whole or not at all.

`user_version` counts the scripts that a file has seen; they are only ever added to.
"""

from collections.abc import Sequence
from pathlib import Path

import apsw


class TooNewError(Exception):
    """The file has a schema that this version does not know."""


def check_version(db: apsw.Connection, name: str, known: int) -> int:
    """Give the version that a file has; 0 for a new one.

    Args:
        db: The file, open.
        name: What the message calls it.
        known: The newest version.

    Raises:
        TooNewError: see there.
    """
    version = int(db.pragma("user_version"))
    if version > known:
        msg = f"{name} has schema {version}; this version knows {known}"
        raise TooNewError(msg)
    return version


def migrate(db: apsw.Connection, path: Path, name: str, scripts: Sequence[str]) -> None:
    """Bring an open file to the newest schema, whole or not at all; a used one is copied first.

    Args:
        db: The file, open.
        path: Where it is.
        name: What messages call it.
        scripts: What makes each version from the one before.

    Raises:
        TooNewError: see there; nothing is changed.
        apsw.Error, OSError: it, or the copy, cannot be written.
    """
    version = check_version(db, name, len(scripts))
    if version == len(scripts):
        return
    if version:
        _copy(db, path.with_name(f"{path.name}.before-v{version + 1}"))
    with db:
        for script in scripts[version:]:
            db.execute(script)
        db.execute(f"PRAGMA user_version={len(scripts)}")


def _copy(db: apsw.Connection, path: Path) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    copy = apsw.Connection(str(path))
    try:
        with copy.backup("main", db, "main") as backup:
            backup.step()
    finally:
        copy.close()
