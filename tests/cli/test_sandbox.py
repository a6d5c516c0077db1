"""`openclaw sandbox`: programs and files of a tenant's, as an operator has them at hand."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import OPENCLAW, REQUEST_SECONDS, Gateway
from tests.e2e.sandboxes import wait_running


class Operator:
    """Who runs `openclaw sandbox` for the tenant acme."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.token = gateway.create("acme")
        self.work = gateway.state_dir / "tenants/acme/sandbox/main"

    def start(self, command: str, *words: str, stdin: int = subprocess.DEVNULL) -> Any:
        return subprocess.Popen(
            [OPENCLAW, "sandbox", *command.split(), "--tenant", "acme", *words],
            env=self.gateway.env,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(self, command: str, *words: str, given: bytes = b"") -> tuple[int, bytes, bytes]:
        """Run it to its end; gives exit code and both outputs."""
        process = self.start(command, *words, stdin=subprocess.PIPE)
        out, err = process.communicate(given, timeout=REQUEST_SECONDS)
        assert b"Traceback" not in err, err
        return process.returncode, out, err


@pytest.fixture(scope="module")
def operator() -> Iterator[Operator]:
    path = make_state_dir()
    # A shell that starts us with `&` has us ignore Ctrl-C, and those that we start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    (path / "config.yaml").write_text("sandbox: {allowed: [bubblewrap]}\n")
    try:
        with Gateway(path) as gateway:
            yield Operator(gateway)
    finally:
        signal.signal(signal.SIGINT, before)
        remove_tree(path)


def test_a_program_is_as_if_it_ran_here(operator: Operator) -> None:
    program = "cat; echo $A >&2; printf '\\377'; pwd"
    words = ("--name", "lab", "--env", "A=b=c", "--cwd", "/tmp", "--memory", "64M", "--cpu", "0.5")
    code, out, err = operator("run", *words, "sh", "-c", program, given=b"in\xfe\n")
    assert (code, out, err) == (0, b"in\xfe\n\xff/tmp\n", b"b=c\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--", "sh", "-c", "exit 7"), 7, b""),
        (("sh", "-c", "exit 125"), 125, b""),
        (("sh", "-c", "kill -SEGV $$"), 128 + 11, b""),
        (("--timeout", "0.2", "sleep", "60"), 124, b"ended after"),
        (("--sandbox", "docker", "true"), 125, b"sandbox: docker is not allowed"),
        (("--network", "all", "true"), 125, b"there is no network all; there are: none"),
        (("--env", "LD_PRELOAD=x", "true"), 125, b"env: LD_PRELOAD"),
        (("--name", "../x", "true"), 125, b"$.name"),
        (("--cwd", "/etc", "true"), 125, b"cwd: "),
        (("--env", "A", "true"), 2, b"NAME=VALUE"),
        (("--memory", "1K", "true"), 2, b"below"),
        ((), 2, b"ARGV"),
    ],
)
def test_the_exit_code_says_whose_it_is(
    operator: Operator, words: tuple[str, ...], code: int, said: bytes
) -> None:
    ended, out, err = operator("run", *words)
    assert (ended, out) == (code, b"")
    assert said in err


def test_output_comes_when_it_is_written(operator: Operator) -> None:
    process = operator.start("run", "--", "sh", "-c", "echo first; exec sleep 60")
    assert process.stdout.readline() == b"first\n"
    (found,) = wait_running(operator.gateway, operator.token, 1)
    code, out, _ = operator("list")
    assert code == 0
    assert found["sandboxId"].encode() in out
    assert b"sleep 60" in out
    code, out, _ = operator("kill", found["sandboxId"])
    assert (code, found["sandboxId"].encode() in out) == (0, True)
    process.communicate(timeout=REQUEST_SECONDS)
    assert process.returncode == 128 + signal.SIGKILL
    code, _, err = operator("kill", found["sandboxId"])
    assert (code, err) == (1, b"openclaw: no such sandbox runs\n")
    assert operator("list")[1] == b"nothing runs\n"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 128 + 2), (signal.SIGTERM, 128 + 15)], ids=str
)
def test_a_signal_ends_the_program_too(
    operator: Operator, number: signal.Signals, code: int
) -> None:
    process = operator.start("run", "--", "sh", "-c", "echo runs; exec sleep 60")
    assert process.stdout.readline() == b"runs\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=REQUEST_SECONDS)
    assert (process.returncode, err) == (code, b"")
    wait_running(operator.gateway, operator.token, 0)
    kept = operator.gateway.openclaw_json("tenants", "token", "list", "acme")
    assert not [token for token in kept if token["name"].startswith("cli-")]


