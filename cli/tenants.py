"""`openclaw tenants`: what an operator does to tenants."""

import threading
import time
from collections.abc import Iterable
from typing import Any, Final, Literal

import click
from msgspec import UNSET

from cli import limits, quotas
from cli.client import Tenants, open_tenants
from cli.exits import ExitCode, fail
from cli.output import as_json, print_json
from cli.tokens import command as token_command
from protocol.control.shapes import CreateTenant, UpdateTenant
from protocol.errors import GatewayError


@click.group("tenants")
def command() -> None:
    """Create, show and remove tenants.

    Works through the gateway when it runs, and directly on the state directory when it does not.
    """


@command.command("create")
@click.argument("tenant_id")
@click.option("--display-name", help="What people call the tenant.")
@quotas.options
@limits.options
@as_json
def create(
    tenant_id: str,
    display_name: str | None,
    as_json: bool,
    **given: limits.Given | None,
) -> None:
    """Create a tenant and print its token, which is shown this once."""
    quota = quotas.own(given)
    with open_tenants() as tenants:
        created = tenants.create(
            CreateTenant(
                tenant_id=tenant_id,
                display_name=display_name,
                quota=quota,
                limits=limits.own(given),
            )
        )
    if as_json:
        print_json(created)
        return
    click.echo(f"✓ tenant created · {created['stateDir']}")
    click.echo("✓ token (copy now — shown once):")
    click.echo(created["token"])
    click.echo(f"✓ quota: {quotas.line(created['quota'])}")
    if limits.line(created):
        click.echo(f"✓ limits: {limits.line(created)}")


@command.command("list")
@as_json
def list_tenants(as_json: bool) -> None:
    """List all tenants."""
    with open_tenants() as tenants:
        rows = tenants.everyone()
    if as_json:
        print_json(rows)
        return
    width = max((len(row["tenantId"]) for row in rows), default=0)
    for row in rows:
        name = f"  {row['displayName']}" if "displayName" in row else ""
        quota = f"  quota: {quotas.line(row['quota'])}" if row["quota"] else ""
        click.echo(
            f"{row['tenantId']:<{width}}  {row['state']:<9}  {row['createdAt']}{name}{quota}"
        )
    if not rows:
        click.echo("no tenants yet: openclaw tenants create <id>")


@command.command("get")
@click.argument("tenant_id")
@as_json
def get(tenant_id: str, as_json: bool) -> None:
    """Show one tenant."""
    with open_tenants() as tenants:
        row = tenants.get(tenant_id)
    _show(row, as_json=as_json)


@command.command("update")
@click.argument("tenant_id")
@click.option("--display-name", help="What people call the tenant; empty takes the name away.")
@quotas.change_options
@as_json
def update(
    tenant_id: str, display_name: str | None, as_json: bool, **given: quotas.Given | None
) -> None:
    """Change a tenant's name or quota; what is not named stays."""
    change = UpdateTenant(
        display_name=UNSET if display_name is None else display_name or None,
        quota=quotas.change(given),
    )
    with open_tenants() as tenants:
        row = tenants.update(tenant_id, change)
    _show(row, as_json=as_json)


