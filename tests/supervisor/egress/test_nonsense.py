"""Whatever a provider sends is an answer or a typed error, and never anything else."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import egress
from protocol.errors import ErrorCode, GatewayError
from protocol.models import Spent
from supervisor.egress import refused
from supervisor.egress.providers import anthropic, openai
from supervisor.egress.providers.reported import TOKENS_MAX
from supervisor.egress.upstream import BrokenOffError, Finish, Target

KEY = "sk-canary-4f1d9c77ab"
TARGET = Target(
    "m",
    egress.Model(provider="p", upstream_model="m"),
    egress.Provider(type="openai", base_url="https://models.test"),
    KEY,
)
WORDS = [
    *("choices", "delta", "message", "content", "tool_calls", "function", "arguments", "usage"),
    *("index", "id", "name", "type", "text", "error", "finish_reason", "stop_reason", "input"),
    *("content_block", "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"),
    *("prompt_tokens_details", "cached_tokens", "partial_json", "thinking", "reasoning"),
    *("message_start", "content_block_start", "content_block_delta", "content_block_stop"),
    *("message_delta", "message_stop", "tool_use", "stop", "ping", "total_tokens"),
]
words = st.sampled_from(WORDS)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=6),
    max_leaves=20,
)
chunks = st.one_of(
    values,
    st.fixed_dictionaries({}, optional={"choices": values, "usage": values, "error": values}),
    st.builds(
        lambda delta, reason: {"choices": [{"delta": delta, "finish_reason": reason}]},
        st.dictionaries(words, values, max_size=3),
        scalars,
    ),
    st.fixed_dictionaries(
        {"type": words},
        optional={
            "index": scalars,
            "content_block": values,
            "delta": values,
            "usage": values,
            "message": values,
        },
    ),
)


def streamed(answer: Any, pieces: list[bytes]) -> Finish | None:
    """Feed a stream to its end; gives its end if it has one."""
    try:
        for data in [*pieces, b""]:
            if not answer.over:
                answer.take(data)
                answer.check()
    except (GatewayError, BrokenOffError):
        return None
    end: Finish = answer.finish()
    return end


def sensible(spent: Spent | None) -> bool:
    if spent is None:
        return True
    classes = (spent.input, spent.cache_read, spent.cache_write, spent.output, spent.reasoning)
    return all(type(each) is int and 0 <= each <= TOKENS_MAX for each in classes)


@pytest.mark.parametrize("module", [openai, anthropic])
@settings(max_examples=40)
@given(events=st.lists(chunks | st.binary(max_size=30), max_size=6), done=st.booleans())
def test_any_stream_is_an_answer_or_a_typed_error(
    module: Any, events: list[Any], done: bool
) -> None:
    texts = [e if isinstance(e, bytes) else json.dumps(e).encode() for e in events]
    pieces = [b"data: " + text + b"\n\n" for text in texts] + [b"data: [DONE]\n\n"] * done
    end = streamed(module._Stream(TARGET, ""), pieces)
    assert end is None or sensible(end.spent)


@pytest.mark.parametrize("module", [openai, anthropic])
@settings(max_examples=40)
@given(usage=st.dictionaries(words | st.sampled_from(anthropic._USAGE), values, max_size=6))
def test_any_usage_is_sensible_or_none(module: Any, usage: dict[str, Any]) -> None:
    assert sensible(module.spent(usage))


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5}, Spent(input=10, output=5)),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 15,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            Spent(input=5, cache_read=4, cache_write=1, output=2, reasoning=3),
        ),
        (
            {  # counted beside the completion
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 18,
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            Spent(input=10, output=5, reasoning=3),
        ),
        (
            {"prompt_tokens": 10.0, "completion_tokens": 0, "prompt_cache_hit_tokens": 40},
            Spent(cache_read=10),
        ),
        ({"prompt_tokens": 10}, None),  # half of it: what was said is not free
        ({"prompt_tokens": 10, "completion_tokens": None}, None),
        ({"prompt_tokens": 10, "completion_tokens": -1}, None),
        ({"prompt_tokens": 2**70, "completion_tokens": 1}, None),
        ({"prompt_tokens": True, "completion_tokens": 1}, None),
        ({"prompt_tokens": 0.5, "completion_tokens": 1}, None),
        ({"prompt_tokens": "10", "completion_tokens": 1}, None),
        ({"prompt_tokens": 1, "prompt_tokens_details": [1]}, None),
        ({"completion_tokens": 1}, None),
        ({}, None),
    ],
)
def test_openai_s_usage_is_five_classes_that_do_not_overlap(
    usage: dict[str, Any], expected: Spent | None
) -> None:
    assert openai.spent(usage) == expected


@given(body=st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_any_error_is_typed(body: bytes) -> None:
    for status in (100, 201, 302, 400, 401, 404, 418, 429, 500, 599, 999):
        refusal = refused.by_status(TARGET, status, {}, body)
        assert refusal.error.code in ErrorCode
        assert not refusal.again or status in (429, 500)


@pytest.mark.parametrize(
    ("said", "quoted"),
    [
        ("Unknown parameter: 'max_completion_tokens'.", True),
        ("This model's maximum context length is 8192 tokens.", True),
        (f"Incorrect key {KEY}", False),
        (f"Incorrect key {KEY.upper()}", False),
        (f"Incorrect key {KEY[3:10]}…", False),
        (f"the end of it: {KEY[-6:]}", False),
        ("", False),
    ],
)
def test_a_provider_is_quoted_where_it_holds_nothing_of_the_key(said: str, quoted: bool) -> None:
    assert bool(refused.words(said, KEY)) == quoted


def test_what_looks_like_a_secret_is_not_quoted() -> None:
    said = "organization org-AbCdEf0123456789 \x1b[31m and sk-proj-0123456789abcdef"
    words = refused.words(said, KEY)
    assert words == "organization …  [31m and …"
    assert len(refused.words("word " * 1000, KEY)) <= refused.WORDS_CHARS_MAX


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 7 "}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
        ({"Retry-After": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40.0),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:10 GMT"}, 0.0),
        ({"Retry-After": "-7"}, 0.0),
        ({"Retry-After": "soon"}, 0.0),
        ({"Retry-After": "1e9"}, 0.0),
        ({"Retry-After": "9" * 400}, 0.0),
        ({"Retry-After": "999999999"}, 86_400.0),
        ({"Retry-After": "Thu, 01 Jan 99999 00:00:10 GMT"}, 0.0),
        ({}, 0.0),
    ],
)
def test_how_long_a_provider_wants_to_be_left_alone(
    headers: dict[str, str], seconds: float
) -> None:
    assert refused.retry_after(headers, now=60.0) == seconds
