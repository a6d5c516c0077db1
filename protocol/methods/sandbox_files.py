"""`sandbox.files.*`: the files of the tenant's sandboxes, what is at /work inside.

A path is absolute (`/work/chart.png`) or below /work (`chart.png`). Links are shown, and never
followed; only regular files are read.
"""

from typing import Annotated, Final, Literal

import msgspec

from protocol import limits
from protocol.launching import DEFAULT_NAME, WORK, SandboxName
from protocol.methods.registry import Params, Result, Scope, declare
from protocol.methods.sandbox import Encoding

Path = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.SANDBOX_PATH_BYTES_MAX)]
EntryType = Literal["file", "directory", "link", "other"]
Cursor = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,340}$(?!\n)")]
_BASE64_CHARS_MAX: Final = -(-limits.SANDBOX_FILE_BYTES_MAX // 3) * 4


class Entry(Result, frozen=True, kw_only=True):
    """One entry of a directory. `size` is in bytes, `mtimeMs` Unix ms.

    `target` is where a link leads, inside. A name that is not Unicode is shown with U+FFFD in it
    and is not `reachable` by a path.
    """

    name: str
    type: EntryType
    size: int
    mtime_ms: int
    executable: bool = False
    target: str | None = None
    reachable: bool = True


class ListParams(Params, frozen=True, kw_only=True):
    """`cursor` is the `next` of the page before."""

    name: SandboxName = DEFAULT_NAME
    path: Path = WORK
    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.SANDBOX_FILES_PAGE_MAX)] = (
        limits.SANDBOX_FILES_PAGE_DEFAULT
    )
    cursor: Cursor | None = None


class ListResult(Result, frozen=True, kw_only=True):
    """Sorted by the bytes of the names. Without `next` it was the last page."""

    path: str
    entries: list[Entry]
    next: str | None = None


class GetParams(Params, frozen=True, kw_only=True):
    """At most `length` bytes from byte `offset` on.

    `text` is UTF-8. What is none, or has a NUL in it, takes `encoding: "base64"`.
    """

    path: Path
    name: SandboxName = DEFAULT_NAME
    offset: Annotated[int, msgspec.Meta(ge=0, le=limits.JSON_INTEGER_ABS_MAX)] = 0
    length: Annotated[int, msgspec.Meta(ge=1, le=limits.SANDBOX_FILE_BYTES_MAX)] = (
        limits.SANDBOX_FILE_BYTES_MAX
    )
    encoding: Encoding = "text"


class GetResult(Result, frozen=True, kw_only=True):
    """`data` is `length` bytes from `offset` on; unless `eof`, ask on from `offset` + `length`.

    `size` is the whole file's, in bytes. A character of UTF-8 is not cut: there may be up to three
    bytes less than were asked for.
    """

    path: str
    size: int
    mtime_ms: int
    offset: int
    length: int
    eof: bool
    encoding: Encoding
    data: str


class PutParams(Params, frozen=True, kw_only=True):
    """Writes a whole file; directories above it are made.

    Unless `overwrite`, a name that is taken is a conflict. The sandbox is made if it is not there.
    With `offset` the data goes into a file that is there, from that byte on, at most from its end:
    so one that is longer than a call comes in pieces. It is not as a whole then.
    """

    path: Path
    data: Annotated[str, msgspec.Meta(max_length=_BASE64_CHARS_MAX)]
    name: SandboxName = DEFAULT_NAME
    encoding: Encoding = "text"
    overwrite: bool = True
    executable: bool = False
    offset: Annotated[int, msgspec.Meta(ge=0, le=limits.JSON_INTEGER_ABS_MAX)] | None = None


class PutResult(Result, frozen=True, kw_only=True):
    """It is on disk. `size` is the whole file's."""

    ok: Literal[True]
    path: str
    size: int
    mtime_ms: int


class DeleteParams(Params, frozen=True, kw_only=True):
    """A directory that is not empty takes `recursive`; /work itself is emptied, and stays."""

    path: Path
    name: SandboxName = DEFAULT_NAME
    recursive: bool = False


class DeleteResult(Result, frozen=True, kw_only=True):
    """How many entries were removed. Unless `done` there were too many for one call: ask again."""

    deleted: int
    done: bool


LIST: Final = declare(
    "sandbox.files.list",
    params=ListParams,
    result=ListResult,
    scope=Scope.READ,
    idempotent=True,
    doc="List a directory of a sandbox.",
)
GET: Final = declare(
    "sandbox.files.get",
    params=GetParams,
    result=GetResult,
    scope=Scope.READ,
    idempotent=True,
    doc="Read a file of a sandbox, or a range of one.",
)
PUT: Final = declare(
    "sandbox.files.put",
    params=PutParams,
    result=PutResult,
    scope=Scope.WRITE,
    idempotent=True,
    doc="Write a file into a sandbox, as a whole or not at all; or a range of one.",
)
DELETE: Final = declare(
    "sandbox.files.delete",
    params=DeleteParams,
    result=DeleteResult,
    scope=Scope.WRITE,
    doc="Remove a file or a directory of a sandbox.",
)
