"""`openclaw sandbox`: where tenants' code runs."""

import click

from cli import sandbox_files, sandbox_image, sandbox_run, sandbox_state


@click.group("sandbox")
def command() -> None:
    """Run programs in a tenant's sandboxes, see what runs, and make what they need."""


for part in (
    sandbox_run.run,
    sandbox_state.list_sandboxes,
    sandbox_state.kill,
    sandbox_state.status,
    sandbox_state.explain,
    sandbox_files.files,
    sandbox_image.image,
):
    command.add_command(part)
