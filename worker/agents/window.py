"""What of a conversation a model is told, so that it fits the model's window.

Tokens are estimated: a token is at least two bytes of UTF-8 and a message costs eight more, which
is too many for prose and enough for code. What is told first (the system's words) and the newest
turn always stay; older turns are kept from the newest on as far as they fit, each whole, so that
no tool result is without its call. Where some are left out the model is told so.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.errors import ErrorCode, GatewayError
from protocol.methods.chat import Part, TextPart, ToolCallPart
from worker.agents.model import PromptMessage, ToolDescription

BYTES_PER_TOKEN: Final = 2
MESSAGE_TOKENS: Final = 8
ANSWER_SHARE: Final = 4
"""A quarter of the window is left for the answer."""
LEFT_OUT: Final = PromptMessage(
    "system", (TextPart(text="[Earlier messages of this conversation are left out here.]"),)
)


def fitting(
    messages: Sequence[PromptMessage], tools: Sequence[ToolDescription], window: int | None
) -> tuple[PromptMessage, ...]:
    """Give what is told.

    Args:
        messages: The whole conversation.
        tools: What the model is told of tools.
        window: How many tokens there are for all; None where that is not known.

    Raises:
        GatewayError: PAYLOAD_TOO_LARGE: the newest turn alone does not fit.
    """
    if window is None:
        return tuple(messages)
    room = window - window // ANSWER_SHARE
    room -= sum(_tokens_of(tool) for tool in tools)
    first = 0
    while first < len(messages) and messages[first].role == "system":
        room -= _tokens(messages[first])
        first += 1
    turns = _turns(messages[first:])
    kept: list[list[PromptMessage]] = []
    for place, turn in enumerate(reversed(turns)):
        cost = sum(map(_tokens, turn))
        if cost > room and not place:
            message = (
                f"the newest message, with what has come of it, needs about {cost} tokens; the "
                f"model has room for {max(0, room)}: send less, or choose a model with a larger "
                "window"
            )
            raise GatewayError(ErrorCode.PAYLOAD_TOO_LARGE, message, field="message")
        room -= cost
        if room < 0:
            break
        kept.insert(0, turn)
    told = [message for turn in kept for message in turn]
    marked = [] if len(kept) == len(turns) else [LEFT_OUT]
    return (*messages[:first], *marked, *told)


def _turns(messages: Sequence[PromptMessage]) -> list[list[PromptMessage]]:
    turns: list[list[PromptMessage]] = []
    for message in messages:
        if not turns or message.role == "user":
            turns.append([])
        turns[-1].append(message)
    return turns


def _tokens(message: PromptMessage) -> int:
    return MESSAGE_TOKENS + sum(-(-_size(part) // BYTES_PER_TOKEN) for part in message.parts)


def _size(part: Part) -> int:
    if isinstance(part, ToolCallPart):
        return len(part.name) + len(part.arguments.encode())
    return len(part.text.encode())


def _tokens_of(tool: ToolDescription) -> int:
    size = len(tool.name) + len(tool.description.encode())
    return MESSAGE_TOKENS + (size + len(msgspec.json.encode(tool.parameters))) // BYTES_PER_TOKEN
