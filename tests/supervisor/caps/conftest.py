"""A cgroup to try things in, whichever version there is, and programs in it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.caps import place
from supervisor.caps.group import Group
from tests.cgroups import SETTING

PROGRAM = Path(__file__).with_name("greedy.py")


@pytest.fixture(scope="session")
def area() -> Iterator[place.Cgroup]:
    """Give a cgroup whose children can be limited."""
    base = place.find(SETTING).group
    made = base.make(f"openclaw-test-{os.getpid()}")
    base.share()
    made.share()
    yield made
    made.kill()
    made.remove()


@pytest.fixture
def group(area: place.Cgroup) -> Iterator[place.Cgroup]:
    """Give an empty cgroup."""
    made = area.child(f"group-{time.monotonic_ns()}")
    yield made
    made.kill()
    made.remove()


Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run() -> Iterator[Run]:
    """Give a function that starts a program of `greedy.py` in a cgroup; gives it running."""
    with contextlib.ExitStack() as stack:

        def start(group: Group, *arguments: object) -> subprocess.Popen[str]:
            program = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, str(PROGRAM), *map(str, arguments)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[3])},
                )
            )
            stack.callback(program.kill)
            group.adopt(program.pid)
            assert program.stdin is not None
            program.stdin.write("go\n")
            program.stdin.flush()
            return program

        yield start
