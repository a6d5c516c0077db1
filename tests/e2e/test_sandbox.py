"""A program that a tenant runs goes by its worker and the launcher into a sandbox of its own."""

import base64
import http.client
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from protocol import limits
from supervisor.caps import place
from tests import cgroups
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import REQUEST_SECONDS, Gateway, Reply, ends
from tests.e2e.sandboxes import Run, wait_running

CONCURRENT = 2
QUEUED = 2
WALL_SECONDS = 100
MIB = 2**20
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def shared() -> Iterator[Gateway]:
    path = make_state_dir()
    (path / "config.yaml").write_text(
        f"sandbox: {{concurrent: {CONCURRENT}, queued: {QUEUED}, wall_seconds: {WALL_SECONDS}, "
        f"memory_bytes: {256 * MIB}, file_bytes: {4 * MIB}}}\n"
    )
    try:
        with Gateway(path) as gateway:
            yield gateway
    finally:
        remove_tree(path)


@pytest.fixture
def token(shared: Gateway) -> str:
    return shared.create(f"tenant-{next(_numbers)}")


def sleeper() -> str:
    """Seconds that no other test sleeps, which tell its process from any other."""
    return f"1000.{os.getpid()}{next(_numbers)}"


def asleep(seconds: str) -> list[psutil.Process]:
    """Give the processes that sleep so long."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline() == ["sleep", seconds]:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def wait_until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + REQUEST_SECONDS
    while not (found := what()):
        assert time.monotonic() < deadline
    return found


def refused(reply: Reply, code: str, field: str | None = None) -> dict[str, Any]:
    error: dict[str, Any] = reply.json["error"]
    assert error["data"]["code"] == code, error
    assert error["data"].get("field") == field, error
    return error


# --- what comes out of it


def test_a_program_runs_apart(shared: Gateway, token: str) -> None:
    ran = shared.rpc(
        token,
        "sandbox.run",
        argv=["/bin/sh", "-c", "cat; id -u; pwd; ls -a /; echo problem >&2; exit 3"],
        stdin="from outside\n",
    )
    assert ran["exitCode"] == 3, ran
    assert ran["signal"] is None
    lines = ran["stdout"].splitlines()
    assert lines[0] == "from outside"
    assert int(lines[1]) != 0 or os.geteuid() == 0
    assert lines[2] == "/work"
    assert "tenants" not in ran["stdout"]
    assert ran["stderr"] == "problem\n"
    assert ran["mode"] == "bubblewrap"
    assert ran["truncated"] is ran["timedOut"] is ran["oomKilled"] is False
    assert ran["wallMs"] >= 1
    assert ran["cpuMs"] >= 1
    assert MIB // 4 < ran["peakMemoryBytes"] < 64 * MIB


def test_a_signal_is_told(shared: Gateway, token: str) -> None:
    ran = shared.rpc(token, "sandbox.run", argv=["sh", "-c", "kill -SEGV $$"])
    assert (ran["exitCode"], ran["signal"]) == (None, signal.SIGSEGV)


def test_a_program_that_is_not_there_is_a_result(shared: Gateway, token: str) -> None:
    ran = shared.rpc(token, "sandbox.run", argv=["/nowhere/at-all"])
    assert ran["exitCode"] == 127
    assert "/nowhere/at-all" in ran["stderr"]


def test_bytes_go_in_and_out(shared: Gateway, token: str) -> None:
    data = bytes(range(256)) * 16384  # far more than pipes hold
    ran = shared.rpc(
        token,
        "sandbox.run",
        argv=["sh", "-c", "head -c 1000000 | tee /dev/stderr"],
        stdin=base64.b64encode(data[: limits.SANDBOX_INPUT_BYTES_MAX]).decode(),
        stdinEncoding="base64",
    )
    for stream in ("stdout", "stderr"):
        assert ran[f"{stream}Encoding"] == "base64"
        assert base64.b64decode(ran[stream]) == data[:1_000_000]
    assert ran["truncated"] is False


def test_output_is_bounded_and_whole_to_its_last_character(shared: Gateway, token: str) -> None:
    program = "import sys; sys.stdout.write('x' + 'ä' * 3_000_000)"
    ran = shared.rpc(token, "sandbox.run", argv=["python3", "-c", program])
    assert ran["exitCode"] == 0
    assert ran["truncated"] is True
    assert ran["stdoutEncoding"] == "text"
    assert len(ran["stdout"].encode()) == limits.SANDBOX_OUTPUT_BYTES_MAX - 1


def streamed(gateway: Gateway, token: str, **params: Any) -> tuple[list[Any], dict[str, Any]]:
    """Run with a stream; gives its pieces and the result."""
    connection = http.client.HTTPConnection(gateway.address, timeout=REQUEST_SECONDS)
    call = {"jsonrpc": "2.0", "id": 1, "method": "sandbox.run", "params": params}
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    headers["Content-Type"] = "application/json"
    connection.request("POST", "/rpc", json.dumps(call), headers)
    parts = connection.getresponse().read().decode().split("\n\n")
    connection.close()
    events = [part.split("\ndata: ") for part in parts if part.startswith("event: ")]
    assert {name for name, _ in events[:-1]} == {"event: output"}
    return [json.loads(body) for _, body in events[:-1]], json.loads(events[-1][1])["result"]


def test_output_is_streamed_with_whole_characters(shared: Gateway, token: str) -> None:
    program = (
        "import sys, time\n"
        "for byte in 'größer 𝄞\\n'.encode():\n"
        "    sys.stdout.buffer.write(bytes([byte])); sys.stdout.flush(); time.sleep(0.001)\n"
        "sys.stderr.buffer.write(b'\\xff\\xfe')\n"
        "sys.stdout.buffer.write(b'half: \\xc3')\n"
    )
    pieces, result = streamed(shared, token, argv=["python3", "-c", program], stream=True)
    assert result["exitCode"] == 0
    assert result["stdout"] == result["stderr"] == ""
    out = [piece for piece in pieces if piece["stream"] == "stdout"]
    assert "".join(piece.get("text", "") for piece in out) == "größer 𝄞\nhalf: "
    assert base64.b64decode(out[-1]["base64"]) == b"\xc3"
    err = [piece["base64"] for piece in pieces if piece["stream"] == "stderr"]
    assert b"".join(map(base64.b64decode, err)) == b"\xff\xfe"


def test_a_stream_gives_all_there_is(shared: Gateway, token: str) -> None:
    argv = ["sh", "-c", "yes | head -c 5000000"]
    pieces, result = streamed(shared, token, argv=argv, stream=True)
    assert sum(len(piece["text"]) for piece in pieces) == 5_000_000
    assert result["truncated"] is False


def test_what_a_program_leaves_is_there_for_the_next(shared: Gateway, token: str) -> None:
    def run(line: str, name: str) -> str:
        ran = shared.rpc(token, "sandbox.run", argv=["sh", "-c", line], name=name)
        assert ran["exitCode"] == 0, ran
        return str(ran["stdout"])

    run("echo kept > file; echo gone > /tmp/file", "reports")
    assert run("cat file; ls /tmp", "reports") == "kept\n"
    assert run("ls", "other") == ""


# --- how it ends


def test_time_ends_it_and_all_it_started(shared: Gateway, token: str) -> None:
    seconds = sleeper()
    line = f"setsid sleep {seconds} & trap '' TERM; sleep {seconds}"
    ran = shared.rpc(token, "sandbox.run", argv=["sh", "-c", line], timeoutMs=300)
    assert (ran["timedOut"], ran["signal"]) == (True, signal.SIGKILL)
    assert ran["wallMs"] >= 300
    assert asleep(seconds) == []  # when it is answered


def test_nothing_that_it_started_outlives_it(shared: Gateway, token: str) -> None:
    seconds = sleeper()
    line = f"setsid sleep {seconds} >/dev/null 2>&1 & exit 0"
    assert shared.rpc(token, "sandbox.run", argv=["sh", "-c", line])["exitCode"] == 0
    assert asleep(seconds) == []


def test_a_caller_who_goes_away_ends_it(shared: Gateway, token: str) -> None:
    seconds = sleeper()
    connection = http.client.HTTPConnection(shared.address)
    call = {"jsonrpc": "2.0", "id": 1, "method": "sandbox.run"}
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({**call, "params": {"argv": ["sleep", seconds]}})
    connection.request("POST", "/rpc", body, headers)
    processes = wait_until(lambda: asleep(seconds))
    with ends(*processes):
        connection.close()


def test_it_ends_with_its_worker(shared: Gateway) -> None:
    token = shared.create("mortal")
    seconds = sleeper()
    run = Run(shared, token, "sleep", seconds, refused=True)
    processes = wait_until(lambda: asleep(seconds))
    with ends(*processes):
        shared.process("openclaw: worker mortal").kill()
    run.join()
    assert run.reply.status == 503
    assert shared.rpc(token, "sandbox.run", argv=["true"])["exitCode"] == 0


def test_a_deleted_tenant_has_nothing_running(shared: Gateway) -> None:
    token = shared.create("deleted")
    seconds = sleeper()
    Run(shared, token, "sleep", seconds, refused=True)
    processes = wait_until(lambda: asleep(seconds))
    with ends(*processes):
        assert shared.openclaw("tenants", "delete", "deleted", "--confirm").returncode == 0


def test_a_launcher_that_dies_takes_its_sandboxes_and_is_replaced(shared: Gateway) -> None:
    token = shared.create("relaunched")
    seconds = sleeper()
    run = Run(shared, token, "sleep", seconds, refused=True)
    processes = wait_until(lambda: asleep(seconds))
    with ends(*processes, shared.process("openclaw: stem")):
        shared.process("openclaw: launcher").kill()
    run.join()
    refused(run.reply, "UNAVAILABLE")
    # By the worker that was there all the time, which has been told of the next one.
    assert shared.rpc(token, "sandbox.run", argv=["true"])["exitCode"] == 0
    assert shared.openclaw_json("tenants", "status", "relaunched")[0]["deaths"] == 0


def test_a_launcher_that_hangs_is_replaced(shared: Gateway, token: str) -> None:
    assert shared.rpc(token, "sandbox.run", argv=["true"])["exitCode"] == 0
    launcher = shared.process("openclaw: launcher")
    with ends(launcher):
        launcher.suspend()
    assert shared.rpc(token, "sandbox.run", argv=["true"])["exitCode"] == 0


# --- how many


def test_runs_wait_for_their_turn_and_are_refused_beyond(shared: Gateway, token: str) -> None:
    seconds = sleeper()
    runs = [Run(shared, token, "sleep", seconds) for _ in range(CONCURRENT)]
    running = wait_running(shared, token, CONCURRENT)
    with ThreadPoolExecutor(QUEUED) as clients:
        waiting = [
            clients.submit(shared.rpc, token, "sandbox.run", argv=["echo", "at last"])
            for _ in range(QUEUED)
        ]
        wait_until(lambda: shared.rpc(token, "sandbox.list")["queued"] == QUEUED)
        error = refused(shared.rpc_reply(token, "sandbox.run", {"argv": ["true"]}), "RATE_LIMITED")
        assert error["data"]["retryable"] is True
        # Another tenant's turn is its own.
        other = shared.create(f"tenant-{next(_numbers)}")
        assert shared.rpc(other, "sandbox.run", argv=["true"])["exitCode"] == 0
        for sandbox in running:
            shared.rpc(token, "sandbox.kill", sandboxId=sandbox["sandboxId"])
        assert [one.result()["stdout"] for one in waiting] == ["at last\n"] * QUEUED
    for run in runs:
        run.join()
        assert run.result["signal"] == signal.SIGKILL


def test_a_hundred_at_once_over_ten_tenants_and_none_outlives_the_gateway(state_dir: Path) -> None:
    seconds = sleeper()
    with Gateway(state_dir) as gateway, ThreadPoolExecutor(100) as clients:
        tokens = [gateway.create(f"tenant-{number}") for number in range(10)]
        runs = [
            clients.submit(gateway.rpc, token, "sandbox.run", argv=["echo", str(number)])
            for number in range(10)
            for token in tokens
        ]
        said = sorted(int(run.result()["stdout"]) for run in runs)
        Run(gateway, tokens[0], "sleep", seconds, refused=True)
        with ends(*wait_until(lambda: asleep(seconds))):
            gateway.stop(signal.SIGKILL)
    assert said == sorted(number for number in range(10) for _ in tokens)


# --- its limits


def test_more_than_is_allowed_is_cut_to_it(shared: Gateway, token: str) -> None:
    seconds = sleeper()
    with ThreadPoolExecutor() as pool:
        call = {"memoryBytes": 2**40, "cpus": 1000, "pids": 10**6}
        asked = pool.submit(
            shared.rpc_reply,
            token,
            "sandbox.run",
            {"argv": ["sleep", seconds], "limits": call, "timeoutMs": 500_000},
        )
        (found,) = wait_running(shared, token, 1)
        caps = found["limits"]
        shared.rpc(token, "sandbox.kill", sandboxId=found["sandboxId"])
        assert asked.result().status == 200
    assert caps["memoryBytes"] == 256 * MIB
    assert caps["cpus"] <= 1.0


def test_a_file_grows_no_longer_than_allowed(shared: Gateway, token: str) -> None:
    ran = shared.rpc(
        token, "sandbox.run", argv=["sh", "-c", "head -c 20000000 /dev/zero > big; wc -c < big"]
    )
    assert int(ran["stdout"]) == 4 * MIB


# As many processes as it can have at a time, itself included.
FORKS = """
import os, sys
count = 1
try:
    while count < 1000:
        if os.fork() == 0:
            os.read(0, 1)
            os._exit(0)
        count += 1
