"""`openclaw audit`: read and check `audit.jsonl`. The gateway may run or not."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from cli.exits import fail
from cli.output import as_json, print_json
from cli.tokens import Seconds
from protocol.moments import rfc3339, unix_ms
from protocol.names import TENANT_ID_PATTERN, is_tenant_id
from supervisor import audit_reading
from supervisor.audit import AuditError
from supervisor.state import StateError, StateRoot, default_root

_AGO_SECONDS_MAX: Final = 100 * 366 * 86_400


class Since(click.ParamType[int]):
    """A moment in Unix ms: RFC 3339, a date, or a span before now (15m, 12h, 30d)."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `click.ParamType`."""
        text = str(value)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            ago = Seconds(0, _AGO_SECONDS_MAX).convert(text, param, ctx)
            return unix_ms() - ago * 1000
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)


def _path() -> Path:
    try:
        return StateRoot(default_root()).audit
    except StateError as error:
        fail(str(error))


@click.group("audit")
def command() -> None:
    """Read and check the audit: every change of state, one line each, chained by hash."""


@command.command("verify")
@click.option("--head", help="A head that `verify` gave earlier; it must still be in the chain.")
@as_json
def verify(head: str | None, as_json: bool) -> None:
    """Check every line against the one before it; the exit code is 1 if one does not fit."""
    try:
        verdict = audit_reading.verify(_path(), head)
    except OSError as error:
        fail(f"the audit cannot be read: {error}")
    if as_json:
        print_json(
            {
                "entries": verdict.entries,
                "head": verdict.head,
                "fault": verdict.fault,
                "tornBytes": verdict.torn_bytes,
            }
        )
    if verdict.torn_bytes and not as_json:
        click.echo(
            f"openclaw: {verdict.torn_bytes} bytes stand after the last whole line: one is just "
            "being written, or a crash has torn it and the next start will cut it off",
            err=True,
        )
    if verdict.fault is not None:
        fail(f"the audit is not whole: {verdict.fault} ({verdict.entries} lines before it are)")
    if not as_json:
        click.echo(f"✓ {verdict.entries} lines, unbroken")
        click.echo(f"✓ head {verdict.head}")


@command.command("show")
@click.option("--tenant", help="Only what concerns this tenant, also one that is deleted.")
@click.option("--since", type=Since(), default="1970-01-01", help="A moment, or a span: 12h.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line each.")
def show(tenant: str | None, since: int, as_json: bool) -> None:
    """Print the audit, oldest first."""
    if tenant is not None and not is_tenant_id(tenant):
        fail(f"--tenant: must match {TENANT_ID_PATTERN}")
    try:
        for entry in audit_reading.entries(_path(), tenant=tenant, since=since):
            if as_json:
                sys.stdout.write(msgspec.json.encode(entry).decode() + "\n")
                continue
            detail = msgspec.json.encode(entry.detail).decode() if entry.detail else ""
            whom = entry.tenant or "-"
            click.echo(f"{rfc3339(entry.ts)}  {entry.actor}  {entry.action}  {whom}  {detail}")
    except (OSError, AuditError) as error:
        fail(f"the audit cannot be read: {error}")
