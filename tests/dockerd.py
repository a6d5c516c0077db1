"""A real dockerd for tests: its own data, socket and containerd, ended with whoever started it.

`python -m tests.dockerd --at FOLDER --owner UID -- COMMAND…` has one while a command runs, at
`FOLDER/docker.sock`. The fixture `dockerd` uses the one that `OPENCLAW_TEST_DOCKER_HOST` names.
"""

import argparse
import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from supervisor import child
from supervisor.launcher import docker_client, docker_image

MARKING: Final = Path(__file__).parent / "attack" / "marking.py"
VARIABLE: Final = "OPENCLAW_TEST_DOCKER_HOST"
# A runtime that is runc, but answers marked system calls: see tests/attack/marking.py.
MARKED: Final = "marked"
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0


def can_be_had() -> bool:
    """Whether tests that need a daemon can run: root starts one, others are given one."""
    return os.geteuid() == 0 or VARIABLE in os.environ


def answers(path: Path) -> bool:
    """Whether a daemon answers on a socket."""
    with contextlib.closing(http.client.HTTPConnection("docker")) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(5)
        try:
            connection.sock.connect(str(path))
            connection.request("GET", "/_ping")
            return connection.getresponse().status == 200
        except OSError:
            return False


def command(folder: Path) -> list[str]:
    """Give what runs a daemon below `folder`, which takes the storage driver that works there."""
    program = shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        raise FileNotFoundError("dockerd is not installed: apt-get install docker.io")
    return [
        *("setpriv", "--pdeathsig", "TERM", program),
        *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
        *("--host", f"unix://{folder / 'docker.sock'}", "--pidfile", str(folder / "pid")),
        *("--add-runtime", f"{MARKED}={folder / MARKED}"),
        *("--group", "0", "--iptables=false", "--bridge=none", "--shutdown-timeout", "3"),
        # Where another containerd serves already it is shared: apart from what that one runs.
        *("--containerd-namespace", f"openclaw-test-{os.getpid()}"),
        *("--containerd-plugins-namespace", f"openclaw-test-{os.getpid()}-plugins"),
    ]


@contextlib.contextmanager
def running(folder: Path, owner: int = 0) -> Iterator[str]:
    """Have a daemon with a socket that is `owner`'s; gives its address.

    Raises:
        RuntimeError: it does not start; with what it logged.
    """
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    log, path, marked = folder / "log", folder / "docker.sock", folder / MARKED
    marked.write_text(f'#!/bin/sh\nexec {sys.executable} -I {MARKING} runc "$@"\n')
    marked.chmod(0o755)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(folder), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    # The supervisor's own code, tried in this process, ends the children that nobody waits for.
    child._watched.add(process.pid)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.02)
        os.chown(path, owner, -1)
        yield f"unix://{path}"
    finally:
        process.terminate()  # it ends its containers and its containerd
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            child._watched.discard(process.pid)


def print_errors(host: str) -> None:
    """Print what one of our daemons has complained of; most is of what tests do on purpose."""
    with contextlib.suppress(OSError):
        lines = Path(host.removeprefix("unix://")).with_name("log").read_text().splitlines()
        said = [line for line in lines if "level=error" in line or "level=fatal" in line]
        sys.stderr.write("".join(f"dockerd: {line}\n" for line in said[-20:]))


@contextlib.contextmanager
def available() -> Iterator[str]:
    """Give the address of the daemon that was given, else of one of our own."""
    if VARIABLE in os.environ:
        yield os.environ[VARIABLE]
        return
    folder = Path(tempfile.mkdtemp(prefix="openclaw-dockerd-", dir="/tmp"))
    try:
        with running(folder) as host:
            yield host
    finally:
        shutil.rmtree(folder)


def load_image(host: str) -> str:
    """Have a daemon hold the base image; gives its id."""
    api = docker_client.connect(host)
    try:
        archive = docker_image.build("openclaw-sandbox:base")
        with archive.data:
            assert all("error" not in each for each in api.load_image(archive.data))
        found: str = api.inspect_image("openclaw-sandbox:base")["Id"]
        return found
    finally:
        api.close()


def main() -> int:
    """Run a command beside a daemon; gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.dockerd")
    parser.add_argument("--at", type=Path, required=True, help="the daemon's folder")
    parser.add_argument("--owner", type=int, default=0, help="uid that may use it")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    with running(options.at, options.owner) as host:
        environment = {**os.environ, VARIABLE: host}
        code = subprocess.run(options.command, env=environment, check=False).returncode
        if code:
            print_errors(host)
        return code


if __name__ == "__main__":
    sys.exit(main())
