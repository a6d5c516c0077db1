"""Sandboxes under Docker, by a gateway and a real daemon: one word moves a program there."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from supervisor.launcher import docker_client
from supervisor.launcher.docker_client import Api
from supervisor.launcher.docker_profile import GATEWAY_LABEL
from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import REQUEST_SECONDS, Gateway, ends
from tests.e2e.sandboxes import Run, check_explained, wait_running

pytestmark = pytest.mark.docker


class Moved:
    """A gateway that allows both modes, and a tenant."""

    def __init__(self, gateway: Gateway, api: Api) -> None:
        self.gateway = gateway
        self.api = api
        self.token = gateway.create("acme")

    def run(self, *argv: str, **given: Any) -> Any:
        return self.gateway.rpc(self.token, "sandbox.run", argv=argv, sandbox="docker", **given)

    def has_cgroups(self) -> bool:
        status: bool = self.gateway.rpc(self.token, "sandbox.status")["cgroups"]
        return status

    def containers(self) -> list[dict[str, Any]]:
        label = f"{GATEWAY_LABEL}={self.gateway.state_dir}"
        found: list[dict[str, Any]] = self.api.containers(all=True, filters={"label": label})
        return found


def configure(state_dir: Path, dockerd: str, image: str) -> None:
    docker = {"host": dockerd, "images": {"base": image}, "warm": 0}
    config = {"sandbox": {"docker": docker, "wall_seconds": 60}}
    (state_dir / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def moved(dockerd: str, docker_image: str) -> Iterator[Moved]:
    path = make_state_dir()
    configure(path, dockerd, docker_image)
    api = docker_client.connect(dockerd)
    try:
        with Gateway(path) as gateway:
            yield Moved(gateway, api)
    finally:
        api.close()
        remove_tree(path)


LOOK = (
    "import os, sys; print(sorted(os.environ.items()), os.getcwd(), os.getuid(), os.getgid(), "
    "os.uname().nodename, sys.stdin.read()); open('/work/chart', 'a').write('x')"
)


def test_the_same_program_in_both_modes(moved: Moved) -> None:
    asked = {"argv": ["python3", "-c", LOOK], "stdin": "in", "env": {"A": "b"}}
    ran = {
        mode: moved.gateway.rpc(moved.token, "sandbox.run", sandbox=mode, **asked)
        for mode in ("bubblewrap", "docker")
    }
    assert [each["mode"] for each in ran.values()] == ["bubblewrap", "docker"]
    assert ran["docker"]["exitCode"] == 0, ran
    assert ran["docker"]["stdout"].replace("('PWD', '/work'), ", "") == ran["bubblewrap"][
        "stdout"
    ].replace("('PWD', '/work'), ", "")
    (chart,) = moved.gateway.state_dir.glob("tenants/acme/sandbox/main/chart")
    assert chart.read_text() == "xx"
    assert ran["docker"]["cpuMs"] > 0


def test_time_is_up(moved: Moved) -> None:
    ran = moved.run("sleep", "60", timeoutMs=500)
    assert (ran["timedOut"], ran["signal"]) == (True, signal.SIGKILL)


def test_a_run_is_ended_by_name(moved: Moved) -> None:
    run = Run(moved.gateway, moved.token, "sleep", "60", sandbox="docker")
    (found,) = wait_running(moved.gateway, moved.token, 1)
    assert found["mode"] == "docker"
    if moved.has_cgroups():
        (container,) = moved.containers()
        pid = moved.api.inspect_container(container["Id"])["State"]["Pid"]
        assert f"/tenant-acme/{container['Id']}" in Path(f"/proc/{pid}/cgroup").read_text()
    moved.gateway.rpc(moved.token, "sandbox.kill", sandboxId=found["sandboxId"])
    run.join()
    assert run.result["signal"] == signal.SIGKILL


def test_an_image_that_no_operator_named(moved: Moved) -> None:
    asked = {"argv": ["true"], "sandbox": "docker", "image": "alpine"}
    reply = moved.gateway.rpc_reply(moved.token, "sandbox.run", asked)
    assert reply.status == 400
    assert reply.json["error"]["data"]["field"] == "image"


def test_nothing_is_left_when_the_launcher_is_killed(moved: Moved) -> None:
    run = Run(moved.gateway, moved.token, "sleep", "60", sandbox="docker", refused=True)
    wait_running(moved.gateway, moved.token, 1)
    assert len(moved.containers()) == 1
    launcher = moved.gateway.process("openclaw: launcher")
    with ends(launcher):
        os.kill(launcher.pid, signal.SIGKILL)
    run.join()
    assert run.reply.json["error"]["data"]["code"] == "UNAVAILABLE"
    deadline = time.monotonic() + REQUEST_SECONDS
    asked = {"argv": ["echo", "on"], "sandbox": "docker"}
    while (reply := moved.gateway.rpc_reply(moved.token, "sandbox.run", asked)).status == 503:
        assert time.monotonic() < deadline
    assert reply.json["result"]["stdout"] == "on\n"
    while moved.containers():
        assert time.monotonic() < deadline


def test_what_is_explained_is_what_a_program_finds(moved: Moved) -> None:
    check_explained(moved.gateway, moved.token, "docker")
