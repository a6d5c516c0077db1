"""`openclaw gateway`: run the gateway in the foreground, and have it reload."""

import importlib

import click
import msgspec

from cli.client import SilentGatewayError, open_gateway
from cli.exits import fail
from protocol.errors import GatewayError


@click.group("gateway", invoke_without_command=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Listen here instead of gateway.port (18789); 0 takes any free one.",
)
@click.pass_context
def command(ctx: click.Context, port: int | None) -> None:
    """Run the gateway in the foreground until SIGTERM or Ctrl-C."""
    if ctx.invoked_subcommand is None:
        # Only here: it is the whole supervisor, which other commands do not wait for.
        importlib.import_module("cli.serve").run(port)


@command.command("reload")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def reload(as_json: bool) -> None:
    """Have the running gateway read config.yaml again and fork workers from the program on disk.

    Keys that take effect at a start only are named. A file that cannot be used changes nothing, and
    the exit code is 1. Workers that run go on as they are: openclaw tenants restart --all.
    """
    with open_gateway() as gateway:
        try:
            done = gateway.reload()
        except SilentGatewayError:
            raise
        except GatewayError as error:
            fail(error.message)  # what is on the disk does not get better by itself
    if as_json:
        click.echo(msgspec.json.encode(done))
        return
    click.echo(f"✓ reloaded · zygote {done['zygotePid']}")
    for key in done["applied"]:
        click.echo(f"✓ {key} is in force")
    for key in done["needsRestart"]:
        click.echo(f"! {key} needs a restart of the gateway")
