"""What a provider's API is asked and what is made of its answers, with the fake upstream."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from protocol.errors import ErrorCode, GatewayError
from protocol.models import (
    AskedTool,
    ChatMessage,
    EmbedRequest,
    ImageBlock,
    NamedTool,
    OfferedTool,
    Spent,
    TextBlock,
)
from supervisor.egress.client import Client
from supervisor.egress.upstream import Finish, Upstream
from tests.supervisor.egress import asking
from tests.supervisor.egress.asking import KEY, READ, ask, request, target
from tests.upstream.fake import FakeUpstream

TOOLS = 'let us see [[call read {"path": "a b"}]][[call list {}]] [[then]] done'


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(KEY) as upstream:
        yield upstream


@pytest.fixture(params=["openai", "anthropic"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(upstream: FakeUpstream) -> AsyncIterator[Client]:
    client = Client(asking.settings(upstream, retries=0), trust=asking.TRUST)
    yield client
    await client.close()


@pytest.fixture
def provider(kind: str, client: Client) -> Upstream:
    return asking.UPSTREAMS[kind](client)


def sent(upstream: FakeUpstream) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(upstream.seen()["last"]["body"])
    return body


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_comes_with_what_it_has_spent(
    upstream: FakeUpstream, kind: str, provider: Upstream, stream: bool
) -> None:
    asked = request("four score and seven [[think:let_me_see cached:2]]", stream=stream)
    given = await ask(provider, target(upstream, kind), asked)
    assert given.text == "You said: four score and seven"
    assert given.reasoning == "let me see"
    assert given.finish.stop_reason == "stop"
    assert given.finish.request_id in ("req_fake", "chatcmpl-fake", "msg_fake")
    assert bool(given.pieces) == stream
    spent = given.finish.spent
    assert spent is not None
    prompt = spent.input + spent.cache_read
    assert prompt == -(-len("four score and seven [[think:let_me_see cached:2]]") // 4) + 3
    assert spent.cache_read == 2
    assert spent.output + spent.reasoning == 8 + 3
    assert spent.reasoning == (3 if kind == "openai" else 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_parallel_calls_come_whole_and_their_results_are_understood(
    upstream: FakeUpstream, kind: str, provider: Upstream, stream: bool
) -> None:
    place = target(upstream, kind)
    asked = request(TOOLS, stream=stream, tools=(READ, OfferedTool(name="list")))
    given = await ask(provider, place, asked)
    assert given.text == "let us see"
    assert given.finish.stop_reason == "tool_calls"
    assert [(call.name, json.loads(call.arguments)) for call in given.tool_calls] == [
        ("read", {"path": "a b"}),
        ("list", {}),
    ]
    assert len({call.id for call in given.tool_calls}) == 2
    told = [
        ChatMessage(role="tool", tool_call_id=call.id, content=(TextBlock(text="is empty"),))
        for call in given.tool_calls
    ]
    said = ChatMessage(
        role="assistant", content=(TextBlock(text=given.text),), tool_calls=given.tool_calls
    )
    messages = (*asked.messages, said, *told)
    again = await ask(provider, place, request(stream=stream, tools=asked.tools, messages=messages))
    assert again.text == "done"
    assert again.finish.stop_reason == "stop"


@pytest.mark.parametrize("line", ["crlf", "cr", "comments"])
async def test_any_line_end_and_comments_are_read(
    upstream: FakeUpstream, kind: str, provider: Upstream, line: str
) -> None:
    given = await ask(provider, target(upstream, kind, f"fake/line:{line}"), request(stream=True))
    assert given.text == "You said: hello there"
    assert given.finish.spent is not None


async def test_a_stream_torn_at_every_byte_is_the_same(
    upstream: FakeUpstream, kind: str, provider: Upstream
) -> None:
    asked = request(TOOLS, stream=True, tools=(READ,))
    whole = await ask(provider, target(upstream, kind), asked)
    torn = await ask(provider, target(upstream, kind, "fake/fault:torn"), asked)
    assert torn[2:] == whole[2:]
    assert torn.finish[:2] == whole.finish[:2]


async def test_pieces_come_as_they_are_said(
    upstream: FakeUpstream, kind: str, provider: Upstream
) -> None:
    place = target(upstream, kind, "fake/chunks:20/pace:1")
    given = await ask(provider, place, request(stream=True))
    assert len(given.pieces) > 5
    assert given.text == "word " * 20


async def test_a_connection_is_used_again(
    upstream: FakeUpstream, kind: str, provider: Upstream
) -> None:
    upstream.reset()
    for stream in (False, True, True, False):
        await ask(provider, target(upstream, kind), request(stream=stream))
    seen = upstream.seen()
    assert seen["requests"] == 4
    assert seen["open"] == 1


async def test_whoever_closes_the_answer_ends_the_connection_at_once(
    upstream: FakeUpstream, kind: str, provider: Upstream
) -> None:
    upstream.reset()
    answer = provider.ask(target(upstream, kind, "fake/fault:hang-middle"), request(stream=True))
    await anext(answer)
    await answer.aclose()
    await asyncio.to_thread(upstream.wait, cancelled=1, open=0)


async def test_whoever_is_cancelled_before_an_answer_ends_the_connection_at_once(
    upstream: FakeUpstream, kind: str, provider: Upstream
) -> None:
    upstream.reset()
    place = target(upstream, kind, "fake/fault:hang")
    task = asyncio.create_task(ask(provider, place, request()))
    await asyncio.to_thread(upstream.wait, answering=1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(upstream.wait, cancelled=1, open=0)


async def test_a_limit_of_tokens_is_sent_and_told(
    upstream: FakeUpstream, kind: str, provider: Upstream
) -> None:
    asked = request("a long story " * 9, max_tokens=3)
    given = await ask(provider, target(upstream, kind), asked)
    assert given.finish.stop_reason == "length"
    assert given.finish.spent is not None
    assert given.finish.spent.output == 3


async def test_what_is_said_in_one_go_is_given_in_pieces_that_fit(
    upstream: FakeUpstream, kind: str, provider: Upstream
) -> None:
    word = "ü" * 50_000
    given = await ask(
        provider, target(upstream, kind), request(word, stream=True, max_tokens=100_000)
    )
    assert given.text == f"You said: {word}"


async def test_a_big_request_is_sent_whole(
    upstream: FakeUpstream, kind: str, provider: Upstream
) -> None:
    text = "word " * 400_000
    given = await ask(provider, target(upstream, kind), request(text, max_tokens=5))
    assert given.finish.spent is not None
    assert given.finish.spent.input == len(text) // 4 + 3


@pytest.mark.parametrize("usage", ["none", "null", "negative", "huge", "text"])
@pytest.mark.parametrize("stream", [False, True])
async def test_usage_that_is_not_said_or_cannot_be_true_is_none(
    upstream: FakeUpstream, kind: str, provider: Upstream, usage: str, stream: bool
) -> None:
    place = target(upstream, kind, f"fake/usage:{usage}")
    given = await ask(provider, place, request(stream=stream))
    assert given.text == "You said: hello there"
    assert given.finish.spent is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [("content_filter", "content_filter"), ("refusal", "content_filter"), ("unheard", "stop")],
)
async def test_a_reason_is_one_of_ours(
    upstream: FakeUpstream, kind: str, provider: Upstream, given: str, expected: str
) -> None:
    if (kind, given) in (("openai", "refusal"), ("anthropic", "content_filter")):
        expected = "stop"
    answer = await ask(provider, target(upstream, kind, f"fake/stop:{given}"), request())
    assert answer.finish.stop_reason == expected


# --- what is sent


async def test_openai_is_sent_all_that_was_asked_for(
    upstream: FakeUpstream, client: Client
) -> None:
    provider = asking.UPSTREAMS["openai"](client)
    call = AskedTool(id="c1", name="read", arguments='{"path": "a"}')
    picture = ImageBlock(media_type="image/png", data="aGk=")
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
    asked = request(
        messages=(
            ChatMessage(role="system", content=(TextBlock(text="be "), TextBlock(text="short"))),
            ChatMessage(role="user", name="bob", content=(TextBlock(text="see"), picture)),
            ChatMessage(role="assistant", tool_calls=(call,)),
            ChatMessage(role="tool", tool_call_id="c1", content=(TextBlock(text="empty"),)),
        ),
        tools=(READ,),
        tool_choice=NamedTool(name="read"),
        parallel_tool_calls=False,
        temperature=1.5,
        top_p=0.5,
        stop=("END",),
        seed=7,
        response_format=schema,
        reasoning_effort="low",
        stream=True,
    )
    await ask(provider, target(upstream, "openai"), asked)
    assert sent(upstream) == {
        "model": "fake",
        "messages": [
            {"role": "system", "content": "be short"},
            {
                "role": "user",
                "name": "bob",
                "content": [
                    {"type": "text", "text": "see"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                ],
            },
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "read", "arguments": '{"path": "a"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "empty"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "read",
                    "description": "Read a file",
                    "parameters": {"type": "object", "properties": {}},
                },
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "read"}},
        "parallel_tool_calls": False,
        "max_tokens": 1000,
        "temperature": 1.5,
        "top_p": 0.5,
        "stop": ["END"],
        "seed": 7,
        "response_format": schema,
        "reasoning_effort": "low",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = upstream.seen()["last"]["headers"]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-type"] == "application/json"
    assert "cookie" not in headers


async def test_openai_is_sent_nothing_that_was_not_asked_for(
    upstream: FakeUpstream, client: Client
) -> None:
    await ask(asking.UPSTREAMS["openai"](client), target(upstream, "openai"), request())
    assert set(sent(upstream)) == {"model", "messages", "max_tokens"}


async def test_reasoning_models_of_openai_are_told_their_limit_as_they_take_it(
    upstream: FakeUpstream, client: Client
) -> None:
    provider = asking.UPSTREAMS["openai"](client)
    for model in ("o3-mini", "gpt-5"):
        await ask(provider, target(upstream, "openai", model), request())
        assert sent(upstream)["max_completion_tokens"] == 1000


async def test_anthropic_is_sent_all_that_was_asked_for(
    upstream: FakeUpstream, client: Client
) -> None:
    provider = asking.UPSTREAMS["anthropic"](client)
    calls = (
        AskedTool(id="c1", name="read", arguments='{"path": "a"}'),
        AskedTool(id="c2", name="read", arguments="{not json"),
        AskedTool(id="c3", name="list", arguments=""),
    )
    picture = ImageBlock(media_type="image/png", data="aGk=")
    asked = request(
        messages=(
            ChatMessage(role="system", content=(TextBlock(text="be short"),)),
            ChatMessage(role="user", content=(TextBlock(text="see"), picture)),
            ChatMessage(role="assistant", content=(TextBlock(text=""),), tool_calls=calls),
            *(
                ChatMessage(role="tool", tool_call_id=call.id, content=(TextBlock(text="x"),))
                for call in calls
            ),
            ChatMessage(role="user", content=(TextBlock(text="so?"),)),
        ),
        tools=(READ, OfferedTool(name="list")),
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=1.5,
        top_p=0.5,
        stop=("END",),
        seed=7,
        stream=True,
    )
    await ask(provider, target(upstream, "anthropic"), asked)
    result = {"type": "tool_result", "content": [{"type": "text", "text": "x"}]}
    image = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    use = {"type": "tool_use"}
    schema = {"type": "object", "properties": {}}
    assert sent(upstream) == {
        "model": "fake",
        "max_tokens": 1000,
        "system": "be short",
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "see"}, {"type": "image", "source": image}],
            },
            {
                "role": "assistant",
                "content": [
                    use | {"id": "c1", "name": "read", "input": {"path": "a"}},
                    use | {"id": "c2", "name": "read", "input": {"invalid": "{not json"}},
                    use | {"id": "c3", "name": "list", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    *(result | {"tool_use_id": call.id} for call in calls),
                    {"type": "text", "text": "so?"},
                ],
            },
        ],
        "tools": [
            {"name": "read", "description": "Read a file", "input_schema": schema},
            {"name": "list", "input_schema": schema},
        ],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "temperature": 1.0,
        "top_p": 0.5,
        "stop_sequences": ["END"],
        "stream": True,
    }
    headers = upstream.seen()["last"]["headers"]
    assert headers["x-api-key"] == KEY
    assert headers["anthropic-version"] == "2023-06-01"


async def test_anthropic_thinks_where_there_is_room_and_no_tool_has_the_last_word(
    upstream: FakeUpstream, client: Client
) -> None:
    provider = asking.UPSTREAMS["anthropic"](client)
    place = target(upstream, "anthropic")
    told = ChatMessage(role="tool", tool_call_id="c", content=(TextBlock(text="x"),))
    for asked, budget in [
        (request(max_tokens=10_000, reasoning_effort="medium", temperature=0.5), 4096),
        (request(max_tokens=3000, reasoning_effort="high"), 1500),
        (request(max_tokens=2000, reasoning_effort="high"), None),
        (request(max_tokens=10_000, reasoning_effort="minimal"), None),
        (request(max_tokens=10_000, reasoning_effort="high", messages=(told,)), None),
    ]:
        await ask(provider, place, asked)
        body = sent(upstream)
        assert body.get("thinking", {}).get("budget_tokens") == budget
        assert "temperature" not in body


async def test_anthropic_is_not_asked_for_a_format_it_does_not_have(
    upstream: FakeUpstream, client: Client
) -> None:
    upstream.reset()
    provider = asking.UPSTREAMS["anthropic"](client)
    with pytest.raises(GatewayError) as caught:
        await ask(
            provider,
            target(upstream, "anthropic"),
            request(response_format={"type": "json_object"}),
        )
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.details["field"] == "response_format"
    assert upstream.seen()["requests"] == 0


# --- embeddings


async def test_a_vector_comes_for_each_text_in_its_order(
    upstream: FakeUpstream, client: Client
) -> None:
    provider = asking.UPSTREAMS["openai"](client)
    asked = EmbedRequest(model="the-model", texts=("one", "two", "one"), dimensions=4)
    found = await provider.embed(target(upstream, "openai"), asked)
    assert [len(vector) for vector in found.vectors] == [4, 4, 4]
    assert found.vectors[0] == found.vectors[2] != found.vectors[1]
    assert found.spent == Spent(input=3)


async def test_anthropic_makes_no_vectors(upstream: FakeUpstream, client: Client) -> None:
    with pytest.raises(GatewayError) as caught:
        await asking.UPSTREAMS["anthropic"](client).embed(
            target(upstream, "anthropic"), EmbedRequest(model="the-model", texts=("one",))
        )
    assert caught.value.code is ErrorCode.INVALID_REQUEST


async def test_the_last_thing_is_the_finish(
    upstream: FakeUpstream, kind: str, provider: Upstream
) -> None:
    found = [each async for each in provider.ask(target(upstream, kind), request(stream=True))]
    assert isinstance(found[-1], Finish)
    assert not any(isinstance(each, Finish) for each in found[:-1])
