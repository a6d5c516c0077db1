"""`openclaw sandbox files`: what lies in a tenant's sandboxes."""

import base64
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import click
import msgspec

from cli.acting import Acting, acting
from cli.exits import fail
from cli.limits import size_text
from cli.output import as_json, plain, print_json
from cli.sandbox_run import tenant_option
from protocol import launching, limits
from protocol.methods import sandbox_files

STANDARD: Final = "-"
_MARKS: Final = {"file": " ", "directory": "d", "link": "l", "other": "?"}
_list: Final = msgspec.json.Decoder(sandbox_files.ListResult).decode
_get: Final = msgspec.json.Decoder(sandbox_files.GetResult).decode
_delete: Final = msgspec.json.Decoder(sandbox_files.DeleteResult).decode
_name_option: Final = click.option(
    "--name", default=launching.DEFAULT_NAME, help="Which sandbox's /work."
)


@click.group("files")
def files() -> None:
    """List, fetch, write and remove files of sandboxes; paths are in or below /work."""


@files.command("list")
@tenant_option
@_name_option
@as_json
@click.argument("path", default=launching.WORK)
def list_files(tenant: str, name: str, as_json: bool, path: str) -> None:
    """List a directory."""
    with acting(tenant, "files", scopes=("read",)) as acts:
        found = [entry for page in _pages(acts, name, path) for entry in page.entries]
    if as_json:
        print_json(found)
        return
    for entry in found:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(entry.mtime_ms // 1000, 2**35)))
        target = "" if entry.target is None else f" -> {plain(entry.target)}"
        mark = "*" if entry.executable else _MARKS[entry.type]
        click.echo(f"{mark} {size_text(entry.size):>7}  {when}  {plain(entry.name)}{target}")


def _pages(acts: Acting, name: str, path: str) -> Iterator[sandbox_files.ListResult]:
    params = {"name": name, "path": path, "limit": limits.SANDBOX_FILES_PAGE_MAX}
    while True:
        page = _list(acts.call("sandbox.files.list", params))
        yield page
        if page.next is None:
            return
        params["cursor"] = page.next


@files.command("get")
@tenant_option
@_name_option
@click.argument("path")
@click.argument("local", required=False)
def get(tenant: str, name: str, path: str, local: str | None) -> None:
    """Fetch a file; without LOCAL under its own name into this directory, to `-` as output."""
    local = local or path.rstrip("/").rsplit("/", 1)[-1]
    with acting(tenant, "files", scopes=("read",)) as acts, _written(local) as file:
        params = {"name": name, "path": path, "encoding": "base64", "offset": 0}
        while True:
            piece = _get(acts.call("sandbox.files.get", params))
            file.write(base64.b64decode(piece.data))
            if piece.eof:
                return
            params["offset"] = piece.offset + piece.length


@contextlib.contextmanager
def _written(local: str) -> Iterator[BinaryIO]:
    """Give a file that has its name when all of it is there."""
    if local == STANDARD:
        yield sys.stdout.buffer
        return
    partial = Path(f"{local}.{os.getpid()}.part")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(local)
    except OSError as error:
        fail(f"{local}: {error.strerror}")
    finally:
        partial.unlink(missing_ok=True)


@files.command("put")
@tenant_option
@_name_option
@click.option("--executable", "-x", is_flag=True, help="It is a program.")
@click.option("--no-overwrite", is_flag=True, help="Refuse a name that is taken.")
@click.argument("local")
@click.argument("path")
def put(
    tenant: str, name: str, executable: bool, no_overwrite: bool, local: str, path: str
) -> None:
    """Write a file, `-` for what is read here, as PATH.

    What is longer than 4 MiB is written in pieces, and is not there as a whole before the last.
    """
    params = {"name": name, "path": path, "encoding": "base64"}
    first = {"overwrite": not no_overwrite, "executable": executable}
    count = 0
    with _read(local) as file, acting(tenant, "files") as acts:
        while True:
            piece = file.read(limits.SANDBOX_FILE_BYTES_MAX)
            if count and not piece:
                break
            where = {"offset": count} if count else first
            data = base64.b64encode(piece).decode()
            acts.call("sandbox.files.put", params | where | {"data": data})
            count += len(piece)
            if len(piece) < limits.SANDBOX_FILE_BYTES_MAX:
                break
    click.echo(f"✓ {count} bytes in {plain(path)}")


@contextlib.contextmanager
def _read(local: str) -> Iterator[BinaryIO]:
    if local == STANDARD:
        yield sys.stdin.buffer
        return
    try:
        with Path(local).open("rb") as file:
            yield file
    except OSError as error:
        fail(f"{local}: {error.strerror}")


@files.command("delete")
@tenant_option
@_name_option
@click.option("--recursive", "-r", is_flag=True, help="With all that is in a directory.")
@click.argument("path")
def delete(tenant: str, name: str, recursive: bool, path: str) -> None:
    """Remove a file or a directory; of /work itself, what is in it."""
    count = 0
    params = {"name": name, "path": path, "recursive": recursive}
    with acting(tenant, "files") as acts:
        while True:
            part = _delete(acts.call("sandbox.files.delete", params))
            count += part.deleted
            if part.done:
                break
    click.echo(f"✓ {count} removed")
