"""What becomes of OpenAI's requests, and what is refused about them."""

import base64
from typing import Any

import msgspec
import pytest

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.models import AskedTool, ChatMessage, ImageBlock, ModelRequest, NamedTool, TextBlock
from worker.openai import chat, embeddings, reading, responses
from worker.openai.bodies import ChatBody, ResponseBody

PNG = base64.b64encode(b"\x89PNG picture").decode()
PICTURE = f"data:image/png;base64,{PNG}"
SAID = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_chat = msgspec.json.Decoder(ChatBody)
_responses = msgspec.json.Decoder(ResponseBody)


def chat_request(**given: Any) -> ModelRequest:
    raw = msgspec.json.encode({"model": "gpt", "messages": SAID} | given)
    body = reading.body(_chat, raw)
    reading.check_supported(body)
    return chat.request(body)


def response_request(**given: Any) -> ModelRequest:
    body = reading.body(_responses, msgspec.json.encode({"model": "gpt", "input": "hi"} | given))
    responses.check_supported(body)
    return responses.request(body)


def tool(parameters: Any, name: str = "weather") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_what_is_known_is_honoured_and_what_is_harmless_is_ignored() -> None:
    request = chat_request(
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        stop="END",
        seed=7,
        tools=[tool(SCHEMA)],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
        response_format={"type": "json_object"},
        reasoning_effort="low",
        stream=True,
        n=1,
        logprobs=False,
        frequency_penalty=0,
        functions=None,
        user="u",
        store=True,
        metadata={"a": "b"},
        some_field_of_next_year={"x": 1},
    )
    assert request == ModelRequest(
        model="gpt",
        messages=(ChatMessage(role="user", content=(TextBlock(text="hi"),)),),
        tools=request.tools,
        tool_choice=NamedTool(name="weather"),
        parallel_tool_calls=False,
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        stop=("END",),
        seed=7,
        response_format={"type": "json_object"},
        reasoning_effort="low",
        stream=True,
    )
    assert msgspec.json.decode(request.tools[0].parameters) == SCHEMA
    assert chat_request(max_tokens=5, max_completion_tokens=6).max_tokens == 6
    assert chat_request(response_format={"type": "text"}).response_format is None


def test_a_conversation_with_tools_and_pictures() -> None:
    request = chat_request(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "system", "content": [{"type": "text", "text": "and kind"}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{"}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ]
    )
    assert request.messages == (
        ChatMessage(role="system", content=(TextBlock(text="be brief"),)),
        ChatMessage(role="system", content=(TextBlock(text="and kind"),)),
        ChatMessage(
            role="user",
            content=(TextBlock(text="look"), ImageBlock(media_type="image/png", data=PNG)),
        ),
        ChatMessage(role="assistant", tool_calls=(AskedTool(id="c1", name="f", arguments="{"),)),
        ChatMessage(role="tool", content=(TextBlock(text="42"),), tool_call_id="c1"),
    )


def test_items_of_the_responses_api_are_the_same_conversation() -> None:
    request = response_request(
        instructions="be brief",
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "look"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "I", "annotations": []}],
            },
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
        ],
        max_output_tokens=9,
        text={"format": {"type": "json_schema", "name": "s", "schema": SCHEMA, "strict": True}},
        reasoning={"effort": "high", "summary": "auto"},
        tools=[{"type": "function", "name": "f", "parameters": SCHEMA}],
        tool_choice="required",
        include=["reasoning.encrypted_content"],
    )
    assert request.messages == (
        ChatMessage(role="system", content=(TextBlock(text="be brief"),)),
        ChatMessage(role="user", content=(TextBlock(text="look"),)),
        ChatMessage(
            role="assistant",
            content=(TextBlock(text="I"),),
            tool_calls=(
                AskedTool(id="c1", name="f", arguments="{}"),
                AskedTool(id="c2", name="g", arguments="{}"),
            ),
        ),
        ChatMessage(role="tool", content=(TextBlock(text="1"),), tool_call_id="c1"),
    )
    assert (request.max_tokens, request.reasoning_effort) == (9, "high")
    assert request.tool_choice == "required"
    assert request.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": SCHEMA, "strict": True},
    }


