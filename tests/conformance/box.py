"""A tenant of a real gateway, and the mode that its sandboxes have."""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from tests import dockerd as daemon
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import OPENCLAW, Gateway

CANARY = "canary-of-the-machine-7d1f"
MARKED_GATEWAY = (
    *(sys.executable, "-I", str(daemon.MARKING)),
    *(OPENCLAW, "gateway", "--port", "0"),
)
MODES = ("bubblewrap", pytest.param("docker", marks=pytest.mark.docker))
DEADLINE_SECONDS = 15.0
FILE_BYTES = 4 * 2**20


class Box:
    """The tenant, whose token this has."""

    def __init__(self, gateway: Gateway, mode: str) -> None:
        self.gateway = gateway
        self.mode = mode
        self.token = gateway.create("acme")
        self.nap = f"sleep {100_000 + os.getpid()}"
        """A command that nobody else's tests have running."""
        self.uid = (gateway.state_dir / "tenants" / "acme").stat().st_uid
        self.work = gateway.state_dir / "tenants" / "acme" / "sandbox" / "main"

    def call(self, method: str, **params: Any) -> Any:
        return self.gateway.rpc(self.token, method, **params)

    def put(self, module: ModuleType) -> None:
        """Lay a program of ours into /work."""
        path = Path(str(module.__file__))
        self.call("sandbox.files.put", path=path.name, data=path.read_text())

    def run(self, *argv: str, **params: Any) -> Any:
        ran = self.call("sandbox.run", argv=argv, sandbox=self.mode, **params)
        assert ran["mode"] == self.mode
        return ran

    def shell(self, script: str, **params: Any) -> Any:
        return self.run("/bin/sh", "-c", script, **params)

    def python(self, script: str, **params: Any) -> Any:
        return self.run("python3", "-c", script, **params)

    def naps(self) -> int:
        """How many processes of this machine run `nap`."""
        return sum(
            each.info["cmdline"] == self.nap.split() for each in psutil.process_iter(["cmdline"])
        )

    def wait_for_naps(self, count: int) -> None:
        """Wait until that many run `nap`."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.naps() != count:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextlib.contextmanager
def running(mode: str, docker_host: str | None, *, marked: bool = False) -> Iterator[Box]:
    """Start a gateway on a machine with secrets, and a tenant.

    If `marked`, marked system calls in its sandboxes are answered: see tests/attack/marking.py.
    """
    section: dict[str, Any] = {"file_bytes": FILE_BYTES, "pids": 64}
    if docker_host is not None:
        images = {"base": daemon.load_image(docker_host)}
        section["docker"] = {"host": docker_host, "images": images}
        section["docker"]["runtime"] = daemon.MARKED if marked else None
    state = make_state_dir()
    variable = CANARY.replace("-", "_")
    try:
        (state / "config.yaml").write_text(json.dumps({"sandbox": section}))
        (state / CANARY).write_text(CANARY)
        os.environ[variable] = CANARY
        with Gateway(state, command=MARKED_GATEWAY if marked else ()) as gateway:
            yield Box(gateway, mode)
    finally:
        os.environ.pop(variable, None)
        remove_tree(state)


@contextlib.contextmanager
def abstract_listener() -> Iterator[str]:
    """A socket of this machine's without a file; gives its name."""
    name = f"openclaw-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + name)
        server.listen()
        yield name


def own_address() -> str:
    """An address of this machine's that is not its loopback's, if it has one."""
    found = (
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    )
    return next(found, "192.0.2.1")
