"""How `openclaw top` draws its readings."""

import time
from collections.abc import Callable
from typing import Final

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from cli import limits
from cli.top import Reading

COLUMNS: Final = (
    *("TENANT", "STATE", "CPU %", "MEMORY", "PIDS", "DISK", "INODES"),
    *("IN FLIGHT", "HELD", "RESTARTS", "UPTIME", "NEXT WAKE"),
)
_LEFT: Final = ("TENANT", "STATE")
# What has no worker uses nothing: such tenants are counted below the table, unless calls wait.
_ASLEEP: Final = frozenset({"absent", "parked", "suspended"})
_TROUBLED: Final = frozenset({"backoff", "failed"})
_TEXT_WIDTH: Final = 160
# Title, heading and caption, and a line for what comes after a terminal's last.
_FRAME_LINES: Final = 3


def table(readings: list[Reading], now: float, rows_max: int | None = None) -> Table:
    """Draw the tenants that have a worker, a trouble or a time to wake; count the rest.

    Args:
        readings: In their order.
        now: The time of day in seconds.
        rows_max: How many there is room for.
    """
    shown = [reading for reading in readings if _is_shown(reading)]
    drawn = Table(box=None, caption_justify="left")
    for name in COLUMNS:
        drawn.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True)
    for reading in shown[:rows_max]:
        style = "red" if reading.state in _TROUBLED or reading.stopped else None
        drawn.add_row(*_cells(reading, now), style=style)
    hidden = 0 if rows_max is None else max(0, len(shown) - rows_max)
    asleep = len(readings) - len(shown)
    more = f", {hidden} more than fit" if hidden else ""
    drawn.caption = f"tenants: {len(readings)}, {asleep} of them asleep{more}"
    return drawn


def _is_shown(reading: Reading) -> bool:
    is_due = reading.next_wake_at_ms is not None
    is_troubled = reading.held > 0 or reading.stopped is not None
    return reading.state not in _ASLEEP or is_troubled or is_due


def _cells(reading: Reading, now: float) -> tuple[str, ...]:
    cpu, row = reading.cpu_percent, msgspec.to_builtins(reading)
    used = {name: value for name, value in row.items() if value is not None}
    wakes_in = None if reading.next_wake_at_ms is None else reading.next_wake_at_ms / 1000 - now
    return (
        reading.tenant_id,
        reading.state,
        "-" if cpu is None else f"{cpu:.1f}",
        *(limits.used(used, field) for field in ("memoryBytes", "pids", "diskBytes", "diskInodes")),
        str(reading.in_flight),
        str(reading.held),
        str(reading.restarts),
        _span(reading.uptime_seconds),
        _span(wakes_in),
    )


def _span(seconds: float | None) -> str:
    """Give a time that passes, short: its two largest units."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes % 60}m"
    return f"{minutes}m {whole % 60}s" if minutes else f"{whole}s"


def text(readings: list[Reading], now: float) -> str:
    """Give the table as lines, wide enough for every column where nobody says how wide."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_TEXT_WIDTH)
    with console.capture() as captured:
        console.print(table(readings, now))
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())


def show(read: Callable[[], list[Reading]], interval: float) -> None:
    """Draw on the whole terminal, again and again, until something is raised.

    Args:
        read: Takes a reading.
        interval: Seconds between them.
    """
    console = Console()

    def drawn() -> Table:
        return table(read(), time.time(), max(1, console.size.height - _FRAME_LINES))

    with Live(drawn(), console=console, auto_refresh=False, screen=True) as live:
        while True:
            live.refresh()
            time.sleep(interval)
            live.update(drawn())
