"""The fake upstream is what a real client of the API takes it for."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.upstream import script
from tests.upstream.fake import FakeUpstream

TOOL: Any = {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream("sk-right") as upstream:
        yield upstream


@pytest.fixture(scope="module")
def client(upstream: FakeUpstream) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="sk-right", base_url=upstream.base_url, max_retries=0) as client:
        yield client


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_the_sdk_takes_an_answer_with_its_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=said("four score [[cached:2]]"))
    choice, usage = answer.choices[0], answer.usage
    assert choice.message.content == "You said: four score"
    assert choice.finish_reason == "stop"
    assert usage is not None
    assert usage.completion_tokens == script.tokens("You said: four score")
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 2
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_the_sdk_takes_a_stream_with_parallel_calls_and_their_results(
    client: openai.OpenAI,
) -> None:
    text = 'see [[call read {"path": "a"}]][[call read {"path": "b"}]] [[then]] both read'
    calls: dict[int, str] = {}
    with client.chat.completions.create(
        model="fake", messages=said(text), tools=[TOOL], stream=True,
        stream_options={"include_usage": True},
    ) as stream:  # fmt: skip
        chunks = list(stream)
    for chunk in chunks:
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or ():
                assert call.function is not None
                calls[call.index] = calls.get(call.index, "") + (call.function.arguments or "")
    assert calls == {0: '{"path": "a"}', 1: '{"path": "b"}'}
    assert chunks[-1].usage is not None
    assert chunks[-2].choices[0].finish_reason == "tool_calls"
    asked = [
        {"id": f"call_{at}", "type": "function", "function": {"name": "read", "arguments": "{}"}}
        for at in range(2)
    ]
    told = [{"role": "tool", "tool_call_id": f"call_{at}", "content": "x"} for at in range(2)]
    messages = [*said(text), {"role": "assistant", "tool_calls": asked}, *told]
    answer = client.chat.completions.create(model="fake", messages=messages, tools=[TOOL])
    assert answer.choices[0].message.content == "both read"


def test_the_sdk_takes_vectors_models_and_errors(
    client: openai.OpenAI, upstream: FakeUpstream
) -> None:
    one, two = client.embeddings.create(model="fake", input=["a", "b"], dimensions=4).data
    assert len(one.embedding) == len(two.embedding) == 4
    assert one.embedding != two.embedding
    assert [model.id for model in client.models.list()] == ["fake"]
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="fake/fault:429/after:7", messages=said("hi"))
    assert caught.value.response.headers["retry-after"] == "7"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_a_limit_of_tokens_cuts_the_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="fake", messages=said("a long story " * 9), max_tokens=3
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_it_says_what_it_got(upstream: FakeUpstream, client: openai.OpenAI) -> None:
    upstream.reset()
    client.chat.completions.create(model="fake", messages=said("hi"))
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="fake/fault:hang", messages=said("hi"), timeout=0.2)
    seen = upstream.wait(cancelled=1, answering=0)
    assert seen["requests"] == 2
    assert seen["models"] == {"fake": 1, "fake/fault:hang": 1}
    assert json.loads(seen["last"]["body"])["messages"] == said("hi")
    assert seen["last"]["headers"]["authorization"] == "Bearer sk-right"
