"""Paths that clients and tools give, below /work."""

from protocol import limits
from protocol.errors import ErrorCode
from protocol.launching import WORK
from worker.sandbox import tree
from worker.sandbox.files import refusal


def parts_of(path: str) -> tree.Parts:
    """Give the names of a path below /work; none of them for /work itself.

    Raises:
        GatewayError: INVALID_REQUEST: it is not a path of plain names, or leads out of /work.
    """
    if path == WORK:
        return ()
    try:
        encoded = path.removeprefix(f"{WORK}/").encode()
    except UnicodeEncodeError:
        raise refusal(ErrorCode.INVALID_REQUEST, "path", "is not valid Unicode") from None
    parts = tuple(encoded.split(b"/"))
    if any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
        why = f"must be one of plain names below {WORK}"
        raise refusal(ErrorCode.INVALID_REQUEST, "path", why)
    if (
        len(encoded) > limits.SANDBOX_PATH_BYTES_MAX
        or len(parts) > limits.SANDBOX_FILES_DEPTH_MAX
        or max(map(len, parts)) > limits.SANDBOX_FILE_NAME_BYTES_MAX
    ):
        why = (
            f"has more than {limits.SANDBOX_PATH_BYTES_MAX} bytes, "
            f"{limits.SANDBOX_FILES_DEPTH_MAX} names, "
            f"or {limits.SANDBOX_FILE_NAME_BYTES_MAX} bytes in one of them"
        )
        raise refusal(ErrorCode.INVALID_REQUEST, "path", why)
    return parts
