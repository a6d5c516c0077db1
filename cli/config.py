"""`openclaw config`: look at `config.yaml` without starting anything."""

import click

from cli.exits import ExitCode, fail
from supervisor import config as gateway_config
from supervisor.state import StateRoot, default_root


@click.group("config")
def command() -> None:
    """Check the configuration."""


@command.command("check")
def check() -> None:
    """Read config.yaml and say what is wrong with it."""
    state = StateRoot(default_root())
    try:
        gateway_config.load(state.config)
    except gateway_config.ConfigError as error:
        fail(str(error), ExitCode.CONFIGURATION)
    found = "is good" if state.config.exists() else "does not exist: every key has its default"
    click.echo(f"{state.config} {found}")
