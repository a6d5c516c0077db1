"""`openclaw billing`: what tenants have used, and what it cost. The gateway may run or not."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeVar

import click

from cli import billing_show as show
from cli.billing_ledger import as_owner, ledger_directory, open_bills, open_ledger
from cli.client import exists
from cli.exits import ExitCode, fail
from cli.output import as_json, plain, print_json
from protocol import periods
from protocol.moments import rfc3339, unix_ms
from protocol.names import TENANT_ID_PATTERN, is_tenant_id
from protocol.periods import Period, PeriodError
from supervisor.bills import HEADER, Bills, Shape
from supervisor.ledger_reading import rebuild_totals
from supervisor.state import LockedError, StateError, StateRoot, default_root

Form = Literal["table", "json", "csv"]
F = TypeVar("F", bound=Callable[..., Any])
_PROGRESS_ROWS: Final = 100_000


class PeriodName(click.ParamType[Period]):
    """See `protocol.periods`."""

    name = "period"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Period:
        """See `click.ParamType`."""
        try:
            return periods.period(str(value), unix_ms())
        except PeriodError as error:
            self.fail(str(error), param, ctx)


class Moment(click.ParamType[int]):
    """A day, or a time in RFC 3339, as Unix ms; of a day its beginning, or its end."""

    name = "day|time"

    def __init__(self, *, ends: bool) -> None:
        self._ends: Final = ends

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `click.ParamType`."""
        try:
            return periods.moment(str(value), ends=self._ends)
        except PeriodError as error:
            self.fail(str(error), param, ctx)


_FROM: Final = click.option(
    "--from", "since", type=Moment(ends=False), help="From this day or time (UTC) on."
)
_TO: Final = click.option(
    "--to", "until", type=Moment(ends=True), help="To this day, which counts, or before this time."
)
_PERIOD: Final = click.option(
    "--period", type=PeriodName(), help=f"{periods.PERIODS_SHOWN}. current-month by default."
)


def _timed(command: F) -> F:
    return _PERIOD(_FROM(_TO(command)))


def _formed(command: F) -> F:
    as_csv = click.option("--csv", "form", flag_value="csv", help="Print CSV.")
    as_json = click.option("--json", "form", flag_value="json", help="Print JSON.")
    return as_csv(as_json(command))


def _period(period: Period | None, since: int | None, until: int | None) -> Period:
    if since is None and until is None:
        return period or periods.period("current-month", unix_ms())
    if period is not None:
        raise click.UsageError("--period and --from/--to exclude each other")
    if since is None:
        raise click.UsageError("--to needs --from")
    ends = unix_ms() if until is None else until
    if ends <= since:
        raise click.UsageError(f"--to ({rfc3339(ends)}) is not after --from ({rfc3339(since)})")
    return Period(since, ends)


def _whole_days(period: Period) -> tuple[str, str]:
    """Give its first and its last day."""
    if not period.whole_days:
        raise click.UsageError("--from/--to: whole days, as in 2026-11-03, are summed up here")
    return periods.day_of(period.start_ms), periods.day_of(period.end_ms - 1)


@contextmanager
def _bills_of(tenant: str) -> Iterator[Bills]:
    if not is_tenant_id(tenant):
        fail(f"tenant: must match {TENANT_ID_PATTERN}")
    ledger_directory()  # before anything is asked of a state directory that is none
    there = exists(tenant)
    with open_bills() as bills:
        known = bills.knows(tenant)
        if there is False and not known:
            fail(f"there is no tenant {tenant}, and the ledger has no rows of one")
        if there is False:
            click.echo(f"openclaw: {tenant} is deleted; these rows stay", err=True)
        yield bills


@click.group("billing")
def command() -> None:
    """Report what tenants have used and what it cost, from the ledger.

    Days and months are those of UTC. What a row cost was decided when it was written: a later rate
    card changes no report.
    """


