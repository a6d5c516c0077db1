"""`openclaw tenants token`: several tokens for a tenant, each with a name, scopes and an end."""

import re
from typing import Any, Final, cast

import click

from cli.client import open_tenants
from cli.output import as_json, print_json
from protocol import limits
from protocol.control.shapes import SCOPES, CreateToken, RotateToken, ScopeName

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN: Final = re.compile(r"([0-9]{1,9})([smhd]?)", re.ASCII)


class Seconds(click.ParamType[int]):
    """A span of time in seconds, or with a unit: 90, 15m, 12h, 30d."""

    name = "span"

    def __init__(self, low: int, high: int) -> None:
        self._low: Final = low
        self._high: Final = high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `click.ParamType`."""
        match = _SPAN.fullmatch(str(value))
        seconds = int(match[1]) * _UNITS[match[2] or "s"] if match else -1
        if not self._low <= seconds <= self._high:
            msg = f"{value!r} is no span of {self._low} to {self._high} seconds (90, 15m, 12h, 30d)"
            self.fail(msg, param, ctx)
        return seconds


@click.group("token")
def command() -> None:
    """Manage a tenant's tokens."""


@command.command("create")
@click.argument("tenant_id")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(list(SCOPES)),
    multiple=True,
    required=True,
    help="What it allows; can be given several times. `write` alone does not read.",
)
@click.option(
    "--expires-in", type=Seconds(1, limits.TOKEN_SECONDS_MAX), help="When it ends: 15m, 12h, 30d."
)
@as_json
def create(
    tenant_id: str, name: str, scopes: tuple[str, ...], expires_in: int | None, as_json: bool
) -> None:
    """Create a token and print it, which is shown this once."""
    wanted = CreateToken(
        name=name, scopes=cast("tuple[ScopeName, ...]", scopes), expires_in_seconds=expires_in
    )
    with open_tenants() as tenants:
        created = tenants.create_token(tenant_id, wanted)
    if as_json:
        print_json(created)
        return
    click.echo(f"✓ token {created['name']} · {created['tokenId']} · {' '.join(created['scopes'])}")
    if "expiresAt" in created:
        click.echo(f"✓ ends {created['expiresAt']}")
    click.echo("✓ token (copy now — shown once):")
    click.echo(created["token"])


@command.command("list")
@click.argument("tenant_id")
@as_json
def list_tokens(tenant_id: str, as_json: bool) -> None:
    """List a tenant's tokens, without their secrets."""
    with open_tenants() as tenants:
        rows = tenants.tokens(tenant_id)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        end = f"ends {row['expiresAt']}" if "expiresAt" in row else "no end"
        if row.get("expired"):
            end = f"ended {row['expiresAt']}"
        click.echo(f"{row['tokenId']}  {row['name']:<16}  {' '.join(row['scopes']):<16}  {end}")
    if not rows:
        click.echo(f"no tokens: openclaw tenants token create {tenant_id} <name> --scope …")


@command.command("revoke")
@click.argument("tenant_id")
@click.argument("token_id")
@as_json
def revoke(tenant_id: str, token_id: str, as_json: bool) -> None:
    """Refuse a token from now on, and cut what it has opened."""
    with open_tenants() as tenants:
        revoked = tenants.revoke_token(tenant_id, token_id)
    if as_json:
        print_json(revoked)
        return
    click.echo(f"✓ token {token_id} revoked; requests with it will now 401")


@command.command("rotate")
@click.argument("tenant_id")
@click.argument("token_id", required=False)
@click.option(
    "--overlap",
    type=Seconds(0, limits.TOKEN_OVERLAP_SECONDS_MAX),
    default=0,
    help="How long the old token is still taken: 90, 15m, 12h. None by default.",
)
@as_json
def rotate(tenant_id: str, token_id: str | None, overlap: int, as_json: bool) -> None:
    """Replace a token, the one named `default` unless another is given.

    The old one is refused, and what it has opened is cut, now or after the overlap.
    """
    wanted = RotateToken(token_id=token_id, overlap_seconds=overlap)
    with open_tenants() as tenants:
        rotated = tenants.rotate(tenant_id, wanted)
    if as_json:
        print_json(rotated)
        return
    if not overlap:
        click.echo("✓ old token hash removed from keystore")
    click.echo(f"✓ new token (copy now): {rotated['token']}")
    if overlap:
        click.echo(f"✓ any requests with the old token will 401 in {overlap} s")
    else:
        click.echo("✓ any requests with the old token will now 401")
