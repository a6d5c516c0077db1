"""The Docker engine against a real daemon: how programs run, end, and what they find there."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from protocol import launching
from protocol.environment import BASE
from protocol.errors import ErrorCode, GatewayError
from supervisor.launcher.engine import Size
from tests.conftest import make_state_dir, remove_tree
from tests.supervisor.launcher.docker_runs import GID, UID, Sandboxes

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandboxes(dockerd: str, docker_image: str) -> AsyncIterator[Sandboxes]:
    state_dir = make_state_dir()
    made = Sandboxes(state_dir, dockerd, {"base": docker_image})
    yield made
    await made.engine.close()
    remove_tree(state_dir)


# How a program ends


@pytest.mark.parametrize(
    ("script", "exit_code", "number"),
    [
        ("exit 0", 0, None),
        ("exit 7", 7, None),
        ("kill -TERM $$", None, signal.SIGTERM),
        ("exec 1>&- 2>&-; sleep 0.4; exit 5", 5, None),
        ("sleep 60 & exit 3", 3, None),
    ],
    ids=["success", "failure", "signal", "silent", "left-behind"],
)
async def test_ends(
    sandboxes: Sandboxes, script: str, exit_code: int | None, number: int | None
) -> None:
    outcome = (await sandboxes.shell(script)).outcome
    assert outcome[:3] == (exit_code, number, False)


@pytest.mark.parametrize("argv", [("no-such-program",), ("/etc/passwd",), ("/work",)])
async def test_what_cannot_be_executed(sandboxes: Sandboxes, argv: tuple[str, ...]) -> None:
    said = await sandboxes.run(*argv)
    assert said.outcome[:2] == (127, None)
    assert said.out == b""
    assert said.err.startswith(b"sandbox: ")
    assert argv[0].encode() in said.err


async def test_what_only_looks_like_dockers_refusal(sandboxes: Sandboxes) -> None:
    said = await sandboxes.shell("printf 'OCI runtime exec failed: exec failed: no'; exit 126")
    assert said.outcome[:2] == (126, None)
    assert said.out == b"OCI runtime exec failed: exec failed: no"


async def test_kill(sandboxes: Sandboxes) -> None:
    job, pipes = await sandboxes.begin("/bin/sh", "-c", "sleep 60 & echo on; sleep 60")
    assert await asyncio.to_thread(os.read, pipes[1], 10) == b"on\n"
    job.kill()
    job.kill()
    async with asyncio.timeout(10):
        outcome = await job.wait()
    job.close()
    assert outcome[:2] == (None, signal.SIGKILL)
    for descriptor in pipes:
        os.close(descriptor)


async def test_kill_while_nobody_reads(sandboxes: Sandboxes) -> None:
    job, pipes = await sandboxes.begin("/bin/cat", "/dev/zero")
    await asyncio.to_thread(os.read, pipes[1], 1)
    job.kill()
    async with asyncio.timeout(10):
        assert (await job.wait()).signal == signal.SIGKILL
    job.close()
    for descriptor in pipes:
        os.close(descriptor)


async def test_out_of_memory(sandboxes: Sandboxes) -> None:
    caps = launching.Caps(memory_bytes=64 * 2**20, cpus=1.0, pids=64)
    script = "x = bytearray(256 << 20); print(len(x))"
    said = await sandboxes.run("python3", "-c", script, caps=caps)
    assert said.outcome.oom_killed
    assert said.outcome.signal == signal.SIGKILL
    assert said.out == b""


async def test_usage(sandboxes: Sandboxes) -> None:
    script = "x = b'x' * (32 << 20)\nimport time\nwhile time.process_time() < 0.4: pass"
    outcome = (await sandboxes.run("python3", "-c", script)).outcome
    assert outcome.exit_code == 0
    assert 300 <= outcome.cpu_ms < 3000
    assert outcome.peak_memory_bytes is None or 32 << 20 <= outcome.peak_memory_bytes < 128 << 20


async def test_the_least_limits(sandboxes: Sandboxes) -> None:
    caps = launching.Caps(memory_bytes=16 * 2**20, cpus=0.1, pids=4)
    said = await sandboxes.shell("echo ok", caps=caps)
    assert (said.outcome.exit_code, said.out) == (0, b"ok\n")


# Its standard streams


async def test_input_output_and_errors_are_apart(sandboxes: Sandboxes) -> None:
    script = "cat; echo end; echo wrong >&2"
    said = await sandboxes.shell(script, stdin=b"\x00\xff line\n")
    assert said[1:] == (b"\x00\xff line\nend\n", b"wrong\n")


async def test_much_of_both_ways(sandboxes: Sandboxes) -> None:
    data = os.urandom(4 << 20)
    said = await sandboxes.run("/bin/cat", stdin=data)
    assert said.outcome.exit_code == 0
    assert said.out == data


async def test_much_that_was_said_before_it_ended(sandboxes: Sandboxes) -> None:
    script = "(setsid sleep 60; echo no) & head -c 3000000 /dev/zero; exit 6"
    said = await sandboxes.shell(script)
    assert said.outcome[:2] == (6, None)
    assert len(said.out) == 3000000


async def test_input_that_nobody_takes(sandboxes: Sandboxes) -> None:
    said = await sandboxes.run("/bin/true", stdin=bytes(1 << 20))
    assert said.outcome.exit_code == 0


async def test_output_that_nobody_takes_ends_it(sandboxes: Sandboxes) -> None:
    job, (to, out, err) = await sandboxes.begin("/bin/cat", "/dev/zero")
    for descriptor in (to, out, err):
        os.close(descriptor)
    async with asyncio.timeout(20):
        assert (await job.wait())[:2] == (None, signal.SIGPIPE)
    job.close()


# What it finds


async def test_its_environment_is_what_was_given(sandboxes: Sandboxes) -> None:
    given = dict(BASE) | {"ONE": "1", "ÜMLAUT": "ä\n", "HOSTNAME": "mine"}
    said = await sandboxes.run("python3", "-c", "import os; print(dict(os.environ))", env=given)
    assert eval(said.out) == given | {"LC_CTYPE": "C.UTF-8"} or eval(said.out) == given
    said = await sandboxes.run("/usr/bin/env", env={"PATH": "/bin", "HOME": "/"})
    assert sorted(said.out.splitlines()) == [b"HOME=/", b"PATH=/bin"]


async def test_who_it_is(sandboxes: Sandboxes) -> None:
    said = await sandboxes.shell("id -u; id -g; id -G; id -un; hostname; pwd", cwd="/tmp")
    assert said.out.decode().split() == [*map(str, (UID, GID, GID)), "sandbox", "sandbox", "/tmp"]


async def test_a_directory_to_start_in(sandboxes: Sandboxes) -> None:
    inside = sandboxes.directory() / "a b"
    inside.mkdir()
    os.chown(inside, UID, GID)
    look = "import os, sys; print(os.getcwd(), sys.argv[1:], 'OLDPWD' in os.environ)"
    said = await sandboxes.run("python3", "-c", look, "", "x y", cwd="/work/a b")
    assert said.out.decode() == "/work/a b ['', 'x y'] False\n"


async def test_no_link_leads_what_starts_it_out(sandboxes: Sandboxes) -> None:
    for number in range(3, 12):
        (sandboxes.directory() / f"fd{number}").symlink_to(f"/proc/self/fd/{number}")
    for number in range(3, 12):
        said = await sandboxes.shell("pwd -P; ls ../..", cwd=f"/work/fd{number}")
        assert said.outcome[:2] == (127, None), said
        assert said.out == b""


async def test_what_it_may(sandboxes: Sandboxes) -> None:
    said = await sandboxes.shell("cat /proc/self/status")
    status = dict(line.split(":\t", 1) for line in said.out.decode().splitlines() if ":\t" in line)
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


async def test_its_limits(sandboxes: Sandboxes) -> None:
    said = await sandboxes.shell("ulimit -c -n; cat /proc/self/limits", file_bytes=3 << 20)
    limits = {line[:25].strip(): line[25:].split()[:2] for line in said.out.decode().splitlines()}
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max file size"] == [str(3 << 20)] * 2
    assert limits["Max open files"] == ["1024", "1024"]


async def test_its_file_system(sandboxes: Sandboxes) -> None:
    script = """
    for folder in / /usr /etc /bin /dev /sys /proc /root /var; do
        touch $folder/x 2>/dev/null && echo "$folder can be written"
    done
    for folder in /tmp /var/tmp /run /dev/shm /work; do
        cp /bin/true $folder/x && $folder/x || echo "$folder cannot be used"
    done
    ls /sys; cat /etc/resolv.conf; cat /proc/net/route | wc -l
    dd if=/dev/zero of=/tmp/big bs=1M count=100 2>/dev/null; stat -c %s /tmp/big
    """
    said = await sandboxes.shell(script, file_bytes=1 << 30)
    routes, filled = said.out.split()
    assert int(routes) == 1  # the heading
    assert 60 << 20 < int(filled) < 64 << 20
    assert (sandboxes.directory() / "x").stat().st_uid == UID


async def test_two_runs_share_their_directory_and_nothing_else(sandboxes: Sandboxes) -> None:
    await sandboxes.shell("echo 1 >/work/kept; echo 1 >/tmp/lost; sleep 60 &")
    said = await sandboxes.shell("cat /work/kept /tmp/lost; ps -e | grep -c sleep")
    assert said.out == b"1\n1\n"  # Docker's own one
    assert b"/tmp/lost" in said.err


async def test_names_are_directories_of_their_own(sandboxes: Sandboxes) -> None:
    await sandboxes.shell("echo 1 >/work/other", name="one")
    assert (sandboxes.directory("one") / "other").read_text() == "1\n"
    assert (await sandboxes.shell("ls /work", name="two")).out == b""


# A terminal


WATCH_SIZE = """
import os, signal
changed = {signal.SIGWINCH}
signal.pthread_sigmask(signal.SIG_BLOCK, changed)
def wait_for(columns, rows):
    while os.get_terminal_size() != (columns, rows):
        signal.sigtimedwait(changed, 20)
    print(os.ttyname(1), columns, rows, flush=True)
