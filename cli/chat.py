"""`openclaw chat`: a conversation with a tenant's agent, its answers as they come."""

import contextlib
import secrets
import sys
import time
from typing import Any, Final

import click
import msgspec

from cli.acting import LIFE_SECONDS, Acting, acting
from cli.exits import ExitCode
from cli.output import as_json, plain, print_json
from protocol import launching, limits
from protocol.errors import ErrorCode, GatewayError
from protocol.methods.chat import SendResult, Usage
from protocol.methods.events import ToolProgress
from protocol.methods.sessions import ChatDelta
from protocol.names import DEFAULT_AGENT_ID

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as a shell has it: 128 and the number of SIGINT."""
# A turn may begin when the token is `LIFE_SECONDS` old.
_TOKEN_SECONDS: Final = LIFE_SECONDS + round(limits.CALL_SECONDS_MAX)
_SHOWN_CHARS: Final = 300
_MICRO: Final = 1_000_000
_HELP: Final = """\
/new    begin a new conversation
/help   this
/quit   leave, as Ctrl-D does
Ctrl-C ends the turn that runs; without one it leaves. Anything else is said to the agent."""

_result: Final = msgspec.json.Decoder(SendResult).decode
_delta: Final = msgspec.json.Decoder(ChatDelta).decode


class Paper:
    """Where a conversation is written: bare text, and what is about it in grey on a terminal."""

    def __init__(self) -> None:
        self._colours: Final = sys.stdout.isatty()
        self._fresh = True

    def text(self, text: str) -> None:
        """Write what the agent says."""
        if text:
            self._fresh = text.endswith("\n")
            click.echo(_shown(text), nl=False)

    def aside(self, text: str) -> None:
        """Write a line about it; on standard error where only the answer is wanted."""
        self.line()
        click.secho(plain(text), dim=True, err=not self._colours)

    def line(self) -> None:
        """Go to the beginning of a line."""
        if not self._fresh:
            click.echo()
            self._fresh = True


def _shown(text: str) -> str:
    """Give a model's text so that it does nothing to a terminal; its lines stay lines."""
    return "\n".join(plain(line).replace("\\t", "\t") for line in text.split("\n"))


class Conversation:
    """A session, and the turns that are sent to it.

    Args:
        acts: The tenant's methods.
        agent: Whose the session is.
        key: The session's; None: a new one.
        mode: In what sandboxes its tools run.
    """

    def __init__(self, acts: Acting, agent: str, key: str | None, mode: str | None) -> None:
        self._acts: Final = acts
        self._agent: Final = agent
        self._mode: Final = mode
        self.key = key or self._new_key()

    def begin(self) -> None:
        """Go on in a new session."""
        self.key = self._new_key()

    def _new_key(self) -> str:
        return f"agent:{self._agent}:cli-{secrets.token_hex(6)}"

    def send(self, message: str, paper: Paper | None) -> SendResult:
        """Send a message and write the answer as it comes; Ctrl-C ends the turn.

        Raises:
            GatewayError: it was refused, or nobody answers.
            KeyboardInterrupt: Ctrl-C again.
        """
        params = {"sessionKey": self.key, "message": message}
        if self._mode is not None:
            params["sandbox"] = self._mode
        try:
            with contextlib.closing(self._acts.stream("chat.send", params)) as events:
                return self._follow(events, paper)
        except KeyboardInterrupt:
            self._acts.call("chat.abort", {"sessionKey": self.key})
            raise

    def _follow(self, events: Any, paper: Paper | None) -> SendResult:
        for name, data in events:
            if name == "result":
                return _result(data)
            delta = _delta(data)
            if paper is not None:
                if delta.tool is not None:
                    paper.aside(_step(delta.tool))
                paper.text(delta.delta_text)
        raise GatewayError(ErrorCode.UNAVAILABLE, "the gateway does not answer")


def _step(tool: ToolProgress) -> str:
    if tool.phase == "start":
        return f"→ {tool.name} {_line(tool.arguments)}".rstrip()
    return f"← {tool.name} failed: {_line(tool.output)}" if tool.is_error else f"← {tool.name}"


def _line(text: str | None) -> str:
    """Give the beginning of a text on one line."""
    line = " ".join((text or "").split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[: _SHOWN_CHARS - 1]}…"


