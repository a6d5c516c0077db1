"""The front as a process: how it starts, what it is called, when it ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.supervisor.front.harness import REPOSITORY, rpc, running


def _title(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")


async def test_its_title_says_what_it_is() -> None:
    async with running() as front:
        assert _title(front.process.pid) == b"openclaw: front"


async def test_it_ends_with_the_link_to_the_supervisor() -> None:
    async with running() as front:
        worker = await front.worker()
        client = await front.connect()
        await client.send(rpc())
        await worker.next_call()
        front.end.close()
        assert await front.exit_code() == 0
        assert await client.at_end()


async def test_it_says_that_it_has_started() -> None:
    async with running() as front:
        await front.worker(echo=True)
        await front.once(rpc())
        assert front.log[0]["event"] == "start"
        assert front.log[0]["version"] == "1.2.3"


async def test_a_ping_is_answered() -> None:
    async with running() as front:
        assert front.end.link.ping() == 0
        front.end.flush()
        await front.worker(echo=True)
        await front.once(rpc())
        assert front.end.link.ping() == 0


@pytest.mark.parametrize("arguments", [[], ["3"], ["3", "x"], ["3", "4", "5"]])
def test_wrong_arguments_are_a_usage_error(arguments: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.supervisor.front.program", "{}", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 78
    assert b"usage" in ended.stderr
