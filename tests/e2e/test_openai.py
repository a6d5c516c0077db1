"""OpenAI's own client against a gateway whose models are a fake upstream's, and its agent."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import Gateway
from tests.upstream.fake import FakeUpstream

KEY = "sk-upstream-canary"
MODELS = ("fake", "fake/chunks:50", "fake/think:hm_hm", "fake/cached:3", "fake/pace:200/chunks:100")
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
SAID: Any = [{"role": "user", "content": "hello"}]


class House(NamedTuple):
    """A gateway with a fake upstream behind it, and two tenants' tokens."""

    gateway: Gateway
    upstream: FakeUpstream
    acme: str
    globex: str

    def client(self, token: str = "", **more: Any) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.gateway.url}/v1", api_key=token or self.acme, max_retries=0, **more
        )


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(FakeUpstream(KEY))
        state_dir = make_state_dir()
        stack.callback(remove_tree, state_dir)
        broken = {"503": 503, "429": 429, "reset": 0, "reset-middle": 0, "hang": 0}
        names = (*MODELS, *(f"fake/fault:{fault}" for fault in broken))
        config = {
            "providers": {
                "fake": {"type": "openai", "base_url": upstream.base_url, "api_key": KEY}
            },
            "models": {
                **{name: {"provider": "fake"} for name in names},
                "vectors": {"provider": "fake", "embeds": True},
                "sees": {"provider": "fake", "input": ["text", "image"]},
                "unpriced": {"provider": "fake"},
                "sees-no-more": {
                    "provider": "fake",
                    "upstream_model": "fake/fault:503",
                    "input": ["text", "image"],
                    "fallbacks": ["fake", "unpriced", "vectors"],
                },
            },
            "billing": {
                "rate_card": {
                    "fake*": {"input": 1, "output": 2},
                    "vectors": {"input": 1, "output": 0},
                    "sees*": {"input": 1, "output": 2},
                }
            },
            "egress": {"allow_hosts": [upstream.host_port], "retries": 0},
        }
        (state_dir / "config.yaml").write_text(json.dumps(config))
        gateway = stack.enter_context(Gateway(state_dir))
        yield House(gateway, upstream, gateway.create("acme"), gateway.create("globex"))


@pytest.fixture
def client(house: House) -> Iterator[openai.OpenAI]:
    with house.client() as made:
        yield made


def error_of(error: openai.APIStatusError) -> dict[str, Any]:
    body: dict[str, Any] = error.body  # type: ignore[assignment]
    assert set(body) - {"details"} == {"message", "type", "param", "code"}
    return body


def test_a_chat_completion(house: House, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=SAID, temperature=0.5, user="u")
    assert answer.choices[0].message.content == "You said: hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "fake"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens > 0
    sent = json.loads(house.upstream.seen()["last"]["body"])
    assert sent["temperature"] == 0.5
    assert "user" not in sent
    cached = client.chat.completions.create(model="fake/cached:3", messages=SAID).usage
    assert cached is not None
    assert cached.prompt_tokens_details is not None
    assert cached.prompt_tokens_details.cached_tokens == 3
    cut = client.chat.completions.create(model="fake", messages=SAID, max_tokens=1)
    assert cut.choices[0].finish_reason == "length"
    thought = client.chat.completions.create(model="fake/think:hm_hm", messages=SAID)
    assert thought.usage is not None
    assert thought.usage.completion_tokens_details is not None
    assert thought.usage.completion_tokens_details.reasoning_tokens == 2


def test_a_stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="fake/chunks:50", messages=SAID)
    chunks: list[ChatCompletionChunk] = list(
        client.chat.completions.create(
            model="fake/chunks:50",
            messages=SAID,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_round_of_tools(client: openai.OpenAI, stream: bool) -> None:
    said: Any = [{"role": "user", "content": '[[call weather {"city": "Oslo"}]][[then]]it is cold'}]
    if stream:
        with client.chat.completions.stream(model="fake", messages=said, tools=[TOOL]) as events:
            choice: Any = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(model="fake", messages=said, tools=[TOOL]).choices[
            0
        ]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    said += [
        {
            "role": "assistant",
            "content": choice.message.content,
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "-5"},
    ]
    answer = client.chat.completions.create(model="fake", messages=said, tools=[TOOL])
    assert answer.choices[0].message.content == "it is cold"


def test_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="fake", input="hello", instructions="be brief")
    assert answer.output_text == "You said: hello"
    assert answer.status == "completed"
    assert answer.usage is not None
    assert answer.usage.input_tokens > 0
    with client.responses.stream(model="fake/chunks:50", input="hello") as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert "response.output_text.delta" in kinds
    assert final.output_text == "word " * 50
    tool: Any = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}
    called = client.responses.create(
        model="fake", input='[[call weather {"city": "Oslo"}]][[then]]cold', tools=[tool]
    )
    (item,) = (item for item in called.output if item.type == "function_call")
    done = client.responses.create(
        model="fake",
        tools=[tool],
        input=[
            {"role": "user", "content": '[[call weather {"city": "Oslo"}]][[then]]cold'},
            item.to_dict(),  # type: ignore[list-item]
            {"type": "function_call_output", "call_id": item.call_id, "output": "-5"},
        ],
    )
    assert done.output_text == "cold"


def test_embeddings(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model="vectors", input=["a", "b"])
    plain = client.embeddings.create(model="vectors", input="b", encoding_format="float")
    assert [len(each.embedding) for each in packed.data] == [8, 8]
    assert packed.data[1].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert packed.usage.total_tokens > 0
    small = client.embeddings.create(model="vectors", input="a", dimensions=3)
    assert len(small.data[0].embedding) == 3


