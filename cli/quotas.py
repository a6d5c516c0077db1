"""`openclaw tenants quota`: what a tenant may spend and ask for, and the options that say so."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, TypeVar

import click

from cli.client import open_tenants
from cli.output import as_json, print_json
from protocol.control.shapes import UpdateTenant
from protocol.quotas import SOFT_PERCENT, Quota, QuotaChange

MICRO: Final = 1_000_000
AMOUNT_MAX: Final = 2**53
NONE: Final = "none"
# Short enough for exact decimal arithmetic.
_NUMBER: Final = re.compile(r"[0-9](?:_?[0-9]){0,15}(?:\.[0-9]{1,6})?", re.ASCII)

F = TypeVar("F", bound=Callable[..., Any])
Given = int | str


class Amount(click.ParamType[Given]):
    """A number of at least `least` that may hold underscores, times `scale`, as an integer.

    Where `clears`, the word `none` takes the limit away.
    """

    name = "number"

    def __init__(
        self, scale: int, least: int = 0, most: int = AMOUNT_MAX, *, clears: bool = False
    ) -> None:
        self._scale: Final = scale
        self._least: Final = least
        self._most: Final = most
        self._clears: Final = clears
        if clears:
            self.name = "number|none"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Given:
        """See `click.ParamType`."""
        if isinstance(value, int) or (self._clears and value == NONE):
            return value  # type: ignore[no-any-return]
        if not _NUMBER.fullmatch(str(value)):
            msg = f"{value!r} is no number of at most 16 digits and 6 decimals, 0 or more"
            self.fail(msg, param, ctx)
        scaled = Decimal(str(value).replace("_", "")) * self._scale
        if scaled != int(scaled) or scaled > AMOUNT_MAX:
            self.fail(f"{value!r} is too large or too fine", param, ctx)
        if not self._least <= scaled <= self._most:
            self.fail(f"{value!r} is not between {self._least} and {self._most}", param, ctx)
        return int(scaled)

    def clearing(self) -> "Amount":
        """Give the same with the word `none`."""
        return Amount(self._scale, self._least, self._most, clears=True)


_OPTIONS: Final[dict[str, tuple[str, Amount, str]]] = {
    "tokens_per_day": (
        "tokens-per-day",
        Amount(1),
        "Tokens a day (UTC); underscores are allowed: 5_000_000.",
    ),
    "tokens_per_month": ("tokens-per-month", Amount(1), "Tokens a month (UTC)."),
    "cost_per_day_micro_usd": ("cost-per-day-usd", Amount(MICRO), "US dollars a day (UTC)."),
    "cost_per_month_micro_usd": (
        "cost-per-month-usd",
        Amount(MICRO),
        "US dollars a month (UTC).",
    ),
    "requests_per_minute": ("requests-per-minute", Amount(1), "Requests a minute."),
    "requests_per_hour": ("requests-per-hour", Amount(1), "Requests an hour."),
    "concurrent_runs": ("concurrent-runs", Amount(1), "Agent runs at a time; more wait."),
    "soft_percent": (
        "soft-percent",
        Amount(1, 1, 100),
        f"Of a limit: from here on the tenant is warned; {SOFT_PERCENT} unless said.",
    ),
}
"""By field: its option, what can be given, and what it is."""
_UNITS: Final = {
    "tokensPerDay": "{} tokens/day",
    "tokensPerMonth": "{} tokens/month",
    "costPerDayMicroUsd": "{}/day",
    "costPerMonthMicroUsd": "{}/month",
    "requestsPerMinute": "{} requests/minute",
    "requestsPerHour": "{} requests/hour",
    "concurrentRuns": "{} runs at a time",
    "softPercent": "warning at {} %",
}


def options(command: F) -> F:
    """Give a command an option for each limit, in the order of the table."""
    for field, (name, kind, text) in reversed(_OPTIONS.items()):
        command = click.option(f"--quota.{name}", field, type=kind, help=text)(command)
    return command


def change_options(command: F) -> F:
    """Likewise, and `none` takes a limit away."""
    for field, (name, kind, text) in reversed(_OPTIONS.items()):
        option = click.option(f"--quota.{name}", field, type=kind.clearing(), help=text)
        command = option(command)
    return command


def own(given: dict[str, Any]) -> Quota:
    """Take the quota of a new tenant out of a command's options."""
    return Quota(**{field: given.pop(field) for field in _OPTIONS})


def change(given: dict[str, Any]) -> QuotaChange:
    """Take what of a quota changes out of a command's options."""
    said = {field: given.pop(field) for field in _OPTIONS}
    return QuotaChange(
        **{
            field: None if value == NONE else value
            for field, value in said.items()
            if value is not None
        }
    )


def line(quota: dict[str, Any]) -> str:
    """Give a quota in one line."""
    parts = (
        unit.format(_amount(name, quota[name])) for name, unit in _UNITS.items() if name in quota
    )
    return ", ".join(parts) or "none"


def _amount(name: str, value: int) -> str:
    if name.startswith("cost"):
        return f"${(Decimal(value) / MICRO).normalize():f}"
    return f"{value:,}"


@click.command("quota")
@click.argument("tenant_id")
@change_options
@as_json
def command(tenant_id: str, as_json: bool, **given: Given | None) -> None:
    """Show a tenant's quota and what is used of it, or change what is named.

    `none` takes a limit away; 0 allows nothing. Through a gateway that runs a change is in force
    when this returns. Windows are those of UTC. What its files may take is `openclaw tenants
    limits --disk`.
    """
    changed = change(given)
    with open_tenants() as tenants:
        if changed != QuotaChange():
            tenants.update(tenant_id, UpdateTenant(quota=changed))
        status = tenants.quota(tenant_id)
    if as_json:
        print_json(status)
        return
    click.echo(f"quota       {line(status['quotas'])}")
    for window in status["windows"]:
        name, limit = window["metric"], window.get("limit")
        used = _amount(name, window["used"])
        of = "" if limit is None else f" of {_amount(name, limit)} ({window['percent']:g} %)"
        end = f", next window {window['nextWindowAt']}" if "nextWindowAt" in window else ""
        click.echo(f"{name:<20}  {used}{of}{end}")
    if "diskUsagePercent" in status:
        click.echo(f"disk                  {status['diskUsagePercent']:g} %")
    if status["isBlocked"]:
        click.echo(f"blocked by {status['blockedBy']} until {status['nextWindowAt']}")
