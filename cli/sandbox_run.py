"""`openclaw sandbox run`: a program in a sandbox of a tenant's, as if it ran here."""

import base64
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
import msgspec

from cli.acting import LIFE_SECONDS, Acting, acting
from cli.exits import ExitCode
from cli.limits import Count, Processors, Size
from cli.output import as_json, print_json
from protocol import launching, limits
from protocol.methods import sandbox

# As timeout(1) and env(1) say that it is they who speak, and not what they ran; a shell gives the
# other one for a program that a signal has ended, less the number.
TIMED_OUT: Final = 124
NOT_RUN: Final = 125
_SIGNAL: Final = 128
_SIGINT: Final = 2
_SIGPIPE: Final = 13
_MARGIN_SECONDS: Final = 120

F = TypeVar("F", bound=Callable[..., Any])
_result: Final = msgspec.json.Decoder(sandbox.RunResult).decode
_output: Final = msgspec.json.Decoder(sandbox.Output).decode


class Variable(click.ParamType[tuple[str, str]]):
    """`NAME=VALUE`."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """See `click.ParamType`."""
        if isinstance(value, tuple):
            return value
        name, equals, content = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is no NAME=VALUE", param, ctx)
        return name, content


def tenant_option(command: F) -> F:
    """Give a command the option that says for whom it acts."""
    return click.option("--tenant", required=True, help="Whose.")(command)


def choice_options(command: F) -> F:
    """Give a command the options that say which sandbox."""
    options = (
        click.option("--sandbox", "mode", type=click.Choice(launching.MODES), help="Which mode."),
        click.option("--image", help="Which of the operator's images, under docker."),
        click.option("--network", help="Which of the operator's networks it can reach, or none."),
        click.option("--name", default=launching.DEFAULT_NAME, help="Which directory is at /work."),
        click.option("--cwd", default=launching.WORK, help="Where it starts."),
        click.option(
            "--env", "-e", "variables", type=Variable(), multiple=True, help="Repeatable."
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(0.001, limits.SANDBOX_CALL_SECONDS_MAX),
            metavar="SECONDS",
            help="When it is ended.",
        ),
        click.option(
            "--memory", type=Size(16 * limits.MIB, 2**50), metavar="SIZE", help="Such as 512M."
        ),
        click.option(
            "--cpu", type=Processors(0.01, 1024), metavar="NUMBER", help="0.5 is half of one."
        ),
        click.option(
            "--pids", type=Count(4, 2**22), metavar="NUMBER", help="Processes and threads."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def choice_of(given: dict[str, Any]) -> dict[str, Any]:
    """Give the parameters that the options of `choice_options` say, as the methods take them."""
    bounds = {"memoryBytes": given["memory"], "cpus": given["cpu"], "pids": given["pids"]}
    # Unlimited, and the default, are as much as the operator allows: what saying nothing means.
    bounds = {key: bound for key, bound in bounds.items() if not isinstance(bound, str | None)}
    params = {
        "sandbox": given["mode"],
        "image": given["image"],
        "network": given["network"],
        "name": given["name"],
        "cwd": given["cwd"],
        "env": dict(given["variables"]),
        "timeoutMs": None if given["timeout"] is None else max(1, round(given["timeout"] * 1000)),
        "limits": bounds,
    }
    return {key: value for key, value in params.items() if value is not None}


@click.command("run", context_settings={"allow_interspersed_args": False})
@tenant_option
@choice_options
@click.option("--no-stdin", is_flag=True, help="It reads nothing, whatever there is to read.")
@as_json
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
def run(tenant: str, no_stdin: bool, as_json: bool, argv: tuple[str, ...], **given: Any) -> None:
    """Run a program in a sandbox, its output here as it comes.

    What is piped in is read to its end first. The exit code is the program's; 128 and a signal's
    number, if one ended it; 124, if it took too long; 125, if it was not run. Ctrl-C ends it.

        openclaw sandbox run --tenant acme -- python3 -c 'print(1)'
    """
    stdin = b"" if no_stdin else _read_stdin()
    params = choice_of(given) | {
        "argv": [os.fsencode(word).decode(errors="replace") for word in argv],
        "stdin": base64.b64encode(stdin).decode(),
        "stdinEncoding": "base64",
        "stream": not as_json,
    }
    seconds = LIFE_SECONDS if given["timeout"] is None else round(given["timeout"])
    try:
        with acting(tenant, "run", seconds=seconds + _MARGIN_SECONDS) as acts:
            result = _asked(acts, params) if as_json else _streamed(acts, params)
    except KeyboardInterrupt:
        raise SystemExit(_SIGNAL + _SIGINT) from None
    except SystemExit as error:
        # A refusal's code must not be taken for the program's.
        ours = error.code in tuple(ExitCode)
        raise SystemExit(NOT_RUN if ours else error.code) from None
    if as_json:
        print_json(result)
    raise SystemExit(_exit_code(result))


def _read_stdin() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        return b""
    data = sys.stdin.buffer.read(limits.SANDBOX_INPUT_BYTES_MAX + 1)
    if len(data) > limits.SANDBOX_INPUT_BYTES_MAX:
        most = limits.SANDBOX_INPUT_BYTES_MAX
        message = f"more than {most} bytes to read; `openclaw sandbox files put` takes a file"
        click.echo(f"openclaw: {message}", err=True)
        raise SystemExit(NOT_RUN)
    return data


def _asked(acts: Acting, params: dict[str, Any]) -> sandbox.RunResult:
    return _result(acts.call("sandbox.run", params, limits.CALL_SECONDS_MAX))


def _streamed(acts: Acting, params: dict[str, Any]) -> sandbox.RunResult:
    last = b""
    with contextlib.closing(acts.stream("sandbox.run", params)) as events:
        for name, last in events:
            if name != "result":
                _write(_output(last))
    return _result(last)


def _write(piece: sandbox.Output) -> None:
    data = base64.b64decode(piece.base64 or "") if piece.text is None else piece.text.encode()
    stream = sys.stdout.buffer if piece.stream == "stdout" else sys.stderr.buffer
    try:
        stream.write(data)
        stream.flush()
    except BrokenPipeError:
        # Its reader has gone: end as a program does that is told so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(_SIGNAL + _SIGPIPE) from None


def _exit_code(result: sandbox.RunResult) -> int:
    if result.timed_out:
        click.echo(f"openclaw: ended after {result.wall_ms / 1000:.1f} s", err=True)
        return TIMED_OUT
    if result.oom_killed:
        click.echo("openclaw: it needed more memory than it may have", err=True)
    if result.signal is not None:
        return _SIGNAL + result.signal
    assert result.exit_code is not None
    return result.exit_code
