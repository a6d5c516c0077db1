"""How sums are printed: as a table for people, as JSON, as CSV."""

import sys
from typing import Any, Final, Literal

import click
import msgspec

from cli.output import plain, print_json
from protocol.usage import Use
from supervisor.bills import Total, cell

_MICRO: Final = 1_000_000
_MS: Final = 1000
_FIELDS: Final = Use.__struct_fields__
_CSV_NAMES: Final = {
    "sandbox_wall_ms": "sandbox_seconds",
    "sandbox_cpu_ms": "sandbox_cpu_seconds",
    "cost_micro_usd": "cost_usd",
}
_SHOWN: Final = {
    "calls": "CALLS",
    "input_tokens": "INPUT",
    "cache_read_tokens": "CACHED",
    "cache_write_tokens": "CACHE WRITE",
    "output_tokens": "OUTPUT",
    "reasoning_tokens": "REASONING",
    "sandbox_wall_ms": "SANDBOX S",
    "egress_bytes": "BYTES OUT",
    "cost_micro_usd": "COST USD",
}


def usd(micro_usd: int) -> str:
    """Write an amount of money, exactly."""
    return f"{micro_usd // _MICRO}.{micro_usd % _MICRO:06d}"


def _seconds(ms: int) -> str:
    return f"{ms // _MS}.{ms % _MS:03d}"


def print_totals(
    form: Literal["table", "json", "csv"], names: tuple[str, ...], totals: list[Total]
) -> None:
    """Print sums.

    Args:
        form: How.
        names: What the columns are called that each sum is of.
        totals: What is printed.
    """
    match form:
        case "csv":
            print_csv(names, totals)
        case "json":
            print_json([_as_json(names, total) for total in totals])
        case "table":
            print_table(names, totals)


def print_csv(names: tuple[str, ...], totals: list[Total]) -> None:
    """Print sums as CSV (RFC 4180), with a header line."""
    columns = (*map(_csv_name, names), *(_CSV_NAMES.get(name, name) for name in _FIELDS))
    _print_line(columns)
    for total in totals:
        _print_line((*map(cell, total.of), *(_written(name, total.use) for name in _FIELDS)))


def _print_line(cells: tuple[str, ...]) -> None:
    sys.stdout.buffer.write(f"{','.join(cells)}\r\n".encode())


def _csv_name(name: str) -> str:
    return "tenant_id" if name == "tenant" else name


def _written(name: str, use: Use) -> str:
    amount: int = getattr(use, name)
    if name == "cost_micro_usd":
        return usd(amount)
    return _seconds(amount) if name.endswith("_ms") else str(amount)


def _as_json(names: tuple[str, ...], total: Total) -> dict[str, Any]:
    said = {
        "tenantId" if name == "tenant" else name: value
        for name, value in zip(names, total.of, strict=True)
    }
    used: dict[str, Any] = msgspec.to_builtins(total.use)
    return said | used


def print_table(names: tuple[str, ...], totals: list[Total]) -> None:
    """Print sums and what they add up to."""
    head = (*(name.upper() for name in names), *_SHOWN.values())
    rows = [(*map(plain, total.of), *_amounts(total.use)) for total in totals]
    everything = Use()
    for total in totals:
        everything += total.use
    rows.append(("TOTAL", *("" for _ in names[1:]), *_amounts(everything)))
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        cells = (
            text.ljust(width) if column < len(names) else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo("  ".join(cells).rstrip())


def _amounts(use: Use) -> tuple[str, ...]:
    return tuple(
        f"{getattr(use, name):,}"
        if name.endswith(("tokens", "calls", "bytes"))
        else _written(name, use)
        for name in _SHOWN
    )
