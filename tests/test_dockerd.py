"""The daemon that other tests use."""

from pathlib import Path

import docker
import psutil
import pytest

from tests import dockerd as daemon


@pytest.mark.root
def test_nothing_is_left_of_a_daemon(state_dir: Path) -> None:
    folder = state_dir / "docker"
    with daemon.running(folder, owner=12345) as host:
        assert host == f"unix://{folder}/docker.sock"
        assert (folder / "docker.sock").stat().st_uid == 12345
        assert len(processes_of(folder)) > 1  # its containerd too
    assert processes_of(folder) == []
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.docker
def test_the_daemon_serves_us(dockerd: str) -> None:
    client = docker.DockerClient(base_url=dockerd)
    try:
        assert client.info()["DockerRootDir"].endswith("/data")
    finally:
        client.close()


def processes_of(folder: Path) -> list[str]:
    found = (" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"]))
    return [line for line in found if str(folder) in line]
