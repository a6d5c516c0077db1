"""`openclaw sandbox`: where tenants' code runs."""

import click

from cli import sandbox_image


@click.group("sandbox")
def command() -> None:
    """Make what sandboxes need."""


command.add_command(sandbox_image.image)
