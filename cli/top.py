"""`openclaw top`: the tenants at work, busiest first, as they change."""

import time
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from cli.client import open_tenants

ROWS_MAX: Final = 200
# What has no worker uses nothing; it is counted below the table.
_ASLEEP: Final = frozenset({"absent", "parked", "suspended"})


class Reading(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One tenant at one moment. `cpu_percent` is of one processor, since the reading before."""

    tenant_id: str
    state: str
    cpu_percent: float | None
    memory_bytes: int | None
    in_flight: int
    held: int
    restarts: int
    uptime_seconds: float | None


class Readings:
    """Turns what the gateway says into readings, with what changed since the time before."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, float, float]] = {}

    def take(self, rows: list[dict[str, Any]], now: float) -> list[Reading]:
        """Give a reading of each tenant, the busiest first.

        Args:
            rows: As `/v1/status` gives them.
            now: Monotonic seconds.
        """
        before, self._before = self._before, {}
        readings = [self._reading(row, before.get(row["tenantId"]), now) for row in rows]
        return sorted(readings, key=_busyness)

    def _reading(
        self, row: dict[str, Any], before: tuple[int, float, float] | None, now: float
    ) -> Reading:
        pid, cpu = row.get("pid"), row.get("cpuSeconds")
        percent = None
        if pid is not None and cpu is not None:
            self._before[row["tenantId"]] = (pid, cpu, now)
            if before is not None and before[0] == pid and now > before[2]:
                percent = round(100 * (cpu - before[1]) / (now - before[2]), 1)
        return Reading(
            tenant_id=row["tenantId"],
            state=row["state"],
            cpu_percent=percent,
            memory_bytes=row.get("memoryBytes"),
            in_flight=row["inFlight"],
            held=row["held"],
            restarts=row["deaths"],
            uptime_seconds=row.get("uptimeSeconds"),
        )


def _busyness(reading: Reading) -> tuple[float, int, int, str]:
    return (
        -(reading.cpu_percent or 0.0),
        -(reading.in_flight + reading.held),
        -(reading.memory_bytes or 0),
        reading.tenant_id,
    )


def table(readings: list[Reading]) -> Table:
    """Draw the tenants that have a worker or a trouble; the rest are counted."""
    shown = [reading for reading in readings if reading.state not in _ASLEEP or reading.held]
    asleep = len(readings) - len(shown)
    drawn = Table(caption=f"{len(readings)} tenants, {asleep} without a worker", box=None)
    for name in ("TENANT", "STATE", "CPU %", "MEMORY", "IN FLIGHT", "HELD", "RESTARTS", "UPTIME"):
        drawn.add_column(name, justify="left" if name in ("TENANT", "STATE") else "right")
    for reading in shown[:ROWS_MAX]:
        drawn.add_row(
            reading.tenant_id,
            reading.state,
            _or_dash(reading.cpu_percent, "{:.1f}"),
            _or_dash(reading.memory_bytes and reading.memory_bytes / 2**20, "{:.1f} MB"),
            str(reading.in_flight),
            str(reading.held),
            str(reading.restarts),
            _or_dash(reading.uptime_seconds, "{:.0f} s"),
            style="red" if reading.state in ("failed", "backoff") else None,
        )
    return drawn


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


@click.command("top")
@click.option("--once", is_flag=True, help="Print one reading and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; a line each time.")
@click.option(
    "--interval", type=click.FloatRange(0.2, 3600), default=2.0, help="Seconds between readings."
)
def command(once: bool, as_json: bool, interval: float) -> None:
    """Show the tenants at work, busiest first."""
    readings = Readings()
    with open_tenants() as tenants:

        def read() -> list[Reading]:
            return readings.take(tenants.status(None), time.monotonic())

        if once or as_json:
            while True:
                found = read()
                click.echo(msgspec.json.encode(found) if as_json else _text(table(found)))
                if once:
                    return
                time.sleep(interval)
        with Live(table(read()), auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(interval)
                live.update(table(read()), refresh=True)


def _text(drawn: Table) -> str:
    console = Console()
    with console.capture() as captured:
        console.print(drawn)
    return captured.get().rstrip()