def _spent(usage: Usage) -> str:
    cost = f", ${usage.cost_micro_usd / _MICRO:.6f}" if usage.cost_micro_usd else ""
    return f"{usage.input} tokens in, {usage.output} out{cost}"


@click.command()
@click.option("--tenant", required=True, help="Whose agent.")
@click.option("--session", metavar="KEY", help="Go on in this session; else a new one.")
@click.option("--agent", default=DEFAULT_AGENT_ID, help="Which agent.")
@click.option("--message", "-m", metavar="TEXT", help="Say this, print the answer, and end.")
@click.option(
    "--sandbox", "mode", type=click.Choice(launching.MODES), help="Where its tools run programs."
)
@as_json
def command(
    tenant: str,
    session: str | None,
    agent: str,
    message: str | None,
    mode: str | None,
    as_json: bool,
) -> None:
    """Talk to a tenant's agent; its tool calls are shown as they begin and end.

    Without --message each line that is typed, or piped in, is a message. What is typed is kept
    nowhere but in the tenant's session. Exit code 1 if the answer failed, 75 if trying again may
    help, 130 after Ctrl-C.

        openclaw chat --tenant acme -m 'What is in /work?'
    """
    try:
        with acting(tenant, "chat", seconds=_TOKEN_SECONDS) as acts:
            conversation = Conversation(acts, agent, session, mode)
            if message is not None:
                code = _once(conversation, message, as_json=as_json)
            else:
                code = _talk(acts, conversation, as_json=as_json)
    except KeyboardInterrupt:
        click.echo()
        raise SystemExit(INTERRUPTED) from None
    raise SystemExit(code)


def _once(conversation: Conversation, message: str, *, as_json: bool) -> int:
    paper = None if as_json else Paper()
    result = conversation.send(message, paper)
    return _ended(result, paper)


def _ended(result: SendResult, paper: Paper | None) -> int:
    if paper is None:
        print_json(result)
    else:
        paper.line()
        if result.usage is not None and sys.stdout.isatty():
            paper.aside(_spent(result.usage))
        if result.status != "ok":
            click.echo(f"openclaw: {plain(result.error or result.status)}", err=True)
    if result.status == "ok":
        return 0
    code = ErrorCode.__members__.get(result.error_code or "")
    return ExitCode.TRY_LATER if code is not None and code.retryable else ExitCode.FAILED


def _talk(acts: Acting, conversation: Conversation, *, as_json: bool) -> int:
    """Send line after line, to the end of what is typed; gives how the last one ended."""
    asks = sys.stdin.isatty() and not as_json
    paper = None if as_json else Paper()
    if asks:
        click.secho(f"{conversation.key} · /help, /quit", dim=True)
        # Lines can be edited; nothing of them is kept in a file.
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401, PLC0415 - it has `input` use it
    code, renewed_at = 0, time.monotonic()
    while (line := _typed(asks=asks)) is not None:
        match line.strip():
            case "":
                continue
            case "/quit" | "/exit":
                break
            case "/help":
                click.echo(_HELP)
                continue
            case "/new":
                conversation.begin()
                click.secho(conversation.key, dim=True, err=not asks)
                continue
        if time.monotonic() - renewed_at > LIFE_SECONDS:
            acts.renew()
            renewed_at = time.monotonic()
        code = _turn(conversation, line, paper, leaves=not asks)
    return code


def _typed(*, asks: bool) -> str | None:
    try:
        line = input("> " if asks else "")
    except EOFError:
        if asks:
            click.echo()
        return None
    return line


def _turn(conversation: Conversation, line: str, paper: Paper | None, *, leaves: bool) -> int:
    try:
        return _ended(conversation.send(line, paper), paper)
    except KeyboardInterrupt:
        if leaves:
            raise
        assert paper is not None
        paper.aside("the turn was ended")
        return INTERRUPTED
    except GatewayError as error:
        if leaves or error.code in (ErrorCode.UNAUTHORIZED, ErrorCode.NOT_FOUND):
            raise
        click.echo(f"openclaw: {plain(error.message)}", err=True)
        return ExitCode.TRY_LATER if error.code.retryable else ExitCode.FAILED
