"""`openclaw config`: look at `config.yaml` without starting anything."""

from pathlib import Path

import click
import msgspec

from cli.exits import ExitCode, fail
from supervisor import config as gateway_config
from supervisor.state import StateError, StateRoot, default_root


@click.group("config")
def command() -> None:
    """Check the configuration."""


@command.command("check")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(as_json: bool) -> None:
    """Read config.yaml and say what is wrong with it."""
    try:
        state = StateRoot(default_root())
        section = gateway_config.load(state.config).gateway
        if section.tls is not None:
            from supervisor import tls  # noqa: PLC0415 - few configurations have it

            tls.check(Path(section.tls.certificate), Path(section.tls.key))
    except (gateway_config.ConfigError, StateError) as error:
        fail(str(error), ExitCode.CONFIGURATION)
    if as_json:
        report = {"path": str(state.config), "exists": state.config.exists(), "valid": True}
        click.echo(msgspec.json.encode(report))
        return
    found = "is good" if state.config.exists() else "does not exist: every key has its default"
    click.echo(f"{state.config} {found}")
