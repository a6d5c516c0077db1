"""`openclaw logs`: read `gateway.log`."""

import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

import click
import msgspec

from cli.exits import fail
from protocol.names import token_prefix
from supervisor.state import StateError, StateRoot, default_root

FOLLOW_SECONDS: Final = 0.2
LINE_CHARS_MAX: Final = 64 * 1024


class _Entry(msgspec.Struct):
    """What of a line says whom it is about; the front's own lines name the prefix of a token."""

    tenant: str | None = None
    source: str | None = None
    line: str = ""


@click.command("logs")
@click.option("--tenant", help="Only lines about this tenant.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on.")
@click.option("--lines", "-n", type=click.IntRange(0, 1_000_000), default=1000, help="How many.")
def command(tenant: str | None, follow: bool, lines: int) -> None:
    """Print the newest lines of the gateway's log, JSON each."""
    try:
        path = StateRoot(default_root()).log
        with path.open(encoding="utf-8", errors="replace") as file:
            newest = deque((line for line in file if _concerns(line, tenant)), maxlen=lines)
            for line in newest:
                click.echo(line, nl=False)
            if follow:
                for line in _follow(path, file):
                    if _concerns(line, tenant):
                        click.echo(line, nl=False)
    except (OSError, StateError) as error:
        fail(f"the log cannot be read: {error}")


def _concerns(line: str, tenant: str | None) -> bool:
    if tenant is None:
        return True
    if tenant not in line:  # most of them; reading them all takes much longer
        return False
    try:
        entry = msgspec.json.decode(line, type=_Entry)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False
    if entry.tenant is not None:
        return entry.tenant == tenant  # whatever it has written itself
    return entry.source == "front" and token_prefix(tenant) in entry.line


def _follow(path: Path, file: TextIO) -> Iterator[str]:
    """Give every line that is added, also after the file was rotated away."""
    while True:
        line = file.readline(LINE_CHARS_MAX)
        if line:
            yield line
        else:
            time.sleep(FOLLOW_SECONDS)
            if path.exists() and not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                yield from file
                file.close()
                file = path.open(encoding="utf-8", errors="replace")
