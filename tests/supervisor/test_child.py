import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.child import Child, Exit, start_python
from tests.supervisor.scripts import line_of, running

WAIT_SECONDS = 20.0

# Says that it is up on descriptor 4 and ends when descriptor 3 does.
UP_UNTIL_CLOSED = "import os; os.write(4, b'+'); os.read(3, 1)"
# Every signal's default, for the interpreter itself changes some.
UP_FOR_EVER = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.write(3, b'+')
while True: signal.pause()
"""

SWAP = """
import os
from supervisor.child import start_python
reader, writer = os.pipe()
pid = start_python(["-c", "import os; os.write(3, b'x'); os.read(4, 1)"], (writer, reader), 2)
print(reader, writer, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Pipe:
    """A pipe of which the parent keeps one end."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def close(self) -> None:
        for descriptor in (self.reader, self.writer):
            os.close(descriptor)


@pytest.fixture
def pipes() -> Iterator[list[Pipe]]:
    made = [Pipe() for _ in range(3)]
    yield made
    for pipe in made:
        pipe.close()


def python(code: str, *descriptors: int, stderr: int = 2) -> int:
    return start_python(["-I", "-S", "-c", code], descriptors, stderr)


def links(pid: int) -> dict[int, str]:
    found = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists the folder
            found[int(path.name)] = str(path.readlink())
    return found


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def program(pid: int) -> Path:
    return Path(f"/proc/{pid}/exe").readlink()


def await_state(pid: int, options: int) -> None:
    """Block until it is so, which no event loop hears of."""
    os.waitid(os.P_PID, pid, options)


def mask(pid: int, name: str) -> set[int]:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    bits = int(next(line for line in status if line.startswith(name)).split()[1], 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


async def ended(child: Child) -> Exit:
    async with asyncio.timeout(WAIT_SECONDS):
        return await child.wait()


async def run(code: str) -> Exit:
    seen: list[Exit] = []
    child = Child(python(code), seen.append)
    status = await ended(child)
    assert seen == [status]
    assert child.ended
    return status


# --- what it is started with


async def test_it_has_the_given_descriptors_and_no_environment(
    pipes: list[Pipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inp, out, err = pipes
    monkeypatch.setenv("SECRET", "of-the-supervisor")
    another = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(another, True)
    before = links(os.getpid())
    pid = python(UP_UNTIL_CLOSED, inp.reader, out.writer, stderr=err.writer)
    child = Child(pid, lambda _: None)
    assert os.read(out.reader, 1) == b"+"
    assert links(pid) == {
        0: "/dev/null",
        1: "/dev/null",
        2: before[err.writer],
        3: before[inp.reader],
        4: before[out.writer],
    }
    assert environment(pid) == b""
    assert os.getpgid(pid) == pid
    assert program(pid) == program(os.getpid())
    # Nothing of it stays with us but the pidfd.
    assert set(links(os.getpid())) - set(before) == {child._pidfd}
    os.write(inp.writer, b"+")
    assert await ended(child) == Exit(0, None)
    assert links(os.getpid()) == before
    os.close(another)


async def test_descriptors_are_passed_in_order_and_as_often_as_named(pipes: list[Pipe]) -> None:
    one, two, err = pipes
    # Written in descending order and with repeats, a dup2 in place would overwrite one.
    given = [two.writer, one.writer, two.writer, one.writer, two.writer, one.writer]
    code = "import os\nfor fd in range(3, 9): os.write(fd, str(fd).encode())"
    child = Child(python(code, *given, stderr=err.writer), lambda _: None)
    assert await ended(child) == Exit(0, None)
    assert os.read(one.reader, 10) == b"468"
    assert os.read(two.reader, 10) == b"357"


def test_descriptors_that_have_each_others_numbers_are_swapped() -> None:
    with running(SWAP) as process:
        assert line_of(process) == "3 4 0"


async def test_it_starts_with_no_signal_blocked_or_ignored(pipes: list[Pipe]) -> None:
    _, out, _ = pipes
    ours = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ours}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    try:
        child = Child(python(UP_FOR_EVER, out.writer), lambda _: None)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert os.read(out.reader, 1) == b"+"
    assert mask(child.pid, "SigBlk") == set()
    assert not mask(child.pid, "SigIgn") & set(ours)
    child.signal(signal.SIGTERM)
    assert await ended(child) == Exit(None, signal.SIGTERM)


async def test_a_program_that_fails_says_so_on_the_given_stderr(pipes: list[Pipe]) -> None:
    _, _, err = pipes
    pid = start_python(["-I", "-m", "supervisor.no_such_module"], (), err.writer)
    assert await ended(Child(pid, lambda _: None)) == Exit(1, None)
    assert b"no_such_module" in os.read(err.reader, 4096)


def test_a_start_that_fails_leaves_no_descriptor_open(
    pipes: list[Pipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = links(os.getpid())
    with pytest.raises(OSError, match="Bad file descriptor"):
        start_python(["-c", ""], (pipes[0].reader, 1_000_000), 2)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        start_python(["-c", ""], (pipes[0].reader,), 2)
    assert links(os.getpid()) == before


# --- how it ends


@pytest.mark.parametrize("code", [0, 1, 3, 78, 255])
async def test_an_exit_code_is_told(code: int) -> None:
    status = await run(f"import os; os._exit({code})")
    assert status == Exit(code, None)
    assert str(status) == f"exited with {code}"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "killed by SIGKILL"),
        (signal.SIGTERM, "killed by SIGTERM"),
        (signal.SIGABRT, "killed by SIGABRT"),
        (signal.SIGRTMIN, "killed by SIGRTMIN"),
        (40, "killed by signal 40"),
        (signal.SIGRTMAX, "killed by SIGRTMAX"),
    ],
)
async def test_a_signal_is_told(number: int, said: str) -> None:
    status = await run(
        "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
        f"os.kill(os.getpid(), {int(number)})"
    )
    assert status == Exit(None, number)
    assert str(status) == said


async def test_every_waiter_is_told_and_a_cancelled_one_harms_no_other(
    pipes: list[Pipe],
) -> None:
    inp, out, _ = pipes
    child = Child(python(UP_UNTIL_CLOSED, inp.reader, out.writer), lambda _: None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await child.wait()
    assert not child.ended
    waiters = [asyncio.create_task(child.wait()) for _ in range(3)]
    os.write(inp.writer, b"+")
    async with asyncio.timeout(WAIT_SECONDS):
        assert await asyncio.gather(*waiters) == [Exit(0, None)] * 3
    assert await child.wait() == Exit(0, None)


async def test_it_is_reaped(pipes: list[Pipe]) -> None:
    child = Child(python(""), lambda _: None)
    await ended(child)
    with pytest.raises(ChildProcessError):
        await_state(child.pid, os.WEXITED | os.WNOHANG)


async def test_a_stop_is_no_end(pipes: list[Pipe]) -> None:
    _, out, _ = pipes
    child = Child(python(UP_FOR_EVER, out.writer), lambda _: None)
    assert os.read(out.reader, 1) == b"+"
    child.signal(signal.SIGSTOP)
    await_state(child.pid, os.WSTOPPED)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await child.wait()
    child.signal(signal.SIGKILL)
    assert await ended(child) == Exit(None, signal.SIGKILL)


# --- whom a signal reaches


async def test_a_signal_after_the_end_reaches_nobody(pipes: list[Pipe]) -> None:
    _, out, _ = pipes
    gone = Child(python(""), lambda _: None)
    number = gone._pidfd
    await ended(gone)
    # The next child has the descriptor number that the one before had.
    child = Child(python(UP_FOR_EVER, out.writer), lambda _: None)
    assert child._pidfd == number
    assert os.read(out.reader, 1) == b"+"
    gone.signal(signal.SIGKILL)
    child.signal(signal.SIGTERM)
    assert await ended(child) == Exit(None, signal.SIGTERM)


async def test_a_signal_to_what_has_ended_but_is_not_reaped_harms_nobody() -> None:
    child = Child(python(""), lambda _: None)
    await_state(child.pid, os.WEXITED | os.WNOWAIT)
    assert not child.ended
    child.signal(signal.SIGKILL)
    assert await ended(child) == Exit(0, None)


def test_who_is_no_child_is_refused() -> None:
    async def watch(pid: int) -> None:
        Child(pid, lambda _: None)

    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        with pytest.raises(ProcessLookupError):
            asyncio.run(watch(process.pid))
