"""Which part of a conversation a model is told, so that it fits the model's window.

The rule. A token is taken to be `BYTES_PER_TOKEN` bytes of UTF-8, and each message and tool to
cost `MESSAGE_TOKENS` more: too many for prose, and enough for code. A part of the window is left
for the answer. Kept are the system prompt, the newest message of the user, then what came after
it, and then the turns before it as long as there is room, newest first and each as a whole. A
tool's result stays with its call. Where something is left out a note says so.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from protocol.errors import ErrorCode, GatewayError
from protocol.methods.chat import TextPart, ToolCallPart
from worker.agents.model import PromptMessage, ToolDescription

BYTES_PER_TOKEN: Final = 2
MESSAGE_TOKENS: Final = 8
# Of a window: a quarter of a small one, and no more of a big one than most answers need.
ANSWER_PART: Final = 4
ANSWER_TOKENS_MAX: Final = 8192
NOTE: Final = "[{count} earlier messages of this conversation were left out here: it is too long]"

Unit = list[PromptMessage]


def tokens(message: PromptMessage) -> int:
    """Estimate the tokens of a message."""
    size = 0
    for part in message.parts:
        if isinstance(part, ToolCallPart):
            size += len(part.name) + len(part.arguments.encode("utf-8", "surrogatepass"))
        else:
            size += len(part.text.encode("utf-8", "surrogatepass"))
    return MESSAGE_TOKENS + -(-size // BYTES_PER_TOKEN)


def tokens_of_tools(tools: Sequence[ToolDescription]) -> int:
    """Estimate the tokens of what a model is told of its tools."""
    size = sum(
        len(tool.name) + len(tool.description) + len(msgspec.json.encode(tool.parameters))
        for tool in tools
    )
    return MESSAGE_TOKENS * len(tools) + -(-size // BYTES_PER_TOKEN)


def fitted(
    messages: Sequence[PromptMessage], newest: int, window: int | None, tools: int
) -> tuple[PromptMessage, ...]:
    """Give what of a conversation the model is told; see the module.

    Args:
        messages: All of it, the system prompt first if there is one.
        newest: Where the message stands that is to be answered.
        window: The model's, in tokens; None: nobody knows, and all of it is told.
        tools: What the tools take of it.

    Raises:
        GatewayError: PAYLOAD_TOO_LARGE: a message that has to be told is too big by itself.
    """
    if window is None:
        return tuple(messages)
    room = window - min(window // ANSWER_PART, ANSWER_TOKENS_MAX) - tools
    prompt = 1 if messages[0].role == "system" and newest > 0 else 0
    head, question = list(messages[:prompt]), messages[newest]
    for name, told in (("the system prompt", head), ("the message", [question])):
        size = sum(map(tokens, told))
        room -= size
        if room < 0:
            raise _too_big(name, size, window)
    room -= MESSAGE_TOKENS + len(NOTE)  # for two notes, were they needed
    steps = _steps(messages[newest + 1 :])
    after = _newest(steps, room)
    if after.left_out and not after.messages:
        raise _too_big("what tools have answered", sum(map(tokens, steps[-1])), window)
    # Turns before are told only if all of this one is.
    before = _newest(_turns(messages[prompt:newest]), 0 if after.left_out else after.room)
    return (
        *head,
        *_note(before.left_out),
        *before.messages,
        question,
        *_note(after.left_out),
        *after.messages,
    )


class _Kept(NamedTuple):
    """The newest units that there was room for, how many messages were not, and what is left."""

    messages: list[PromptMessage]
    left_out: int
    room: int


def _newest(units: list[Unit], room: int) -> _Kept:
    kept: list[Unit] = []
    for unit in reversed(units):
        size = sum(map(tokens, unit))
        if size > room:
            break
        room -= size
        kept.append(unit)
    left_out = sum(len(unit) for unit in units[: len(units) - len(kept)])
    messages = [message for unit in reversed(kept) for message in unit]
    return _Kept(messages, left_out, room)


def _steps(messages: Sequence[PromptMessage]) -> list[Unit]:
    """Cut after each answer: one and the results of its tools belong together."""
    units: list[Unit] = []
    for message in messages:
        if message.role != "tool" or not units:
            units.append([])
        units[-1].append(message)
    return units


def _turns(messages: Sequence[PromptMessage]) -> list[Unit]:
    """Cut before each message of the user."""
    units: list[Unit] = []
    for message in messages:
        if message.role == "user" or not units:
            units.append([])
        units[-1].append(message)
    return units


def _note(left_out: int) -> list[PromptMessage]:
    if not left_out:
        return []
    return [PromptMessage("user", (TextPart(text=NOTE.format(count=left_out)),))]


def _too_big(what: str, size: int, window: int) -> GatewayError:
    message = (
        f"{what} is too big for the model: about {size} tokens, and its window has {window}; "
        "send less, or choose a model with a bigger window"
    )
    return GatewayError(ErrorCode.PAYLOAD_TOO_LARGE, message)
