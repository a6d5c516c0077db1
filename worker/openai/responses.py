"""`openai.responses`: the Responses API, without a memory: every request says all there is."""

from typing import Any, Final

import msgspec

from protocol.errors import GatewayError
from protocol.methods.openai import RESPONSES, BodyParams
from protocol.models import (
    AskedTool,
    Block,
    ChatMessage,
    ModelRequest,
    NamedTool,
    TextBlock,
)
from worker.dispatch import CallContext, handles
from worker.openai import agents, asking, bodies, reading, schemas, shapes
from worker.openai.bodies import ResponseBody
from worker.openai.response_events import Events
from worker.openai.response_shape import ResponseShape

_decoder: Final = msgspec.json.Decoder(ResponseBody)
_ROLES: Final[dict[str, Any]] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}


@handles(RESPONSES)
async def respond(call: CallContext, params: BodyParams) -> Any:
    """Answer a conversation; as events if the body asks for them and the caller takes them."""
    body = reading.body(_decoder, params.body)
    check_supported(body)
    shape = ResponseShape(body, call.services.clock.now_ms() // 1000)
    events = Events(shape) if call.stream is not None and body.stream else None
    try:
        if shapes.is_agent(body.model):
            agents.check_tools(body.tools)
            asked = agents.Asked(body.model, _conversation(body), "input", body.user)
            answer = await agents.run(call, asked, params.session_key, events)
        else:
            answer = await asking.ask(call, request(body, params.session_key), events)
    except GatewayError as error:
        if events is None or not events.begun:
            raise
        return shape.failed(error)  # as it has been said
    return shape.whole(answer)


def check_supported(body: ResponseBody) -> None:
    """Refuse what would change the answer and cannot be honoured."""
    if body.previous_response_id is not None:
        reading.refuse(
            "previous_response_id",
            "responses are not kept; send the whole conversation as input, or name an agent as"
            " model with the header x-openclaw-session-key",
        )
    if body.conversation is not None:
        reading.refuse("conversation", "conversations are not kept; send all of it as input")
    if body.prompt is not None:
        reading.refuse("prompt", "there are no stored prompts; send instructions and input")
    if body.background:
        reading.refuse("background", "responses are not kept; leave it out, and wait or stream")
    if body.top_logprobs:
        reading.refuse("top_logprobs", "probabilities of tokens are not told; leave it out")


def request(body: ResponseBody, session_key: str | None = None) -> ModelRequest:
    """Give what egress is asked for.

    Raises:
        GatewayError: INVALID_REQUEST naming the field.
    """
    tools = tuple(
        reading.tool(tool.name, tool.description, tool.parameters, f"tools[{index}].parameters")
        for index, tool in enumerate(body.tools or ())
    )
    reading.check_distinct(tools)
    choice: Any = body.tool_choice
    if isinstance(choice, bodies.ResponseToolChoice):
        choice = NamedTool(name=choice.name)
    return ModelRequest(
        model=body.model,
        messages=_conversation(body),
        tools=tools,
        tool_choice=reading.tool_choice(choice, tools),
        parallel_tool_calls=body.parallel_tool_calls,
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        response_format=_response_format(body),
        reasoning_effort=None if body.reasoning is None else body.reasoning.effort,
        stream=bool(body.stream),
        session_key=shapes.session_key(session_key),
    )


def _response_format(body: ResponseBody) -> dict[str, Any] | None:
    given = body.text.format if body.text is not None else None
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return {"type": "json_object"}
    if given.name is None or given.schema is None:
        reading.refuse("text.format", "a json_schema needs name and schema")
    described: dict[str, Any] = {"name": given.name, "schema": given.schema, "strict": given.strict}
    if given.description is not None:
        described["description"] = given.description
    schemas.check(given.schema, "text.format.schema")
    return {"type": "json_schema", "json_schema": described}


def _conversation(body: ResponseBody) -> tuple[ChatMessage, ...]:
    found: list[ChatMessage] = []
    if body.instructions:
        found.append(ChatMessage(role="system", content=(TextBlock(text=body.instructions),)))
    if isinstance(body.input, str):
        found.append(ChatMessage(role="user", content=(TextBlock(text=body.input),)))
        return tuple(found)
    for index, item in enumerate(body.input):
        _add(found, item, f"input[{index}]")
    if not found:
        reading.refuse("input", "there is nothing to answer in it")
    return tuple(found)


def _add(found: list[ChatMessage], item: bodies.InputItem, field: str) -> None:
    match item.type:
        case "message":
            role = _ROLES[_needed(item.role, f"{field}.role")]
            content = _needed(item.content, f"{field}.content")
            found.append(ChatMessage(role=role, content=_content(content, f"{field}.content")))
        case "function_call":
            asked = AskedTool(
                id=_needed(item.call_id, f"{field}.call_id"),
                name=_needed(item.name, f"{field}.name"),
                arguments=_needed(item.arguments, f"{field}.arguments"),
            )
            # Calls that were made together, and what was said before them, are one message.
            if found and found[-1].role == "assistant":
                last = found.pop()
                calls = (*last.tool_calls, asked)
                found.append(msgspec.structs.replace(last, tool_calls=calls))
            else:
                found.append(ChatMessage(role="assistant", tool_calls=(asked,)))
        case "function_call_output":
            output = _needed(item.output, f"{field}.output")
            call_id = _needed(item.call_id, f"{field}.call_id")
            content = reading.texts(output)
            found.append(ChatMessage(role="tool", content=content, tool_call_id=call_id))
        case "reasoning":
            pass  # a provider's own, that only it could read


def _needed(value: Any, field: str) -> Any:
    if value is None:
        reading.refuse(field, "required for this type, but missing")
    return value


def _content(content: str | tuple[bodies.InputContent, ...], field: str) -> tuple[Block, ...]:
    if isinstance(content, str):
        return (TextBlock(text=content),)
    blocks: list[Block] = []
    for position, part in enumerate(content):
        match part:
            case bodies.InputImage(image_url=url):
                blocks.append(reading.picture(url, f"{field}[{position}].image_url"))
            case bodies.RefusalContent(refusal=text):
                blocks.append(TextBlock(text=text))
            case bodies.InputText(text=text) | bodies.OutputText(text=text):
                blocks.append(TextBlock(text=text))
    return tuple(blocks)
