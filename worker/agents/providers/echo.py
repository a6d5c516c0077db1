"""The model `builtin/echo`: repeats what it was told. Needs no key and no network.

The same conversation always gets the same answer, in the same pieces. `/time` makes it call the
tool `clock`, and `/run` with a command line the tool `exec`; it answers with what the tool said.
The line is split into words as a shell does (`shlex`), and no shell sees it.

A token is four bytes of UTF-8, rounded up once for all the text of the request (every message and
tool result) and once for the answer (text and arguments of tool calls).
"""

import asyncio
import re
import shlex
from collections.abc import AsyncGenerator, Iterable
from typing import Final, NamedTuple

import msgspec

from protocol.errors import ErrorCode, GatewayError
from protocol.methods.chat import Part, TextPart, ToolCallPart, ToolResultPart, Usage
from worker.agents.model import (
    Finished,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ToolCall,
)

BYTES_PER_TOKEN: Final = 4
PIECES_MAX: Final = 32
_WORD: Final = re.compile(r"\s*\S+\s*|\s+")
_RUN: Final = re.compile(r"/run(?:\s+(?P<line>.*))?", re.DOTALL)


class _Command(NamedTuple):
    tool: str
    arguments: str


class EchoProvider:
    """See the module."""

    name: Final = "builtin"

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """See `ModelProvider`."""
        if request.model != "builtin/echo":
            raise GatewayError(
                ErrorCode.NOT_FOUND, "unknown model: the one there is, is builtin/echo"
            )
        last = request.messages[-1]
        spent = tokens(_text(part) for message in request.messages for part in message.parts)
        heard = "".join(_text(part) for part in last.parts)
        answer = heard if last.role == "tool" else f"echo: {heard}"
        try:
            wanted = _command(heard.strip()) if last.role == "user" else None
        except ValueError as error:
            wanted, answer = None, f"not run: {error}"
        if wanted is not None and any(wanted.tool == offered.name for offered in request.tools):
            name = f"{wanted.tool}-{len(request.messages)}"
            yield ToolCall(name, wanted.tool, wanted.arguments)
            yield Finished(Usage(input=spent, output=tokens([wanted.arguments])), "tool_calls")
            return
        for piece in pieces(answer):
            yield TextDelta(piece)
            await asyncio.sleep(0)  # as from a network: others have their turn in between
        yield Finished(Usage(input=spent, output=tokens([answer])), "stop")


def tokens(texts: Iterable[str]) -> int:
    """Count the tokens of texts together."""
    return -(-sum(len(text.encode()) for text in texts) // BYTES_PER_TOKEN)


def pieces(text: str) -> list[str]:
    """Cut a text between words into at most `PIECES_MAX` pieces of as many words each."""
    words = _WORD.findall(text)
    size = max(1, -(-len(words) // PIECES_MAX))
    return ["".join(words[start : start + size]) for start in range(0, len(words), size)]


def _command(text: str) -> _Command | None:
    """Give the tool that a text asks for.

    Raises:
        ValueError: it asks for one in a way that cannot be understood.
    """
    if text == "/time":
        return _Command("clock", "{}")
    asked = _RUN.fullmatch(text)
    if asked is None:
        return None
    argv = shlex.split(asked["line"] or "")
    if not argv:
        raise ValueError("write a command line after /run")
    return _Command("exec", msgspec.json.encode({"argv": argv}).decode())


def _text(part: Part) -> str:
    match part:
        case TextPart() | ToolResultPart():
            return part.text
        case ToolCallPart():
            return part.arguments


PROVIDER: Final = EchoProvider()
