"""Names under a tenant's `sandbox/`, opened so that nobody can redirect them.

The tenant owns these directories and may rename, swap and link whatever lies there while they are
opened. So each component is opened by itself relative to a descriptor, links are not followed, and
what counts afterwards is the descriptor alone. They are made and opened with the tenant's own
rights: a name that leads elsewhere leads nowhere the tenant could not go itself.
"""

import contextlib
import os
import stat
from typing import Final

from protocol import names
from protocol.errors import ErrorCode, GatewayError
from supervisor.zygote import linux

SANDBOX: Final = "sandbox"
_MODE: Final = 0o700
_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW


class Directories:
    """The directories of one tenant's sandboxes.

    Args:
        state_root: Absolute, free of symbolic links.
        tenant: Whose.
        uid: The tenant's.
        gid: The tenant's.

    Raises:
        OSError: the tenant's directory cannot be opened.
    """

    def __init__(self, state_root: str, tenant: str, uid: int, gid: int) -> None:
        if not names.is_tenant_id(tenant):
            raise ValueError(f"not a tenant id: {tenant!r}")
        self._uid: Final = uid
        self._gid: Final = gid
        self._home: Final = linux.open_without_links(f"{state_root}/tenants/{tenant}", _FLAGS)

    def open(self, name: str) -> int:
        """Open a directory below `sandbox/`, made if it is not there; the caller closes it.

        Raises:
            GatewayError: CONFLICT, something else bears the name.
        """
        try:
            with linux.file_rights_of(self._uid, self._gid):
                above = self._enter(self._home, SANDBOX)
                try:
                    return self._enter(above, name)
                finally:
                    os.close(above)
        except OSError as error:
            message = f"sandbox/{name} is no directory of the tenant's own: {error.strerror}"
            raise GatewayError(ErrorCode.CONFLICT, message, field="name") from error

    def _enter(self, above: int, name: str) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, _MODE, dir_fd=above)
        found = linux.open_without_links(name, _FLAGS, above)
        status = os.fstat(found)
        if status.st_uid != self._uid or not stat.S_ISDIR(status.st_mode):
            os.close(found)
            raise PermissionError(1, "it belongs to somebody else")
        return found

    def close(self) -> None:
        """Let go of the tenant's directory."""
        os.close(self._home)
