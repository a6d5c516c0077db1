"""How a command reads the ledger: as whoever owns it."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw

from cli.exits import fail
from supervisor import ledger_reading
from supervisor.bills import Bills
from supervisor.state import StateError, StateRoot, default_root


@contextmanager
def as_owner(directory: Path) -> Iterator[None]:
    """Give a context in which root is the owner of a directory.

    The ledger is egress's, which is the process that talks to the world: a link that it put there
    would lead root anywhere. And what SQLite makes beside the ledger has to be egress's.

    Raises:
        OSError: there is no such directory.
    """
    owner = directory.lstat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    gid, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def ledger_directory() -> Path:
    """Give where the ledger is, and end the command with a message where there is none."""
    try:
        directory = StateRoot(default_root()).ledger
        if not directory.exists():
            fail(f"{directory} does not exist: nothing was ever metered there")
    except (StateError, OSError) as error:
        fail(str(error))
    return directory


@contextmanager
def open_ledger() -> Iterator[apsw.Connection]:
    """Give the ledger, read only; end the command with a message where it cannot be read."""
    directory = ledger_directory()
    try:
        with as_owner(directory):
            db = ledger_reading.open_ledger(directory)
            if db is None:
                fail(f"there is no ledger in {directory}: nothing was ever metered there")
            with closing(db):
                yield db
    except PermissionError as error:
        fail(f"{error.filename} may not be read; run this as root or as the gateway's user")
    except BrokenPipeError:
        raise
    except (StateError, OSError) as error:
        fail(str(error))
    except apsw.Error as error:
        fail(f"the ledger cannot be read: {error}")


@contextmanager
def open_bills() -> Iterator[Bills]:
    """Give what reads it for bills; ends the command like `open_ledger`."""
    with open_ledger() as db:
        yield Bills(db)
