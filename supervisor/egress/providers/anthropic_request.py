"""A request for a message, as Anthropic defined it.

https://docs.anthropic.com/en/api/messages. What is said otherwise here:

- Messages of the role `system` are the request's `system`, in their order. Others of one role that
  follow each other are one message; so all results of a round of tools are in one, as they must be.
- `reasoning_effort` is a budget for thinking, where the answer has room for one and the last word
  is not a tool's: to go on after a tool, the thoughts before it would have to be sent back signed.
  With thinking, no temperature is taken, and no tool can be forced.
- `seed` has no equivalent, and is left out: it promises nothing anywhere.
"""

from typing import Any, Final

import msgspec

from protocol.errors import ErrorCode, GatewayError
from protocol.models import (
    Block,
    ChatMessage,
    ImageBlock,
    ModelRequest,
    NamedTool,
    OfferedTool,
    TextBlock,
)
from supervisor.egress.upstream import Target

MAX_TOKENS_DEFAULT: Final = 4096
_BUDGETS: Final = {"low": 1024, "medium": 4096, "high": 16_384}
_BUDGET_LEAST: Final = 1024
_CHOICES: Final = {"auto": "auto", "none": "none", "required": "any"}
_TEMPERATURE_MAX: Final = 1.0
_ANY: Final = msgspec.Raw(b"{}")


def written(target: Target, request: ModelRequest) -> dict[str, Any]:
    """Give a request as the API has it.

    Raises:
        GatewayError: INVALID_REQUEST, it asks for what the API does not have.
    """
    _check_format(request)
    max_tokens = request.max_tokens or MAX_TOKENS_DEFAULT
    thinking = _thinking(request, max_tokens)
    body: dict[str, Any] = {
        "model": target.model.upstream_model,
        "max_tokens": max_tokens,
        "system": _system(request.messages),
        "messages": _messages(request.messages),
        "stop_sequences": request.stop or None,
        "thinking": thinking,
        "stream": request.stream or None,
    }
    if thinking is None:
        if request.temperature is not None:
            body["temperature"] = min(request.temperature, _TEMPERATURE_MAX)
        body["top_p"] = request.top_p
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tool_choice"] = _choice(request, thinks=thinking is not None)
    return {name: value for name, value in body.items() if value is not None}


def _check_format(request: ModelRequest) -> None:
    if request.response_format is not None and request.response_format.get("type") != "text":
        msg = "response_format: this model's provider takes only text; use a tool instead"
        raise GatewayError(ErrorCode.INVALID_REQUEST, msg, field="response_format")


def _thinking(request: ModelRequest, max_tokens: int) -> dict[str, Any] | None:
    budget = _BUDGETS.get(request.reasoning_effort or "", 0)
    # The budget is part of `max_tokens`, and half of that is left for what is said.
    budget = min(budget, max_tokens // 2)
    if budget < _BUDGET_LEAST or request.messages[-1].role == "tool":
        return None
    return {"type": "enabled", "budget_tokens": budget}


def _tool(tool: OfferedTool) -> dict[str, Any]:
    written = {"name": tool.name, "input_schema": tool.parameters}
    return written | {"description": tool.description} if tool.description else written


def _choice(request: ModelRequest, *, thinks: bool) -> dict[str, Any]:
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        written: dict[str, Any] = {"type": "tool", "name": choice.name}
    else:
        written = {"type": _CHOICES[choice]}
    if thinks and written["type"] in ("any", "tool"):
        written = {"type": "auto"}
    if request.parallel_tool_calls is False and written["type"] != "none":
        written["disable_parallel_tool_use"] = True
    return written


def _system(messages: tuple[ChatMessage, ...]) -> str | None:
    texts = [_text(message) for message in messages if message.role == "system"]
    return "\n\n".join(filter(None, texts)) or None


def _messages(messages: tuple[ChatMessage, ...]) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "system":
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message)
        if not blocks:
            continue
        if written and written[-1]["role"] == role:
            written[-1]["content"] += blocks
        else:
            written.append({"role": role, "content": blocks})
    return written


def _blocks(message: ChatMessage) -> list[dict[str, Any]]:
    # The API takes no empty text.
    blocks = [_block(block) for block in message.content if block != TextBlock(text="")]
    if message.role == "tool":
        result = {"type": "tool_result", "tool_use_id": message.tool_call_id or ""}
        return [result | {"content": blocks} if blocks else result]
    calls = [
        {
            "type": "tool_use",
            "id": call.id,
            "name": call.name,
            "input": _input(call.arguments),
        }
        for call in message.tool_calls
    ]
    return blocks + calls


def _block(block: Block) -> dict[str, Any]:
    if isinstance(block, ImageBlock):
        source = {"type": "base64", "media_type": block.media_type, "data": block.data}
        return {"type": "image", "source": source}
    return {"type": "text", "text": block.text}


def _input(arguments: str) -> Any:
    """Give the object that a call's arguments are; where a model wrote none, one that holds it."""
    if not arguments.strip():
        return _ANY
    try:
        msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {"invalid": arguments}
    return msgspec.Raw(arguments.encode())


def _text(message: ChatMessage) -> str:
    return "".join(block.text for block in message.content if isinstance(block, TextBlock))
