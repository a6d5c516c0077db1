"""A request for a chat completion, as OpenAI defined it.

https://platform.openai.com/docs/api-reference/chat/create
"""

import re
from typing import Any, Final

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

# OpenAI's own, and its models elsewhere, take no `max_tokens` any more; many others only that.
_OPENAI_HOST: Final = re.compile(r"https://([a-z0-9-]+\.)*openai\.(azure\.)?com(?=[/:]|\Z)")
_REASONING_MODEL: Final = re.compile(r"(?:openai/)?(?:o\d|gpt-5)")


def written(target: Target, request: ModelRequest) -> dict[str, Any]:
    """Give a request as the API has it."""
    limit = "max_completion_tokens" if _takes_completion_tokens(target) else "max_tokens"
    body: dict[str, Any] = {
        "model": target.model.upstream_model,
        "messages": [_message(message) for message in request.messages],
        limit: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": request.stop or None,
        "seed": request.seed,
        "response_format": request.response_format,
        "reasoning_effort": request.reasoning_effort,
    }
    if request.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tool_choice"] = request.tool_choice
        body["parallel_tool_calls"] = request.parallel_tool_calls
        if isinstance(request.tool_choice, NamedTool):
            named = {"name": request.tool_choice.name}
            body["tool_choice"] = {"type": "function", "function": named}
    return {name: value for name, value in body.items() if value is not None}


def _takes_completion_tokens(target: Target) -> bool:
    return bool(
        _OPENAI_HOST.match(target.provider.base_url)
        or _REASONING_MODEL.match(target.model.upstream_model)
    )


def _message(message: ChatMessage) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role}
    if any(isinstance(block, ImageBlock) for block in message.content):
        written["content"] = [_part(block) for block in message.content]
    elif message.content or not message.tool_calls:
        texts = [block.text for block in message.content if isinstance(block, TextBlock)]
        written["content"] = "".join(texts)
    if message.tool_calls:
        written["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        written["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        written["name"] = message.name
    return written


def _tool(tool: OfferedTool) -> dict[str, Any]:
    function = {"name": tool.name, "parameters": tool.parameters}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _part(block: Block) -> dict[str, Any]:
    if isinstance(block, ImageBlock):
        url = f"data:{block.media_type};base64,{block.data}"
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "text", "text": block.text}
