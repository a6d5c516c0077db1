"""The sandboxes' directories of a tenant, and what a client is told of what the system refuses."""

import errno
import os
from collections.abc import Callable
from typing import Final, TypeVar

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from worker.store.files import Directory, NotAFileError, UnsafePathError
from worker.store.lane import Lane

FOLDER: Final = "sandbox"

T = TypeVar("T")

_TOO_MUCH: Final = (
    f"has more than {limits.SANDBOX_FILES_LISTED_MAX} entries, or is nested more than "
    f"{limits.SANDBOX_FILES_DEPTH_MAX} deep; do it in the sandbox"
)
_REASONS: Final[dict[int, tuple[ErrorCode, str]]] = {
    errno.ENOENT: (ErrorCode.NOT_FOUND, "there is no such file"),
    errno.ENOTDIR: (ErrorCode.CONFLICT, "there is a file where a directory is needed"),
    errno.EISDIR: (ErrorCode.CONFLICT, "is a directory"),
    errno.EEXIST: (ErrorCode.CONFLICT, "is there already; overwrite: true replaces a file"),
    errno.ENOTEMPTY: (ErrorCode.CONFLICT, "is not empty; recursive: true removes what is in it"),
    errno.EACCES: (ErrorCode.CONFLICT, "its mode closes it; open it with chmod in the sandbox"),
    errno.EPERM: (ErrorCode.CONFLICT, "it may not be changed"),
    errno.ENAMETOOLONG: (ErrorCode.INVALID_REQUEST, "too long"),
    errno.E2BIG: (ErrorCode.PAYLOAD_TOO_LARGE, _TOO_MUCH),
    errno.ESPIPE: (ErrorCode.CONFLICT, "ends before that offset; write what is missing first"),
    errno.EAGAIN: (ErrorCode.UNAVAILABLE, "is being used in the sandbox; try again"),
    errno.ENOSPC: (ErrorCode.UNAVAILABLE, "storage is full; free some space, then try again"),
    errno.EDQUOT: (ErrorCode.UNAVAILABLE, "storage is full; free some space, then try again"),
    errno.EFBIG: (ErrorCode.UNAVAILABLE, "storage takes no file of that size"),
    errno.EROFS: (ErrorCode.UNAVAILABLE, "storage is read-only"),
    errno.EIO: (ErrorCode.UNAVAILABLE, "storage cannot be read or written"),
}


class SandboxFiles:
    """The sandboxes' directories below the tenant's; one thread for all that is done with them.

    Args:
        directory: The tenant's directory.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory: Final = directory
        self._lane: Final = Lane("sandbox files")

    async def run(self, name: str, work: Callable[[int], T], *, make: bool = False) -> T:
        """Do something with a sandbox's directory, given as a descriptor.

        Args:
            name: The sandbox's.
            work: What is done, in a thread.
            make: Whether a sandbox that is not there is made.

        Raises:
            GatewayError: NOT_FOUND: there is no such sandbox. And what the system refuses.
        """
        return await self._lane.run(lambda: self._do(name, work, make=make))

    def close(self) -> None:
        """Finish what was begun."""
        self._lane.close()

    def _do(self, name: str, work: Callable[[int], T], *, make: bool) -> T:
        root = self._open(name, make=make)
        try:
            return work(root)
        except UnsafePathError:
            raise refusal(ErrorCode.INVALID_REQUEST, "path", "leads over a link") from None
        except NotAFileError:
            raise refusal(ErrorCode.CONFLICT, "path", "is not a regular file") from None
        except OSError as error:
            raise _refused(error, "path") from error
        finally:
            os.close(root)

    def _open(self, name: str, *, make: bool) -> int:
        path = f"{FOLDER}/{name}"
        try:
            if make:
                self._directory.make_directory(FOLDER)
                self._directory.make_directory(path)
            return self._directory.open_folder(path)
        except FileNotFoundError:
            raise refusal(ErrorCode.NOT_FOUND, "name", "there is no such sandbox") from None
        except UnsafePathError:
            raise refusal(ErrorCode.CONFLICT, "name", "its directory is a link") from None
        except OSError as error:
            raise _refused(error, "name") from error


def _refused(error: OSError, field: str) -> Exception:
    """Give what the client is told; what is in no table is a mistake of ours."""
    if error.errno not in _REASONS:
        return error
    code, why = _REASONS[error.errno]
    return refusal(code, field, why)


def refusal(code: ErrorCode, field: str, why: str) -> GatewayError:
    """Give the refusal of a parameter."""
    return GatewayError(code, f"{field}: {why}", field=field)
