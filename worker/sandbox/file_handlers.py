"""The handlers of `sandbox.files.*`."""

import base64
import binascii
import os
import stat
from typing import Final

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.launching import WORK
from protocol.methods import sandbox_files
from worker.dispatch import CallContext, handles
from worker.sandbox import tree
from worker.sandbox.files import refusal
from worker.sandbox.paths import parts_of

_UTF8_BYTES_MAX: Final = 4  # RFC 3629, section 3


@handles(sandbox_files.LIST)
async def list_files(
    call: CallContext, params: sandbox_files.ListParams
) -> sandbox_files.ListResult:
    """List a page of a directory."""
    parts = parts_of(params.path)
    after = _decoded_cursor(params.cursor)

    def work(root: int) -> sandbox_files.ListResult:
        found, more = tree.entries(root, parts, after, params.limit)
        return sandbox_files.ListResult(
            path=_shown(parts),
            entries=[_entry(each) for each in found],
            next=_cursor(found[-1].name) if more and found else None,
        )

    return await call.services.files.run(params.name, work)


@handles(sandbox_files.GET)
async def get(call: CallContext, params: sandbox_files.GetParams) -> sandbox_files.GetResult:
    """Read a range of a file."""
    parts = _of_a_file(params.path)

    def work(root: int) -> sandbox_files.GetResult:
        piece = tree.read(root, parts, params.offset, params.length)
        ends = params.offset + len(piece.data) >= piece.status.st_size
        length, text = _encoded(piece.data, params, ends=ends)
        return sandbox_files.GetResult(
            path=_shown(parts),
            size=_told(piece.status.st_size),
            mtime_ms=_mtime_ms(piece.status),
            offset=params.offset,
            length=length,
            eof=ends,
            encoding=params.encoding,
            data=text,
        )

    return await call.services.files.run(params.name, work)


@handles(sandbox_files.PUT)
async def put(call: CallContext, params: sandbox_files.PutParams) -> sandbox_files.PutResult:
    """Write a file as a whole, or a range of one."""
    parts = _of_a_file(params.path)
    offset = params.offset
    if offset is not None and (params.executable or not params.overwrite):
        why = "goes into a file that is there; it takes neither executable nor overwrite: false"
        raise refusal(ErrorCode.INVALID_REQUEST, "offset", why)

    def work(root: int) -> sandbox_files.PutResult:
        if offset is None:
            status = tree.write(
                root, parts, data, overwrite=params.overwrite, executable=params.executable
            )
        else:
            status = tree.write_range(root, parts, data, offset)
        return sandbox_files.PutResult(
            ok=True, path=_shown(parts), size=_told(status.st_size), mtime_ms=_mtime_ms(status)
        )

    # Before a sandbox is made for it.
    data = _decoded(params)
    call.services.gate.check()
    return await call.services.files.run(params.name, work, make=offset is None)


@handles(sandbox_files.DELETE)
async def delete(
    call: CallContext, params: sandbox_files.DeleteParams
) -> sandbox_files.DeleteResult:
    """Remove a file or a directory."""
    parts = parts_of(params.path)

    def work(root: int) -> sandbox_files.DeleteResult:
        count, done = tree.remove(root, parts, recursive=params.recursive)
        return sandbox_files.DeleteResult(deleted=count, done=done)

    return await call.services.files.run(params.name, work)


# Paths.


def _of_a_file(path: str) -> tree.Parts:
    parts = parts_of(path)
    if not parts:
        raise refusal(ErrorCode.INVALID_REQUEST, "path", f"{WORK} is a directory")
    return parts


def _shown(parts: tree.Parts) -> str:
    return "/".join((WORK, *(part.decode() for part in parts)))


def _cursor(name: bytes) -> str:
    return base64.urlsafe_b64encode(name).decode().rstrip("=")


def _decoded_cursor(cursor: str | None) -> bytes:
    if cursor is None:
        return b""
    try:
        return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except binascii.Error:
        raise refusal(ErrorCode.INVALID_REQUEST, "cursor", "is not one of `next`") from None


# Contents.


def _entry(found: tree.Found) -> sandbox_files.Entry:
    mode = found.status.st_mode
    name = found.name.decode(errors="replace")
    return sandbox_files.Entry(
        name=name,
        type=_type(mode),
        size=_told(found.status.st_size),
        mtime_ms=_mtime_ms(found.status),
        executable=stat.S_ISREG(mode) and bool(mode & stat.S_IXUSR),
        target=None if found.target is None else found.target.decode(errors="replace"),
        reachable=name.encode() == found.name,
    )


def _type(mode: int) -> sandbox_files.EntryType:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "other"


def _mtime_ms(status: os.stat_result) -> int:
    return _told(status.st_mtime_ns // 1_000_000)


def _told(number: int) -> int:
    # A program may give its file any time, and any length that has holes in it.
    return max(-limits.JSON_INTEGER_ABS_MAX, min(number, limits.JSON_INTEGER_ABS_MAX))


def _encoded(data: bytes, params: sandbox_files.GetParams, *, ends: bool) -> tuple[int, str]:
    """Give how many bytes are told, and them as text."""
    if params.encoding == "base64":
        return len(data), base64.b64encode(data).decode()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        cut = error.reason == "unexpected end of data" and not ends
        if not cut or error.start == 0 or len(data) - error.start >= _UTF8_BYTES_MAX:
            raise _no_text() from None
        text = data[: error.start].decode()
        data = data[: error.start]
    if "\0" in text:
        raise _no_text()
    return len(data), text


def _no_text() -> GatewayError:
    why = "these bytes are no text in UTF-8; ask for base64"
    return refusal(ErrorCode.INVALID_REQUEST, "encoding", why)


def _decoded(params: sandbox_files.PutParams) -> bytes:
    try:
        if params.encoding == "base64":
            data = binascii.a2b_base64(params.data, strict_mode=True)
        else:
            data = params.data.encode()
    except ValueError:
        why = "is no base64" if params.encoding == "base64" else "is not valid Unicode"
        raise refusal(ErrorCode.INVALID_REQUEST, "data", why) from None
    if len(data) > limits.SANDBOX_FILE_BYTES_MAX:
        why = f"has more than {limits.SANDBOX_FILE_BYTES_MAX} bytes"
        raise refusal(ErrorCode.INVALID_REQUEST, "data", why)
    return data
