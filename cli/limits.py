"""`openclaw tenants limits`: what a tenant may have at once, and the options that say so."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, TypeVar

import click
from msgspec import UNSET

from cli.client import open_tenants
from cli.output import as_json, print_json
from protocol import limits
from protocol.control.shapes import LimitsChange, TenantLimits, UpdateTenant

UNLIMITED: Final = "unlimited"
DEFAULT: Final = "default"
_UNITS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
# Short enough for exact decimal arithmetic.
_NUMBER: Final = re.compile(r"[0-9]{1,16}(?:\.[0-9]{1,6})?", re.ASCII)
_SIZE: Final = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,6})?) ?(?:([KMGTP])(?:i?B?)?|B)?", re.ASCII)

F = TypeVar("F", bound=Callable[..., Any])
Given = int | float | str


class _Bounded(click.ParamType[Given]):
    """What is between two bounds, or `unlimited`, or `default`."""

    def __init__(self, least: float, most: float, why: str = "") -> None:
        self._least: Final = least
        self._most: Final = most
        self._why: Final = why

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Given:
        """See `click.ParamType`."""
        text = str(value)
        if text in (UNLIMITED, DEFAULT):
            return text
        number = self.parse(text)
        if number is None:
            self.fail(f"{value!r} is no {self.name}", param, ctx)
        if number < self._least:
            why = f", the least that {self._why}" if self._why else ""
            self.fail(f"{value!r} is below {self.text(self._least)}{why}", param, ctx)
        if number > self._most:
            msg = f"{value!r} is above {self.text(self._most)}; say unlimited for no bound"
            self.fail(msg, param, ctx)
        return number

    def parse(self, text: str) -> float | None:
        """Give the number that a text says, None if it says none."""
        raise NotImplementedError

    def text(self, number: float) -> str:
        """Write a number so that it can be read and typed."""
        return f"{number:g}"


class Size(_Bounded):
    """Bytes: `512M`, `2G`, `1.5GiB` (all powers of 1024), or a plain number."""

    name = "size such as 512M, 1.5G or 1048576; unlimited or default"

    def parse(self, text: str) -> int | None:
        """See `_Bounded`."""
        found = _SIZE.fullmatch(text)
        if found is None:
            return None
        return int(Decimal(found[1]) * 1024 ** _UNITS[found[2] or ""])

    def text(self, number: float) -> str:
        """See `_Bounded`."""
        return size_text(int(number))


class Count(_Bounded):
    """A whole number; underscores are allowed."""

    name = "whole number; unlimited or default"

    def parse(self, text: str) -> int | None:
        """See `_Bounded`."""
        digits = text.replace("_", "")
        return int(digits) if re.fullmatch("[0-9]{1,16}", digits, re.ASCII) else None

    def text(self, number: float) -> str:
        """See `_Bounded`."""
        return str(int(number))


class Processors(_Bounded):
    """Processors' worth of time; 0.5 is half of one."""

    name = "number of processors such as 0.5 or 2; unlimited or default"

    def parse(self, text: str) -> float | None:
        """See `_Bounded`."""
        return float(text) if _NUMBER.fullmatch(text) else None


def size_text(number: int) -> str:
    """Write a number of bytes in the largest unit of 1024 that keeps it readable."""
    value, unit = float(number), ""
    for unit in _UNITS:  # noqa: B007 - the one that fits is what is wanted
        if value < 1024:  # noqa: PLR2004
            break
        value /= 1024
    return f"{value:.4g}{unit}" if unit else str(number)


_NEEDED: Final = "a tenant's worker and a small sandbox need"
_LIMITS: Final[dict[str, tuple[str, click.ParamType[Given], str]]] = {
    "memory_bytes": (
        "memory",
        Size(limits.TENANT_MEMORY_BYTES_MIN, limits.TENANT_MEMORY_BYTES_MAX, _NEEDED),
        "Memory of its worker and its sandboxes together.",
    ),
    "cpus": (
        "cpu",
        Processors(limits.TENANT_CPUS_MIN, limits.TENANT_CPUS_MAX, _NEEDED),
        "Processors' worth of time.",
    ),
    "pids": (
        "pids",
        Count(limits.TENANT_PIDS_MIN, limits.TENANT_PIDS_MAX, _NEEDED),
        "Processes and threads.",
    ),
    "disk_bytes": (
        "disk",
        Size(limits.TENANT_DISK_BYTES_MIN, limits.TENANT_DISK_BYTES_MAX, _NEEDED),
        "Bytes that its files may take on the disk.",
    ),
    "disk_inodes": (
        "inodes",
        Count(limits.TENANT_DISK_INODES_MIN, limits.TENANT_DISK_INODES_MAX, _NEEDED),
        "How many files and directories it may have.",
    ),
}
"""By field: what people call it, what can be given, and what it is."""


def options(command: F) -> F:
    """Give a command an option for each limit, in the order of the table."""
    for field, (name, kind, text) in reversed(_LIMITS.items()):
        command = click.option(f"--{name}", field, type=kind, help=text)(command)
    return command


def own(given: dict[str, Given | None]) -> TenantLimits:
    """Give the limits of a new tenant."""
    said: dict[str, Any] = {
        field: value for field, value in given.items() if value not in (None, DEFAULT)
    }
    return TenantLimits(**said)


def line(row: dict[str, Any]) -> str:
    """Give a tenant's own limits in one line; empty where it has none."""
    said = row["limits"]
    words = (
        f"{name} {_text(field, said[_camel(field)])}"
        for field, (name, _, _) in _LIMITS.items()
        if _camel(field) in said
    )
    return ", ".join(words)


def used(row: dict[str, Any], field: str) -> str:
    """Give what a tenant uses of one limit, and the limit if there is one.

    Args:
        row: Its status, as the gateway gives it.
        field: Of the row.
    """
    if field not in row:
        return "-"
    kind = size_text if field.endswith("Bytes") else str
    most = row.get("limits", {}).get(field, UNLIMITED)
    return kind(row[field]) if most == UNLIMITED else f"{kind(row[field])}/{kind(most)}"


def _camel(field: str) -> str:
    first, *rest = field.split("_")
    return first + "".join(map(str.capitalize, rest))


def _text(field: str, value: Given) -> str:
    if isinstance(value, int) and field.endswith("_bytes"):
        return size_text(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


@click.command("limits")
@click.argument("tenant_id")
@options
@as_json
def command(tenant_id: str, as_json: bool, **given: Given | None) -> None:
    """Show what a tenant may have at once, or change what is named.

    `unlimited` takes a bound away, `default` is what config.yaml says (caps.*). Through a gateway
    that runs a change is in force when this returns; no worker is restarted.
    """
    with open_tenants() as tenants:
        if any(value is not None for value in given.values()):
            change = LimitsChange(**{field: _change(value) for field, value in given.items()})
            row = tenants.update(tenant_id, UpdateTenant(limits=change))
        else:
            row = tenants.get(tenant_id)
    for warning in row.get("warnings", ()):
        click.echo(f"openclaw: {warning}", err=True)
    if as_json:
        named = ("tenantId", "limits", "effectiveLimits", "warnings")
        print_json({name: row[name] for name in named if name in row})
        return
    for field, (name, _, _) in _LIMITS.items():
        value = row["effectiveLimits"][_camel(field)]
        source = "tenant" if _camel(field) in row["limits"] else f"caps.{field}"
        click.echo(f"{name:<7} {_text(field, value):>12}  from {source}")


def _change(value: Given | None) -> Any:
    if value is None:
        return UNSET
    return None if value == DEFAULT else value