def _show(row: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    click.echo(f"tenant      {row['tenantId']}")
    if "displayName" in row:
        click.echo(f"name        {row['displayName']}")
    click.echo(f"state       {row['state']}")
    click.echo(f"created     {row['createdAt']}")
    click.echo(f"directory   {row['stateDir']}")
    click.echo(f"quota       {quotas.line(row['quota'])}")
    if limits.line(row):
        click.echo(f"limits      {limits.line(row)}")


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
        print_json(deleted)
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


@command.command("suspend")
@click.argument("tenant_id")
@as_json
def suspend(tenant_id: str, as_json: bool) -> None:
    """Take a tenant out of service: its tokens are refused and its worker ends."""
    _set_state(tenant_id, "suspend", as_json=as_json)


@command.command("resume")
@click.argument("tenant_id")
@as_json
def resume(tenant_id: str, as_json: bool) -> None:
    """Take a suspended tenant back into service."""
    _set_state(tenant_id, "resume", as_json=as_json)


def _set_state(tenant_id: str, verb: Literal["suspend", "resume"], *, as_json: bool) -> None:
    with open_tenants() as tenants:
        row = tenants.set_state(tenant_id, verb)
    if as_json:
        print_json(row)
    else:
        click.echo(f"✓ tenant {tenant_id} is {row['state']}")


@command.command("restart")
@click.argument("tenant_id", required=False)
@click.option("--all", "everyone", is_flag=True, help="Every tenant that has a worker.")
@click.option(
    "--at-once", type=click.IntRange(1, 64), default=2, help="With --all: how many at a time."
)
@click.option("--keep-going", is_flag=True, help="With --all: go on after one that failed.")
@as_json
def restart(
    tenant_id: str | None, everyone: bool, at_once: int, keep_going: bool, as_json: bool
) -> None:
    """Replace a tenant's worker without a lost request.

    The next generation starts beside the present one, which finishes what it has in flight. If the
    next one cannot start, the present one serves on, and the exit code is 1. With --all the first
    one that cannot start stops the round, for what keeps one out may keep all out.
    """
    if everyone == (tenant_id is not None):
        raise click.UsageError("name one tenant, or say --all")
    with open_tenants() as tenants:
        if tenant_id is not None:
            results = [_restart(tenants, tenant_id)]
        else:
            results = _restart_all(tenants, at_once, keep_going=keep_going)
    restarted = [row for row in results if row is not None]
    if as_json:
        print_json(restarted)
    else:
        for row in restarted:
            click.echo(f"✓ {row['tenantId']} · generation {row['generation']} · pid {row['pid']}")
    if len(restarted) < len(results):
        raise SystemExit(ExitCode.FAILED)


def _restart_all(
    tenants: Tenants, at_once: int, *, keep_going: bool
) -> list[dict[str, Any] | None]:
    running = [row["tenantId"] for row in tenants.status(None) if "pid" in row]
    if not running:
        click.echo("openclaw: no tenant has a worker", err=True)
    stopped = threading.Event()
    untouched: list[str] = []

    def restart(tenant_id: str) -> dict[str, Any] | None:
        if stopped.is_set():
            untouched.append(tenant_id)
            return None
        row = _restart(tenants, tenant_id)
        if row is None and not keep_going:
            stopped.set()
        return row

    # Imported late: it is not needed to look at tenants.
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    with ThreadPoolExecutor(at_once) as pool:
        results = list(pool.map(restart, running))
    if untouched:
        click.echo(f"openclaw: not restarted: {', '.join(sorted(untouched))}", err=True)
    return results


def _restart(tenants: Tenants, tenant_id: str) -> dict[str, Any] | None:
    try:
        return tenants.restart(tenant_id)
    except GatewayError as error:
        click.echo(f"openclaw: {tenant_id}: {error.message}", err=True)
        return None


@command.command("status")
@click.argument("tenant_id", required=False)
@as_json
def status(tenant_id: str | None, as_json: bool) -> None:
    """Say how the workers are: state, pid, uptime, deaths, use of its limits, what is in flight.

    Use is of the worker and its sandboxes together, where there are cgroups. Of one tenant the
    last hundred deaths are told one by one.
    """
    with open_tenants() as tenants:
        rows = tenants.status(tenant_id)
    if as_json:
        print_json(rows)
        return
    _print_table(_STATUS_HEAD, map(_status_cells, rows))
    for row in rows:
        if "reason" in row:
            click.echo(f"{row['tenantId']}: {row['state']}: {row['reason']}")
        if "stopped" in row:
            click.echo(f"{row['tenantId']}: may not write: {row['stopped']}")
        if "blocked" in row:
            click.echo(f"{row['tenantId']}: may not spend: {row['blocked']}")
        if "lastDeath" in row:
            click.echo(f"{row['tenantId']}: last death: {row['lastDeath']}")
        if "deathHistory" in row:
            click.echo()
            _print_table(_DEATHS_HEAD, map(_death_cells, row["deathHistory"]))


def _print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    cells = [head, *rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _time_of(unix_ms: int) -> str:
    return time.strftime("%FT%TZ", time.gmtime(unix_ms / 1000))


_STATUS_HEAD: Final = (
    *("TENANT", "STATE", "PID", "UPTIME", "RESTARTS", "DEATHS"),
    *("MEMORY", "CPU", "PIDS", "DISK", "INODES", "IN FLIGHT", "WAKES"),
)
_DEATHS_HEAD: Final = ("DIED AT", "GENERATION", "UPTIME", "EXIT", "SIGNAL", "OOM", "CAUSE")


def _death_cells(death: dict[str, Any]) -> tuple[str, ...]:
    return (
        _time_of(death["atMs"]),
        str(death["generation"]),
        f"{death['uptimeSeconds']:.0f} s",
        str(death.get("exitCode", "-")),
        str(death.get("signal", "-")),
        "yes" if death.get("outOfMemory") else "-",
        death["cause"],
    )


def _status_cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["tenantId"],
        row["state"],
        str(row.get("pid", "-")),
        f"{row['uptimeSeconds']:.0f} s" if "uptimeSeconds" in row else "-",
        str(row.get("restarts", 0)),
        str(row["deaths"]),
        limits.used(row, "memoryBytes"),
        f"{row['cpuSeconds']:.2f} s" if "cpuSeconds" in row else "-",
        *(limits.used(row, field) for field in ("pids", "diskBytes", "diskInodes")),
        f"{row['inFlight']}" + (f"+{row['held']} held" if row["held"] else ""),
        _time_of(row["nextWakeAtMs"]) if "nextWakeAtMs" in row else "-",
    )


command.add_command(limits.command)
command.add_command(quotas.command)
command.add_command(token_command)
