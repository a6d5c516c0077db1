"""`openai.chat`: chat completions."""

from typing import Any, Final, cast

import msgspec

from protocol.errors import GatewayError
from protocol.methods.openai import CHAT, BodyParams
from protocol.models import (
    AskedTool,
    Block,
    ChatMessage,
    ModelAnswer,
    ModelPiece,
    ModelRequest,
    NamedTool,
    Spent,
    TextBlock,
    ToolPiece,
)
from worker.dispatch import CallContext, handles
from worker.openai import agents, asking, bodies, reading, shapes
from worker.openai.bodies import ChatBody
from worker.openai.shapes import json

_decoder: Final = msgspec.json.Decoder(ChatBody)
_NO_DELTA: Final = b"{}"


@handles(CHAT)
async def complete(call: CallContext, params: BodyParams) -> Any:
    """Answer a conversation; in pieces if the body asks for it and the caller takes them."""
    body = reading.body(_decoder, params.body)
    reading.check_supported(body)
    made = _Made(body, shapes.new_id("chatcmpl-"), call.services.clock.now_ms() // 1000)
    if shapes.is_agent(body.model):
        agents.check_tools(body.tools)
        asked = agents.Asked(body.model, messages(body.messages), "messages", body.user)
        answer = await agents.run(call, asked, params.session_key, made.writer(call))
    else:
        answer = await asking.ask(call, request(body, params.session_key), made.writer(call))
    return made.whole(answer)


def request(body: ChatBody, session_key: str | None = None) -> ModelRequest:
    """Give what egress is asked for.

    Raises:
        GatewayError: INVALID_REQUEST naming the field.
    """
    tools = tuple(
        reading.tool(
            tool.function.name,
            tool.function.description,
            tool.function.parameters,
            f"tools[{index}].function.parameters",
        )
        for index, tool in enumerate(body.tools or ())
    )
    reading.check_distinct(tools)
    choice = body.tool_choice
    if isinstance(choice, bodies.FunctionChoice):
        named: Any = NamedTool(name=choice.function.name)
    else:
        named = choice
    return ModelRequest(
        model=body.model,
        messages=messages(body.messages),
        tools=tools,
        tool_choice=reading.tool_choice(named, tools),
        parallel_tool_calls=body.parallel_tool_calls,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        stop=(body.stop,) if isinstance(body.stop, str) else body.stop or (),
        seed=body.seed,
        response_format=reading.response_format(body.response_format),
        reasoning_effort=body.reasoning_effort,
        stream=bool(body.stream),
        session_key=shapes.session_key(session_key),
    )


def messages(given: tuple[bodies.ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """Give the conversation as egress takes it. Raises as `request`."""
    return tuple(_message(message, index) for index, message in enumerate(given))


def _message(message: bodies.ChatMessage, index: int) -> ChatMessage:
    match message:
        case bodies.UserMessage(content=str(text), name=name):
            return ChatMessage(role="user", content=(TextBlock(text=text),), name=name)
        case bodies.UserMessage(content=parts, name=name):
            blocks = tuple(
                _part(cast("bodies.TextContent | bodies.ImageContent", part), index, position)
                for position, part in enumerate(parts)
            )
            return ChatMessage(role="user", content=blocks, name=name)
        case bodies.AssistantMessage():
            calls = tuple(
                AskedTool(id=call.id, name=call.function.name, arguments=call.function.arguments)
                for call in message.tool_calls or ()
            )
            return ChatMessage(
                role="assistant",
                content=_said(message.content),
                tool_calls=calls,
                name=message.name,
            )
        case bodies.ToolMessage():
            return ChatMessage(
                role="tool",
                content=reading.texts(message.content),
                tool_call_id=message.tool_call_id,
            )
    return ChatMessage(role="system", content=reading.texts(message.content))


def _part(part: bodies.TextContent | bodies.ImageContent, index: int, position: int) -> Block:
    if isinstance(part, bodies.TextContent):
        return TextBlock(text=part.text)
    field = f"messages[{index}].content[{position}].image_url.url"
    return reading.picture(part.image_url.url, field)


def _said(
    content: str | tuple[bodies.TextContent | bodies.RefusalContent, ...] | None,
) -> tuple[Block, ...]:
    if content is None or content == "":
        return ()
    if isinstance(content, str):
        return (TextBlock(text=content),)
    return tuple(
        TextBlock(text=part.text if isinstance(part, bodies.TextContent) else part.refusal)
        for part in content
    )


class _Made(msgspec.Struct, frozen=True):
    """The answer to one request, as it is written."""

    body: ChatBody
    id: str
    created: int

    def writer(self, call: CallContext) -> "Chunks | None":
        """Give how a stream is written; None for an answer in one."""
        if call.stream is None or not self.body.stream:
            return None
        options = self.body.stream_options
        usage = options is not None and bool(options.include_usage)
        return Chunks(self.id, self.created, self.body.model, with_usage=usage)

    def whole(self, answer: ModelAnswer) -> dict[str, Any]:
        """Give the whole answer."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer.text or (None if answer.tool_calls else ""),
            "refusal": None,
        }
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in answer.tool_calls
            ]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": answer.stop_reason,
        }
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": answer.model,
            "choices": [choice],
            "usage": usage(answer.spent),
        }


def usage(spent: Spent) -> dict[str, Any]:
    """Give what was used as chat completions tell it."""
    prompt, completion = shapes.prompt_tokens(spent), shapes.completion_tokens(spent)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": shapes.prompt_details(spent),
        "completion_tokens_details": {"reasoning_tokens": spent.reasoning},
    }


class Chunks:
    """Writes `chat.completion.chunk`; an `outlet.Writer`.

    What all chunks of an answer have in common is encoded once.
    """

    def __init__(self, answer_id: str, created: int, model: str, *, with_usage: bool) -> None:
        self._head: Final = (
            b'{"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":['
            % (json(answer_id), created, json(model))
        )
        self._open: Final = self._head + b'{"index":0,"delta":'
        self._tail: Final = b',"usage":null}' if with_usage else b"}"
        self._goes_on: Final = b',"logprobs":null,"finish_reason":null}]' + self._tail
        self._with_usage: Final = with_usage
        self._role = b'"role":"assistant",'

    def piece(self, piece: ModelPiece) -> list[bytes]:
        """See `Writer`."""
        role, self._role = self._role, b""
        if piece.text and not (piece.reasoning or piece.tools):
            delta = b'{%b"content":%b}' % (role, json(piece.text))
        else:
            delta = _delta(role, piece)
        return [b"%b%b%b" % (self._open, delta, self._goes_on)]

    def end(self, answer: ModelAnswer) -> list[bytes]:
        """See `Writer`."""
        said = self.piece(ModelPiece()) if self._role else []
        reason = json(answer.stop_reason)
        said.append(
            b'%b%b,"logprobs":null,"finish_reason":%b}]%b'
            % (self._open, _NO_DELTA, reason, self._tail)
        )
        if self._with_usage:
            said.append(b'%b],"usage":%b}' % (self._head, json(usage(answer.spent))))
        return said

    def failed(self, error: GatewayError) -> list[bytes]:
        """See `Writer`."""
        del error
        return []


def _delta(role: bytes, piece: ModelPiece) -> bytes:
    members = []
    if piece.text or role:
        members.append(b'"content":%b' % json(piece.text))
    if piece.reasoning:
        members.append(b'"reasoning_content":%b' % json(piece.reasoning))
    if piece.tools:
        members.append(b'"tool_calls":%b' % json([_tool_delta(tool) for tool in piece.tools]))
    return b"{%b%b}" % (role, b",".join(members))


def _tool_delta(tool: ToolPiece) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": tool.arguments}
    if not tool.id:
        return {"index": tool.index, "function": function}
    function["name"] = tool.name
    return {"index": tool.index, "id": tool.id, "type": "function", "function": function}
