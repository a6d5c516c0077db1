"""`openclaw tenants`: create, list, show and delete tenants, and rotate their tokens."""

import re
from decimal import Decimal
from typing import Any, Final

import click
import msgspec

from cli.client import open_tenants
from cli.exits import fail
from supervisor.registry import Quota

MICRO: Final = 1_000_000
AMOUNT_MAX: Final = 2**53
# Short enough for exact decimal arithmetic.
_NUMBER: Final = re.compile(r"[0-9](?:_?[0-9]){0,15}(?:\.[0-9]{1,6})?", re.ASCII)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Amount(click.ParamType[int]):
    """A number of at least zero that may hold underscores, times `scale`, as an integer."""

    name = "number"

    def __init__(self, scale: int) -> None:
        self._scale: Final = scale

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `click.ParamType`."""
        if isinstance(value, int):
            return value
        if not _NUMBER.fullmatch(str(value)):
            msg = f"{value!r} is no number of at most 16 digits and 6 decimals, 0 or more"
            self.fail(msg, param, ctx)
        scaled = Decimal(str(value).replace("_", "")) * self._scale
        if scaled != int(scaled) or scaled > AMOUNT_MAX:
            self.fail(f"{value!r} is too large or too fine", param, ctx)
        return int(scaled)


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def _quota_line(quota: dict[str, Any]) -> str:
    parts = []
    if "tokensPerDay" in quota:
        parts.append(f"{quota['tokensPerDay']:,} tokens/day")
    if "costPerDayMicroUsd" in quota:
        dollars = Decimal(quota["costPerDayMicroUsd"]) / MICRO
        parts.append(f"${dollars.normalize():f}/day")
    return ", ".join(parts) or "none"


@click.group("tenants")
def command() -> None:
    """Create, show and remove tenants.

    Works through the gateway when it runs, and directly on the state directory when it does not.
    """


@command.command("create")
@click.argument("tenant_id")
@click.option("--display-name", help="What people call the tenant.")
@click.option(
    "--quota.tokens-per-day",
    "tokens_per_day",
    type=Amount(1),
    help="Tokens a day (UTC); underscores are allowed: 5_000_000. Kept, not enforced yet.",
)
@click.option(
    "--quota.cost-per-day-usd",
    "cost_per_day_micro_usd",
    type=Amount(MICRO),
    help="US dollars a day (UTC). Kept, not enforced yet.",
)
@as_json
def create(
    tenant_id: str,
    display_name: str | None,
    tokens_per_day: int | None,
    cost_per_day_micro_usd: int | None,
    as_json: bool,
) -> None:
    """Create a tenant and print its token, which is shown this once."""
    quota = Quota(tokens_per_day=tokens_per_day, cost_per_day_micro_usd=cost_per_day_micro_usd)
    with open_tenants() as tenants:
        created = tenants.create(tenant_id, display_name, quota)
    if as_json:
        _print_json(created)
        return
    click.echo(f"✓ tenant created · {created['stateDir']}")
    click.echo("✓ token (copy now — shown once):")
    click.echo(created["token"])
    click.echo(f"✓ quota: {_quota_line(created['quota'])}")


@command.command("list")
@as_json
def list_tenants(as_json: bool) -> None:
    """List all tenants."""
    with open_tenants() as tenants:
        rows = tenants.list()
    if as_json:
        _print_json(rows)
        return
    width = max((len(row["tenantId"]) for row in rows), default=0)
    for row in rows:
        name = f"  {row['displayName']}" if "displayName" in row else ""
        click.echo(f"{row['tenantId']:<{width}}  {row['state']:<9}  {row['createdAt']}{name}")
    if not rows:
        click.echo("no tenants yet: openclaw tenants create <id>")


@command.command("show")
@click.argument("tenant_id")
@as_json
def show(tenant_id: str, as_json: bool) -> None:
    """Show one tenant."""
    with open_tenants() as tenants:
        row = tenants.show(tenant_id)
    if as_json:
        _print_json(row)
        return
    click.echo(f"tenant      {row['tenantId']}")
    if "displayName" in row:
        click.echo(f"name        {row['displayName']}")
    click.echo(f"state       {row['state']}")
    click.echo(f"created     {row['createdAt']}")
    click.echo(f"directory   {row['stateDir']}")
    click.echo(f"quota       {_quota_line(row['quota'])}")


@command.command("delete")
@click.argument("tenant_id")
@click.option("--confirm", is_flag=True, help="Yes, remove it and everything it keeps.")
@as_json
def delete(tenant_id: str, confirm: bool, as_json: bool) -> None:
    """Delete a tenant and everything it keeps. The audit log stays."""
    if not confirm:
        fail(f"this wipes everything {tenant_id} keeps; say --confirm to do it")
    with open_tenants() as tenants:
        deleted = tenants.delete(tenant_id)
    if as_json:
        _print_json(deleted)
        return
    for line in (
        "session store wiped",
        "memory wiped",
        "sandbox roots wiped",
        "token hash removed from keystore",
        "tenant entry removed",
    ):
        click.echo(f"✓ {line}")
    click.echo("(audit log kept for compliance retention)")


@command.group("token")
def token() -> None:
    """Manage a tenant's token."""


@token.command("rotate")
@click.argument("tenant_id")
@as_json
def rotate(tenant_id: str, as_json: bool) -> None:
    """Replace a tenant's token; the old one is refused from now on."""
    with open_tenants() as tenants:
        rotated = tenants.rotate(tenant_id)
    if as_json:
        _print_json(rotated)
        return
    click.echo("✓ old token hash removed from keystore")
    click.echo(f"✓ new token (copy now): {rotated['token']}")
    click.echo("✓ any requests with the old token will now 401")
