"""`openclaw sandbox image`: images for Docker sandboxes."""

import json
import re
from typing import Any, Final

import click

from cli.exits import ExitCode, fail, refuse
from cli.output import as_json, print_json
from protocol.errors import GatewayError
from protocol.names import ACCOUNT_ID_PATTERN
from supervisor import config as gateway_config
from supervisor.state import StateError, StateRoot, default_root

REPOSITORY: Final = "openclaw-sandbox"


@click.group("image")
def image() -> None:
    """Make images for Docker sandboxes."""


@image.command("build")
@click.option(
    "--name",
    default="base",
    show_default=True,
    help="What tenants call it.",
)
@click.option("--docker-host", help="Where Docker listens; by default as config.yaml says.")
@as_json
def build(name: str, docker_host: str | None, as_json: bool) -> None:
    """Make an image of this machine's Python, coreutils and bash, and load it into Docker.

    No registry is asked. The same machine gives the same image. What is printed goes into
    config.yaml: tenants may use no other images than those listed there.
    """
    if not re.match(ACCOUNT_ID_PATTERN, name):
        message = "1 to 64 of a-z, 0-9, _ and -, of which the first is no _ or -"
        raise click.BadParameter(message, param_hint="--name")
    from supervisor.launcher import docker_client, docker_image  # noqa: PLC0415 - the SDK is heavy

    host = docker_host or _host_of_config()
    try:
        api = docker_client.connect(host)
        try:
            archive = docker_image.build(f"{REPOSITORY}:{name}")
            with archive.data, docker_client.explained(host):
                failed = [each["error"] for each in api.load_image(archive.data) if "error" in each]
                if failed:
                    fail(f"Docker refused the image: {failed[0]}")
                found: dict[str, Any] = api.inspect_image(f"{REPOSITORY}:{name}")
        finally:
            api.close()
    except GatewayError as error:
        refuse(error)
    except docker_image.ImageError as error:
        fail(str(error))
    report = {"name": name, "id": found["Id"], "bytes": found["Size"], "files": archive.files}
    if as_json:
        print_json(report)
        return
    click.echo(f"{found['Id']}  {found['Size'] / 1e6:.0f} MB, {archive.files} files")
    click.echo("\nFor config.yaml:\n")
    click.echo(f"sandbox:\n  docker:\n    images:\n      {name}: {json.dumps(found['Id'])}")


def _host_of_config() -> str:
    try:
        return gateway_config.load(StateRoot(default_root()).config).sandbox.docker.host
    except (gateway_config.ConfigError, StateError) as error:
        fail(str(error), ExitCode.CONFIGURATION)
