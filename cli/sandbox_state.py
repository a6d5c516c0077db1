"""`openclaw sandbox list|kill|status|explain`: what runs for a tenant, and what would."""

import shlex
import time
from typing import Any, Final

import click
import msgspec

from cli.acting import acting
from cli.limits import size_text
from cli.output import as_json, plain, print_json
from cli.sandbox_run import choice_of, choice_options, tenant_option
from protocol.methods import sandbox_state

_list: Final = msgspec.json.Decoder(sandbox_state.ListResult).decode
_status: Final = msgspec.json.Decoder(sandbox_state.StatusResult).decode
_explain: Final = msgspec.json.Decoder(sandbox_state.ExplainResult).decode


@click.command("list")
@tenant_option
@as_json
def list_sandboxes(tenant: str, as_json: bool) -> None:
    """List the sandboxes that run."""
    with acting(tenant, "list", scopes=("read",)) as acts:
        found = _list(acts.call("sandbox.list", {}))
    if as_json:
        print_json(found)
        return
    now = time.time()
    for each in found.sandboxes:
        age = f"{max(0.0, now - each.started_at / 1000):.0f} s"
        click.echo(
            f"{each.sandbox_id}  {each.kind:<8}  {each.mode:<10}  {each.name:<12}  {age:>6}  "
            f"{plain(shlex.join(each.argv))}"
        )
    if not found.sandboxes:
        click.echo("nothing runs")
    if found.queued:
        click.echo(f"{found.queued} wait for their turn")


@click.command("kill")
@tenant_option
@click.argument("sandbox_ids", nargs=-1, required=True)
def kill(tenant: str, sandbox_ids: tuple[str, ...]) -> None:
    """End sandboxes, and all that runs in them."""
    with acting(tenant, "kill") as acts:
        for sandbox_id in sandbox_ids:
            acts.call("sandbox.kill", {"sandboxId": sandbox_id})
            click.echo(f"✓ ended {sandbox_id}")


@click.command("status")
@tenant_option
@as_json
def status(tenant: str, as_json: bool) -> None:
    """Say which sandboxes can be had, within which bounds, and what is in use."""
    with acting(tenant, "status", scopes=("read",)) as acts:
        found = _status(acts.call("sandbox.status", {}))
    if as_json:
        print_json(found)
        return
    for mode in found.modes:
        default = " (default)" if mode.mode == found.default_mode else ""
        click.echo(f"{'✓' if mode.usable else '✗'} {mode.mode:<12} {mode.detail}{default}")
    bounds = found.limits
    click.echo(f"  images       {', '.join(found.images) or 'none'}")
    click.echo(f"  networks     {', '.join(found.networks) or 'none'}")
    click.echo(
        f"  each has     {_size(bounds.memory_bytes)} of memory, {_any(bounds.cpus)} processors, "
        f"{_any(bounds.pids)} processes, {found.wall_seconds:g} s"
    )
    click.echo(f"  held by      {'cgroups' if found.cgroups else 'limits of each process alone'}")
    click.echo(
        f"  in use       {found.running} run ({found.concurrent} at a time), "
        f"{found.queued} wait (of {found.queueable})"
    )


@click.command("explain")
@tenant_option
@choice_options
@click.option("--tool", help="As this tool of an agent's would get it.")
@as_json
def explain(tenant: str, tool: str | None, as_json: bool, **given: Any) -> None:
    """Say what a sandbox would be, and who said so of each value; nothing is started."""
    params = choice_of(given) | ({} if tool is None else {"tool": tool})
    with acting(tenant, "explain", scopes=("read",)) as acts:
        found = _explain(acts.call("sandbox.explain", params))
    if as_json:
        print_json(found)
        return
    rows = [*found.profile.items()]
    rows += [(f"env {name}", setting) for name, setting in found.environment.items()]
    for name, setting in rows:
        click.echo(f"{name:<16} {plain(_value(name, setting.value)):<40} {setting.source}")
    for mount in found.mounts:
        access = "write" if mount.writable else "read"
        click.echo(f"{mount.path:<16} {plain(mount.holds):<60} {access}")
    click.echo(f"{'✓' if found.usable else '✗'} {found.detail}")


def _value(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return size_text(value) if name.endswith("Bytes") else str(value)


def _size(number: int | None) -> str:
    return "any amount" if number is None else size_text(number)


def _any(number: float | None) -> str:
    return "any number of" if number is None else f"{number:g}"