def test_a_reader_that_goes_ends_the_program(operator: Operator) -> None:
    process = operator.start("run", "--", "yes")
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(REQUEST_SECONDS) == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""
    process.stderr.close()
    wait_running(operator.gateway, operator.token, 0)


def test_more_than_can_be_given_is_not_run(operator: Operator) -> None:
    process = operator.start("run", "--", "touch", "ran", stdin=subprocess.PIPE)
    _, err = process.communicate(bytes(4 * 2**20 + 1), timeout=REQUEST_SECONDS)
    assert (process.returncode, b"more than" in err) == (125, True)
    assert not (operator.work / "ran").exists()


def test_what_there_is_and_would_be(operator: Operator) -> None:
    assert b"bubblewrap" in operator("status")[1]
    code, out, _ = operator("explain", "--memory", "1T", "--env", "A=\x1b[31m")
    assert code == 0
    rows = [line.split() for line in out.decode().splitlines()]
    assert ["mode", "bubblewrap", "gateway"] in rows
    assert ["memoryBytes", "512M", "operator"] in rows
    assert b"\x1b" not in out
    told = json.loads(operator("explain", "--json", "--tool", "exec")[1])
    assert told["profile"]["mode"] == {"value": "bubblewrap", "source": "gateway"}
    result = json.loads(operator("run", "--json", "--", "echo", "hi")[1])
    assert (result["stdout"], result["exitCode"]) == ("hi\n", 0)


def test_files_come_and_go(operator: Operator, tmp_path: Path) -> None:
    big = os.urandom(5 * 2**20)
    made = "import os; open('big', 'wb').write(os.read(0, 0)); os.mkfifo('pipe')"
    assert operator("run", "python3", "-c", made)[0] == 0
    (operator.work / "big").write_bytes(big)
    local = tmp_path / "local"
    assert operator("files get", "big", str(local))[0] == 0
    assert local.read_bytes() == big
    assert operator("files get", "big", "-")[1] == big
    for path, said in (("none", b"no such file"), ("pipe", b"not a regular file")):
        code, _, err = operator("files get", path, str(tmp_path / "other"))
        assert (code, said in err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["local"]
    assert operator("files put", str(local), "copy")[0] == 0
    assert (operator.work / "copy").read_bytes() == big
    code, _, err = operator("files put", str(tmp_path / "none"), "x")
    assert (code, b"none: No such file" in err) == (1, True)
    assert operator("files put", "-x", "-", "bin/hello", given=b"#!/bin/sh\necho hello\n")[0] == 0
    assert operator("run", "/work/bin/hello")[1] == b"hello\n"
    assert operator("files put", "--no-overwrite", "-", "bin/hello")[0] == 1
    (operator.work / "bin/\x1b[31mred").touch()
    code, out, _ = operator("files list", "bin")
    assert (code, out.count(b"\n"), b"\x1b" in out) == (0, 2, False)
    assert out.splitlines()[1].startswith(b"*")
    assert operator("files delete", "bin")[0] == 1
    assert operator("files delete", "-r", "bin") == (0, b"\xe2\x9c\x93 3 removed\n", b"")
    assert not (operator.work / "bin").exists()
