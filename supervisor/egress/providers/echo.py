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
from protocol.models import (
    AskedTool,
    ChatMessage,
    EmbedRequest,
    ModelPiece,
    ModelRequest,
    Spent,
    TextBlock,
    ToolPiece,
)
from supervisor.egress.upstream import Embedded, Finish, Target

BYTES_PER_TOKEN: Final = 4
PIECES_MAX: Final = 32
_WORD: Final = re.compile(r"\s*\S+\s*|\s+")
_RUN: Final = re.compile(r"/run(?:\s+(?P<line>.*))?", re.DOTALL)


class _Command(NamedTuple):
    tool: str
    arguments: str


class Echo:
    """See the module; implements `Upstream`."""

    async def ask(
        self, target: Target, request: ModelRequest
    ) -> AsyncGenerator[ModelPiece | Finish, None]:
        """See `Upstream`."""
        del target
        last = request.messages[-1]
        heard = text_of(last)
        spent = tokens(said for message in request.messages for said in _said(message))
        answer = heard if last.role == "tool" else f"echo: {heard}"
        try:
            wanted = _command(heard.strip()) if last.role == "user" else None
        except ValueError as error:
            wanted, answer = None, f"not run: {error}"
        if wanted is not None and any(wanted.tool == offered.name for offered in request.tools):
            call = AskedTool(
                id=f"{wanted.tool}-{len(request.messages)}",
                name=wanted.tool,
                arguments=wanted.arguments,
            )
            usage = Spent(input=spent, output=tokens([wanted.arguments]))
            if request.stream:
                yield ModelPiece(tools=(ToolPiece(0, call.id, call.name, call.arguments),))
                yield Finish("tool_calls", usage, "")
            else:
                yield Finish("tool_calls", usage, "", tool_calls=(call,))
            return
        usage = Spent(input=spent, output=tokens([answer]))
        if not request.stream:
            yield Finish("stop", usage, "", text=answer)
            return
        for piece in pieces(answer):
            yield ModelPiece(piece)
            await asyncio.sleep(0)  # as from a network: others have their turn in between
        yield Finish("stop", usage, "")

    async def embed(self, target: Target, request: EmbedRequest) -> Embedded:
        """See `Upstream`.

        Raises:
            GatewayError: INVALID_REQUEST, always: it makes no vectors.
        """
        message = f"model: {target.model_id} makes no embeddings"
        raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="model")


def tokens(texts: Iterable[str]) -> int:
    """Count the tokens of texts together."""
    return -(-sum(len(text.encode()) for text in texts) // BYTES_PER_TOKEN)


def pieces(text: str) -> list[str]:
    """Cut a text between words into at most `PIECES_MAX` pieces of as many words each."""
    words = _WORD.findall(text)
    size = max(1, -(-len(words) // PIECES_MAX))
    return ["".join(words[start : start + size]) for start in range(0, len(words), size)]


def text_of(message: ChatMessage) -> str:
    """Give what a message says."""
    return "".join(block.text for block in message.content if isinstance(block, TextBlock))


def _said(message: ChatMessage) -> Iterable[str]:
    yield text_of(message)
    for call in message.tool_calls:
        yield call.arguments


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
