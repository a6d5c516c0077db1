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
    pids: int | None
    disk_bytes: int | None
    disk_inodes: int | None
    limits: dict[str, Any]
    stopped: str | None
    in_flight: int
    held: int
    restarts: int
    uptime_seconds: float | None
    next_wake_at_ms: int | None


class Readings:
    """Turns what the gateway says into readings, with what changed since the time before."""

    def __init__(self) -> None:
        # By tenant: CPU seconds, when.
        self._before: dict[str, tuple[float, float]] = {}

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
        self, row: dict[str, Any], before: tuple[float, float] | None, now: float
    ) -> Reading:
        cpu: float | None = row.get("cpuSeconds")
        percent = None
        if cpu is not None:
            self._before[row["tenantId"]] = (cpu, now)
            # One that has used less than before is another process.
            if before is not None and cpu >= before[0] and now > before[1]:
                percent = round(100 * (cpu - before[0]) / (now - before[1]), 1)
        return Reading(
            tenant_id=row["tenantId"],
            state=row["state"],
            cpu_percent=percent,
            memory_bytes=row.get("memoryBytes"),
            pids=row.get("pids"),
            disk_bytes=row.get("diskBytes"),
            disk_inodes=row.get("diskInodes"),
            limits=row.get("limits", {}),
            stopped=row.get("stopped"),
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
