"""`openclaw sandbox image build`, against a real daemon and without one."""

from pathlib import Path

import pytest
import yaml

from supervisor.config import load
from supervisor.launcher import docker_client
from tests.cli.command import Command


@pytest.mark.docker
def test_what_is_printed_is_what_config_takes(openclaw: Command, dockerd: str) -> None:
    openclaw.state_dir.mkdir()
    config = openclaw.state_dir / "config.yaml"
    config.write_text(yaml.safe_dump({"sandbox": {"docker": {"host": dockerd}}}))
    said = openclaw("sandbox", "image", "build", "--name", "tools")
    assert (said.code, said.err) == (0, "")
    config.write_text(said.out.partition("For config.yaml:")[2])
    image_id = load(config).sandbox.docker.images["tools"]
    api = docker_client.connect(dockerd)
    try:
        assert api.inspect_image("openclaw-sandbox:tools")["Id"] == image_id
    finally:
        api.close()


def test_no_daemon(openclaw: Command, state_dir: Path) -> None:
    host = f"unix://{state_dir}/nobody.sock"
    said = openclaw("sandbox", "image", "build", "--docker-host", host)
    message = said.refused(75)
    assert f"no Docker daemon answers at {host}: No such file or directory" in message
    assert "sandbox.docker.host" in message


def test_a_name_that_no_profile_may_have(openclaw: Command) -> None:
    said = openclaw("sandbox", "image", "build", "--name", "../base")
    assert said.code == 2
    assert "--name" in said.err