except OSError:
    pass
print(count)
"""


def test_there_are_only_so_many_processes_inside(shared: Gateway, token: str) -> None:
    """With cgroups and without, for root and for a user who has many already."""
    ran = shared.rpc(
        token, "sandbox.run", argv=["python3", "-c", FORKS], limits={"pids": 20}, stdin=""
    )
    # As root without cgroups all of a tenant's together are bounded, its worker's threads too.
    assert (
        5 < int(ran["stdout"]) <= (20 + 512 if os.geteuid() == 0 and cgroups.refusal() else 20)
    ), ran


@pytest.mark.cgroups
def test_what_is_told_of_a_run_is_its_own(shared: Gateway, token: str) -> None:
    big = "x = b'x' * 100_000_000\nfor _ in range(5_000_000): pass"
    first = shared.rpc(token, "sandbox.run", argv=["python3", "-c", big])
    second = shared.rpc(token, "sandbox.run", argv=["true"])
    assert first["peakMemoryBytes"] > 100_000_000 > 10 * second["peakMemoryBytes"]
    assert first["cpuMs"] > second["cpuMs"]


@pytest.mark.cgroups
def test_the_end_of_its_memory_is_told(shared: Gateway, token: str) -> None:
    grow = "x = []\nwhile True: x.append(b'x' * 1_000_000)"
    call = {"memoryBytes": 64 * MIB}
    ran = shared.rpc(token, "sandbox.run", argv=["python3", "-c", grow], limits=call)
    assert (ran["oomKilled"], ran["signal"], ran["timedOut"]) == (True, signal.SIGKILL, False)
    again = shared.rpc(token, "sandbox.run", argv=["true"])
    assert (again["oomKilled"], again["exitCode"]) == (False, 0)


@pytest.mark.cgroups
def test_a_cgroup_serves_the_next_run_and_goes_with_its_launcher(shared: Gateway) -> None:
    token = shared.create("swept")
    branches = "openclaw: branch"
    for _ in range(3):
        shared.rpc(token, "sandbox.run", argv=["true"])
    (kept,) = sandbox_groups(shared, "swept")
    with ends(*(p for title, p in shared.processes().items() if title == branches)):
        shared.process("openclaw: launcher").kill()
    assert shared.rpc(token, "sandbox.run", argv=["true"])["exitCode"] == 0
    wait_until(lambda: kept not in sandbox_groups(shared, "swept"))


def sandbox_groups(gateway: Gateway, tenant: str) -> list[str]:
    """Give the cgroups of a tenant's sandboxes."""
    root = place.find(cgroups.SETTING).group.at(f"openclaw-{place.name_of(gateway.state_dir)}")
    found = root.at(f"tenant-{tenant}").children()
    return [group.name for group in found if group.name.startswith("sandbox-")]