USER = {"role": "user"}
BAD_CHAT: dict[str, dict[str, Any]] = {
    "model": {"model": "no model!"},
    "n": {"n": 2},
    "logprobs": {"logprobs": True},
    "logit_bias": {"logit_bias": {"50256": -100}},
    "presence_penalty": {"presence_penalty": 0.5},
    "modalities": {"modalities": ["text", "audio"]},
    "audio": {"audio": {"voice": "x"}},
    "functions": {"functions": []},
    "web_search_options": {"web_search_options": {}},
    "max_tokens": {"max_tokens": limits.MODEL_TOKENS_MAX + 1},
    "max_completion_tokens": {"max_completion_tokens": 0},
    "temperature": {"temperature": 2.5},
    "stop": {"stop": ["a", "b", "c", "d", "e"]},
    "messages": {"messages": SAID * 10_000},
    "messages[0].role": {"messages": [{"role": "function", "content": "x"}]},
    "messages[0].content[0].type": {"messages": [USER | {"content": [{"type": "input_audio"}]}]},
    "messages[1].content": {"messages": [*SAID, {"role": "tool", "tool_call_id": "x"}]},
    "messages[0].content[0].image_url.url": {
        "messages": [
            USER | {"content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}
        ]
    },
    "tools": {"tools": [tool(SCHEMA), tool(SCHEMA)]},
    "tools[0].type": {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
    "tools[0].function.name": {"tools": [tool(SCHEMA, "no name!")]},
    "tools[0].function.parameters": {"tools": [tool("object")]},
    "tools[1].function.parameters": {"tools": [tool(SCHEMA), tool({"type": "string"}, "b")]},
    "tools[0].function.parameters.properties.a.type": {
        "tools": [tool({"type": "object", "properties": {"a": {"type": "banana"}}})]
    },
    "tools[0].function.parameters.properties": {"tools": [tool({"properties": []})]},
    "tools[0].function.parameters.anyOf": {"tools": [tool({"anyOf": []})]},
    "tools[0].function.parameters.required": {"tools": [tool({"required": "a"})]},
    "tool_choice": {"tool_choice": "required"},
    "response_format": {"response_format": {"type": "xml"}},
    "response_format.json_schema": {"response_format": {"type": "json_schema"}},
    "response_format.json_schema.schema.type": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": 5}},
        }
    },
}


@pytest.mark.parametrize("field", BAD_CHAT)
def test_what_cannot_be_honoured_is_refused_by_name(field: str) -> None:
    with pytest.raises(GatewayError) as refused:
        chat_request(**BAD_CHAT[field])
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert refused.value.details["field"] == f"{field}"
    assert f"{field}: " in refused.value.message


def test_schemas_that_are_deep_are_refused_and_not_walked_for_ever() -> None:
    deep: dict[str, Any] = {}
    for _ in range(70):
        deep = {"properties": {"a": deep}}
    with pytest.raises(GatewayError, match="nested deeper than 64"):
        chat_request(tools=[tool(deep)])
    raw = b'{"model":"m","functions":%b,"messages":[]}' % (b"[" * 5000 + b"]" * 5000)
    with pytest.raises(GatewayError, match="nested too deeply"):
        reading.body(_chat, raw)
    with pytest.raises(GatewayError, match=r"^messages\[0\].content: must not contain NUL"):
        chat_request(messages=[{"role": "user", "content": "a\0b"}])


BAD_RESPONSES: dict[str, dict[str, Any]] = {
    "previous_response_id": {"previous_response_id": "resp_1"},
    "conversation": {"conversation": "conv_1"},
    "prompt": {"prompt": {"id": "p"}},
    "background": {"background": True},
    "input": {"input": [{"type": "reasoning"}]},
    "input[0].role": {"input": [{"content": "x"}]},
    "input[0].content": {"input": [{"role": "user"}]},
    "input[0].type": {"input": [{"type": "item_reference", "id": "x"}]},
    "input[0].call_id": {"input": [{"type": "function_call_output", "output": "x"}]},
    "input[0].content[0].type": {
        "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]
    },
    "input[0].content[1].image_url": {
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "x"},
                    {"type": "input_image", "image_url": "data:image/png;base64,%%"},
                ],
            }
        ]
    },
    "tools[0].type": {"tools": [{"type": "web_search"}]},
    "text.format": {"text": {"format": {"type": "json_schema"}}},
}


@pytest.mark.parametrize("field", BAD_RESPONSES)
def test_what_the_responses_api_cannot_be_asked_is_refused_by_name(field: str) -> None:
    with pytest.raises(GatewayError) as refused:
        response_request(**BAD_RESPONSES[field])
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert refused.value.details["field"] == f"{field}"


def test_texts_of_embeddings_are_texts() -> None:
    assert embeddings.texts("a") == ("a",)
    assert embeddings.texts(("a", "b")) == ("a", "b")
    for wrong, field in (
        ((1, 2), "input[0]"),
        (("a", ""), "input[1]"),
        ((("a"), (1,)), "input[1]"),
    ):
        with pytest.raises(GatewayError) as refused:
            embeddings.texts(wrong)
        assert refused.value.details["field"] == f"{field}"