def test_models(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {"openclaw", "builtin/echo", "fake", "vectors"} <= listed.keys()
    assert listed["fake"].owned_by == "fake"
    assert client.models.retrieve("builtin/echo") == listed["builtin/echo"]
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("nonesuch")
    assert error_of(refused.value)["code"] == "model_not_found"


def test_an_agent(house: House, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="openclaw", messages=SAID, user="ann")
    assert (answer.choices[0].message.content or "").endswith("hello")
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0
    header = {"x-openclaw-session-key": "agent:main:mine"}
    streamed = client.chat.completions.create(
        model="openclaw:main", messages=SAID, stream=True, extra_headers=header
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert text == answer.choices[0].message.content
    listed = house.gateway.rpc(house.acme, "sessions.list")["sessions"]
    assert {session["key"] for session in listed} >= {
        "agent:main:mine",
        "agent:main:openai-user:ann",
    }
    # Another tenant has none of it.
    assert house.gateway.rpc(house.globex, "sessions.list")["sessions"] == []
    with house.client(house.globex) as other:
        other.chat.completions.create(model="openclaw", messages=SAID, extra_headers=header)
    history = house.gateway.rpc(house.acme, "chat.history", sessionKey="agent:main:mine")
    assert len(history["messages"]) == 2


BAD: dict[str, dict[str, Any]] = {
    "max_tokens": {"max_tokens": 10**9},
    "tools[0].function.parameters": {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": "none"}}]
    },
    "messages[0].content[0].image_url.url": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}],
            }
        ]
    },
    "n": {"n": 2},
    "model": {"model": "unpriced"},
}


def test_what_is_bad_is_named_and_reaches_nobody(house: House, client: openai.OpenAI) -> None:
    house.upstream.reset()
    for stream in (False, True):
        for param, change in BAD.items():
            with pytest.raises(openai.BadRequestError) as refused:
                client.chat.completions.create(
                    **{"model": "fake", "messages": SAID, "stream": stream} | change
                )
            error = error_of(refused.value)
            assert (error["type"], error["param"]) == ("invalid_request_error", param), error
        picture = {"url": "data:image/png;base64,iVBORw0KGgo="}
        look: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": picture}]}]
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="fake", messages=look, stream=stream)
        assert error_of(refused.value)["param"] is not None
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="nonesuch", messages=SAID, stream=stream)
        assert error_of(unknown.value)["code"] == "model_not_found"
    assert house.upstream.seen()["requests"] == 0
    answer = client.chat.completions.create(model="sees", messages=look)
    assert answer.choices[0].finish_reason == "stop"


def test_who_may_ask(house: House) -> None:
    with house.client("tk_acme_" + "0" * 32) as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.models.list()
        assert error_of(refused.value)["code"] == "invalid_api_key"
    made = house.gateway.openclaw_json(
        *("tenants", "token", "create", "acme", "reader", "--scope", "read")
    )
    with house.client(made["token"]) as reader:
        assert any(model.id == "fake" for model in reader.models.list())
        with pytest.raises(openai.PermissionDeniedError) as forbidden:
            reader.chat.completions.create(model="fake", messages=SAID)
        assert error_of(forbidden.value)["details"] == {"requiredScope": "write"}


@pytest.mark.parametrize("fault", ["503", "429", "reset"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_fails_is_an_error_of_openais(
    house: House, fault: str, stream: bool
) -> None:
    with house.client() as client, pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model=f"fake/fault:{fault}", messages=SAID, stream=stream)
    assert refused.value.status_code >= 429
    assert KEY not in str(error_of(refused.value))


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_stands_in_answers_what_it_takes(client: openai.OpenAI, stream: bool) -> None:
    said: Any = client.chat.completions.create(model="sees-no-more", messages=SAID, stream=stream)
    if stream:
        text = "".join(each.choices[0].delta.content or "" for each in said)
    else:
        text = said.choices[0].message.content
    assert text == "You said: hello"
    picture = {"url": "data:image/png;base64,AAAA"}
    look: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": picture}]}]
    with pytest.raises(openai.InternalServerError) as refusal:  # of whom was asked
        client.chat.completions.create(model="sees-no-more", messages=look, stream=stream)
    assert "status 503" in str(refusal.value)


def test_a_stream_that_breaks_off_raises(client: openai.OpenAI) -> None:
    said: Any = [{"role": "user", "content": "one two three four five six"}]
    chunks = client.chat.completions.create(
        model="fake/fault:reset-middle", messages=said, stream=True
    )
    with pytest.raises(openai.APIError, match=r".+"):
        list(chunks)
    events = client.responses.create(
        model="fake/fault:reset-middle", input="one two three four five", stream=True
    )
    assert [event.type for event in events][-1] == "response.failed"


@pytest.mark.parametrize("model", ["fake/pace:200/chunks:100", "fake/fault:hang"])
def test_whoever_leaves_ends_the_upstreams_answer(house: House, model: str) -> None:
    house.upstream.reset()
    with house.client() as client:
        if model.endswith("hang"):
            with pytest.raises(openai.APITimeoutError):
                client.with_options(timeout=0.5).chat.completions.create(model=model, messages=SAID)
        else:
            chunks = client.chat.completions.create(model=model, messages=SAID, stream=True)
            next(chunks)
            chunks.close()
        house.upstream.wait(cancelled=1, answering=0)
