"""`openclaw top`: the tenants at work, busiest first, as they change."""

import time
from typing import Any, Final

import click
import msgspec

from cli.client import open_gateway

INTERVAL_SECONDS_MIN: Final = 0.2
INTERVAL_SECONDS_MAX: Final = 3600.0


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
    next_wake_at_ms: int | None


class Readings:
    """Turns what the gateway says into readings, with what changed since the time before."""

    def __init__(self) -> None:
        # By tenant: process, CPU seconds, when.
        self._before: dict[str, tuple[int, float, float]] = {}

    def take(self, rows: list[dict[str, Any]], now: float) -> list[Reading]:
        """Give a reading of each tenant, the busiest first.

        Args:
            rows: As `/v1/status` gives them.
            now: Monotonic seconds.
        """
        before, self._before = self._before, {}
        readings = [self._reading(row, before.get(row["tenantId"]), now) for row in rows]
        return sorted(readings, key=_idleness)

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
            restarts=row.get("restarts", 0),
            uptime_seconds=row.get("uptimeSeconds"),
            next_wake_at_ms=row.get("nextWakeAtMs"),
        )


def _idleness(reading: Reading) -> tuple[float, int, int, str]:
    return (
        -(reading.cpu_percent or 0.0),
        -(reading.in_flight + reading.held),
        -(reading.memory_bytes or 0),
        reading.tenant_id,
    )


@click.command("top")
@click.option("--once", is_flag=True, help="Print one reading and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a line each reading.")
@click.option(
    "--interval",
    type=click.FloatRange(INTERVAL_SECONDS_MIN, INTERVAL_SECONDS_MAX),
    default=2.0,
    show_default=True,
    help="Seconds between readings.",
)
def command(once: bool, as_json: bool, interval: float) -> None:
    """Show the tenants at work, busiest first, until Ctrl-C.

    CPU is of one processor since the reading before, so the first has none. Of a gateway that goes
    away it says so, and exits with 75.
    """
    readings = Readings()
    with open_gateway() as gateway:

        def read() -> list[Reading]:
            return readings.take(gateway.status(None), time.monotonic())

        try:
            if as_json:
                while True:
                    click.echo(msgspec.json.encode(read()))
                    if once:
                        return
                    time.sleep(interval)
            # Imported late: who reads JSON waits for no drawing.
            from cli import top_table  # noqa: PLC0415

            if once:
                click.echo(top_table.text(read(), time.time()))
            else:
                top_table.show(read, interval)
        except KeyboardInterrupt:
            return
