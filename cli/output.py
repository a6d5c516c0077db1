"""How commands print: for programs, and what is not ours for people."""

from typing import Any, Final

import click
import msgspec

as_json: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: Any) -> None:
    """Print a value as JSON that people can read too."""
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def plain(text: str) -> str:
    """Give a text of somebody else's so that it does nothing to a terminal."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