wait_for(91, 17)
print("said", input(), flush=True)
wait_for(120, 40)
exit(9)
"""


async def test_terminal(sandboxes: Sandboxes) -> None:
    job = await sandboxes.terminal("python3", "-c", WATCH_SIZE, size=Size(91, 17))
    assert job.terminal is not None
    await until(job.terminal, b"/dev/pts/0 91 17\r\n")
    # Docker would take leave at the first two, and the terminal keeps the second to itself.
    os.write(job.terminal, "\x10\x11ü\n".encode())
    await until(job.terminal, "said \x10ü\r\n".encode())
    job.resize(Size(120, 40))
    await until(job.terminal, b"/dev/pts/0 120 40\r\n")
    async with asyncio.timeout(10):
        assert (await job.wait())[:2] == (9, None)
    job.close()


async def test_terminal_keys(sandboxes: Sandboxes) -> None:
    job = await sandboxes.terminal("/bin/sh", size=Size(80, 24))
    assert job.terminal is not None
    os.write(job.terminal, b"(echo o''n; exec sleep 60)\n")
    await until(job.terminal, b"on\r\n")
    os.write(job.terminal, b"\x03echo after $?\n")
    await until(job.terminal, b"after 130\r\n")
    os.write(job.terminal, b"exit 4\n")
    async with asyncio.timeout(10):
        assert (await job.wait())[:2] == (4, None)
    job.close()


async def until(descriptor: int, mark: bytes) -> bytes:
    seen = b""
    deadline = time.monotonic() + 20
    while mark not in seen:
        assert time.monotonic() < deadline, seen
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            await asyncio.sleep(0.01)
            continue
        assert data, seen
        seen += data
    return seen


# What cannot be had


async def test_an_image_that_is_not_in_the_list(sandboxes: Sandboxes) -> None:
    with pytest.raises(GatewayError, match="image: other is not among base") as refused:
        await sandboxes.shell("true", image="other")
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert refused.value.details["field"] == "image"


async def test_a_directory_that_is_not_there(sandboxes: Sandboxes) -> None:
    said = await sandboxes.shell("true", cwd="/work/nowhere")
    assert said.outcome[:2] == (127, None)
    assert b"/work/nowhere" in said.err
