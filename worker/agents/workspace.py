"""Files of an agent's workspace: the directory that its sandbox sees at /work.

What runs in the sandbox may change them at any time; each is opened by name below the sandbox's
directory, and no link is followed (`worker.sandbox.tree`).
"""

import os
import stat
from typing import Annotated, Final, NamedTuple

import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from worker.sandbox import tree
from worker.sandbox.files import refusal
from worker.sandbox.paths import parts_of

TEXT_BYTES_MAX: Final = limits.MIB
"""Of a file that a tool reads or writes: what is longer is the sandbox's to work on."""

Path = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.SANDBOX_PATH_BYTES_MAX)]


def parts_of_file(path: str) -> tree.Parts:
    """Give the names of a path to a file.

    Raises:
        GatewayError: INVALID_REQUEST: it leads out of /work, or is /work itself.
    """
    parts = parts_of(path)
    if not parts:
        raise refusal(ErrorCode.INVALID_REQUEST, "path", "is a directory; name a file in it")
    return parts


class Text(NamedTuple):
    """A text file, and whether it is a program."""

    text: str
    executable: bool


def text_of(root: int, parts: tree.Parts) -> Text:
    """Read a text file. Blocks.

    Raises:
        GatewayError: it is too long, or no text.
    """
    piece = tree.read(root, parts, 0, TEXT_BYTES_MAX + 1)
    if len(piece.data) > TEXT_BYTES_MAX:
        message = f"path: the file has {piece.status.st_size} bytes, more than {TEXT_BYTES_MAX}"
        raise GatewayError(ErrorCode.PAYLOAD_TOO_LARGE, message, field="path")
    try:
        text = piece.data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise refusal(ErrorCode.CONFLICT, "path", "is no text; look at it with exec")
    return Text(text, bool(piece.status.st_mode & stat.S_IXUSR))


def put(root: int, parts: tree.Parts, text: str, *, executable: bool = False) -> os.stat_result:
    """Write a text file as a whole, its directories too. Blocks.

    Raises:
        GatewayError: it is too long, or is no Unicode.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise refusal(ErrorCode.INVALID_REQUEST, "content", "is not valid Unicode") from None
    if len(data) > TEXT_BYTES_MAX:
        message = f"content: {len(data)} bytes, more than {TEXT_BYTES_MAX}"
        raise GatewayError(ErrorCode.PAYLOAD_TOO_LARGE, message, field="content")
    return tree.write(root, parts, data, overwrite=True, executable=executable)
