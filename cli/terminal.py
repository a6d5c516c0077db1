"""`openclaw terminal`: a terminal in a tenant's sandbox, as an operator.

It runs with a token of its own (`cli.acting`), which is exchanged before it ends: the terminal goes
on from the byte where it was, as it does after a connection that was lost.
"""

import asyncio
import os
import sys
from typing import Any, Final

import click
import msgspec

from cli.acting import Acting, acting
from cli.exits import ExitCode, fail, refuse
from cli.output import as_json, print_json
from cli.screen import Screen
from protocol.errors import GatewayError
from protocol.launching import DEFAULT_NAME, MODES
from protocol.methods import terminal

# Else a program would be told of a terminal that is none.
_TERM_DEFAULT: Final = "xterm-256color"


@click.command("terminal")
@click.option("--tenant", required=True, help="Whose sandbox.")
@click.option("--name", default=DEFAULT_NAME, show_default=True, help="Of the sandbox.")
@click.option("--sandbox", type=click.Choice(MODES), help="How it is made; else as configured.")
@click.option("--network", help="Which of the operator's networks it can reach, or none.")
@click.option("--attach", "terminal_id", help="Go back to a terminal: its id, as --list shows it.")
@click.option("--list", "lists", is_flag=True, help="List the tenant's terminals and do no more.")
@as_json
@click.argument("cmd", nargs=-1, type=click.UNPROCESSED)
def command(
    tenant: str,
    terminal_id: str | None,
    lists: bool,
    as_json: bool,
    cmd: tuple[str, ...],
    **chosen: Any,
) -> None:
    """Work in a tenant's sandbox: a shell, or CMD after `--`.

    The exit code is that of the program; 128 and the number for one that a signal has ended. Enter,
    then ~. leaves the terminal and lets it run on.
    """
    if terminal_id is not None and cmd:
        fail("--attach goes to what runs already; leave the command out")
    with acting(tenant, "terminal") as acts:
        if lists:
            _list(acts, as_json=as_json)
            return
        if terminal_id is None:
            terminal_id = _spawn(acts, terminal.SpawnParams(cmd=list(cmd) or None, **chosen))
        code = _be_there(acts, terminal_id)
    sys.exit(code)


def _spawn(acts: Acting, chosen: terminal.SpawnParams) -> str:
    size = Screen.size()
    asked = msgspec.structs.replace(
        chosen,
        env={"TERM": os.environ.get("TERM") or _TERM_DEFAULT},
        cols=size.columns,
        rows=size.lines,
    )
    spawned = acts.call(terminal.SPAWN.name, asked)
    return msgspec.json.decode(spawned, type=terminal.SpawnResult).terminal_id


def _list(acts: Acting, *, as_json: bool) -> None:
    found = msgspec.json.decode(acts.call(terminal.LIST.name, {}), type=terminal.ListResult)
    if as_json:
        print_json(msgspec.to_builtins(found)["terminals"])
        return
    for each in found.terminals:
        state = "runs" if each.ended is None else f"has ended ({each.ended.reason})"
        click.echo(
            f"{each.terminal_id}  {each.mode:<10}  {each.name:<16}  {each.cols}x{each.rows}  "
            f"{each.attached} attached  {state}"
        )
    if not found.terminals:
        click.echo("no terminals")


def _be_there(acts: Acting, terminal_id: str) -> int:
    # Imported late: it brings the library for WebSockets along.
    from cli.terminal_session import Away, Left, Session  # noqa: PLC0415

    try:
        with Screen() as screen:
            over = asyncio.run(Session(acts, terminal_id, screen).run())
    except GatewayError as error:
        refuse(error)
    hint = f"openclaw terminal --tenant {acts.tenant} --attach {terminal_id}"
    if isinstance(over, Away):
        fail(f"{over.why}; it may still run: {hint}", ExitCode.TRY_LATER)
    if isinstance(over, Left):
        click.echo(f"openclaw: left it running; {hint}", err=True)
        return 0
    return over.code
