"""How commands print for programs."""

from typing import Any, Final

import click
import msgspec

as_json: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: Any) -> None:
    """Print a value as JSON that people can read too."""
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