@command.command("report")
@click.argument("tenant")
@_timed
@_formed
def report(
    tenant: str, period: Period | None, since: int | None, until: int | None, form: Form | None
) -> None:
    """Report every call of a tenant, with --csv or --json, or what they add up to.

    The columns of the CSV are in docs/billing.md; JSON is an object a line.
    """
    wanted = _period(period, since, until)
    with _bills_of(tenant) as bills:
        if form in ("csv", "json"):
            _print_rows(bills, "csv" if form == "csv" else "json", tenant, wanted)
            return
        totals = bills.by_model(tenant, wanted)
    show.print_table(("kind", "provider", "model"), totals)
    span = f"{rfc3339(wanted.start_ms)} to {rfc3339(wanted.end_ms)}"
    click.echo(f"{tenant}, {span}; every call: --csv or --json")


def _print_rows(bills: Bills, shape: Shape, tenant: str, period: Period) -> None:
    out = sys.stdout.buffer
    # Between what scrolls by it would be a nuisance.
    seen = sys.stderr.isatty() and not sys.stdout.isatty()
    expected = bills.count(tenant, period) if seen else 0
    done = 0
    if shape == "csv":
        out.write(f"{HEADER}\r\n".encode())
    end = "\r\n" if shape == "csv" else "\n"
    for lines in bills.pages(shape, tenant, period):
        out.write((end.join(lines) + end).encode())
        done += len(lines)
        if expected > _PROGRESS_ROWS:
            click.echo(f"\r{done:,} of {expected:,} rows", err=True, nl=False)
    out.flush()
    if expected > _PROGRESS_ROWS:
        click.echo(err=True)


@command.command("summary")
@_timed
@_formed
def summary(period: Period | None, since: int | None, until: int | None, form: Form | None) -> None:
    """Sum up what each tenant has used, deleted ones too."""
    wanted = _period(period, since, until)
    first, last = _whole_days(wanted)
    with open_bills() as bills:
        totals = bills.totals("day", first, last, by=("tenant",))
    show.print_totals(form or "table", ("tenant",), totals)


@command.command("rollup")
@click.option("--tenant", required=True, help="Whose.")
@_timed
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", help="How."
)
def rollup(
    tenant: str, period: Period | None, since: int | None, until: int | None, form: Form
) -> None:
    """Sum up what a tenant has used, by day and model."""
    wanted = _period(period, since, until)
    first, last = _whole_days(wanted)
    with _bills_of(tenant) as bills:
        by: Final = ("period", "kind", "provider", "model")
        totals = bills.totals("day", first, last, tenant=tenant, by=by)
    show.print_totals(form, ("date", "kind", "provider", "model"), totals)


@command.command("reconcile")
@as_json
def reconcile(as_json: bool) -> None:
    """Check the ledger row by row: prices by their rate cards, sums, gaps, reservations, the file.

    The gateway may run meanwhile. The exit code is 1 where something is wrong, and each thing is
    named.
    """
    with open_ledger() as db:
        # Imported late: it knows rate cards, which reports do not need.
        from supervisor.ledger_check import reconcile as look  # noqa: PLC0415

        found = look(db, unix_ms())
    if as_json:
        print_json(found)
    else:
        for finding in found.findings:
            click.echo(plain(finding))
        if len(found.findings) < found.found:
            click.echo(f"… and {found.found - len(found.findings)} more")
    if found.found:
        fail(f"the ledger does not reconcile: {found.found} findings in {found.entries:,} rows")
    if not as_json:
        click.echo(f"✓ {found.entries:,} rows, {show.usd(found.cost_micro_usd)} US dollars")
        click.echo(f"✓ {found.open_reservations} calls under way")


@command.command("rebuild")
def rebuild() -> None:
    """Make the sums by day and month anew from the rows, while no gateway runs."""
    directory = ledger_directory()
    try:
        with StateRoot(default_root()).acquire(), as_owner(directory):
            made = rebuild_totals(directory)
    except LockedError as error:
        fail(f"{error}: stop the gateway first", ExitCode.TRY_LATER)
    except (StateError, OSError) as error:
        fail(str(error))
    click.echo(f"✓ {made:,} sums made of the rows")
