"""Real processes of ours for tests: what is locked, killed or limited is never this process."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def running(code: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run `code` with pipes for its input and output; it is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    """Wait for a line of its output; pytest's timeout bounds the wait."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "it ended"
    return line.rstrip("\n")


def tell(process: subprocess.Popen[str], line: str = "") -> None:
    """Give it a line of input."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
