"""Agents behind OpenAI's API: which session, which turn, and what becomes of it."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from protocol.errors import ErrorCode, GatewayError
from protocol.methods.chat import TextPart
from tests.worker.harness import (
    SECONDS,
    GatedProvider,
    Rig,
    StreamedCall,
    catalogue_of,
    running_worker,
)
from worker.agents.model import ModelEvent, ModelRequest

USER = {"role": "user", "content": "hi"}


def chat(*messages: Any, key: str | None = None, **body: Any) -> dict[str, Any]:
    return {
        "body": {"model": "openclaw", "messages": messages or [USER]} | body,
        "sessionKey": key,
    }


async def keys_of(rig: Rig) -> list[str]:
    listed = await rig.front.call("sessions.list", {})
    return sorted(session["key"] for session in listed["sessions"])


pytestmark = pytest.mark.usefixtures("tenant_dir")


async def test_a_turn_is_answered_with_what_it_used() -> None:
    async with running_worker() as rig:
        answer = await rig.front.call("openai.chat", chat(model="openclaw:main"))
        assert answer["model"] == "openclaw:main"
        assert answer["choices"][0]["message"]["content"].endswith("hi")
        assert answer["choices"][0]["finish_reason"] == "stop"
        (key,) = await keys_of(rig)
        assert key.startswith("agent:main:openai:")
        history = await rig.front.call("chat.history", {"sessionKey": key})
        used = history["messages"][-1]["usage"]
        assert answer["usage"]["prompt_tokens"] == used["input"] > 0
        assert answer["usage"]["completion_tokens"] == used["output"] > 0
        response = {"body": {"model": "openclaw", "input": "ho"}}
        answer = await rig.front.call("openai.responses", response)
        assert answer["output"][0]["content"][0]["text"].endswith("ho")
        assert answer["usage"]["total_tokens"] > 0


async def test_which_session_it_is() -> None:
    async with running_worker() as rig:
        await rig.front.call("openai.chat", chat(user="Ann/é"))
        await rig.front.call("openai.chat", chat(user="Ann/é"))
        await rig.front.call("openai.chat", chat(key="agent:main:mine", user="Ann/é"))
        assert await keys_of(rig) == [
            "agent:main:mine",
            "agent:main:openai-user:%41nn%2f%c3%a9",
        ]
        await rig.front.call("openai.chat", chat())
        await rig.front.call("openai.chat", chat())
        assert len(await keys_of(rig)) == 4


async def test_what_a_turn_is_told() -> None:
    provider = GatedProvider()
    messages = (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "text", "text": "three"}]},
        {"role": "assistant", "content": "an answer begun"},
    )
    provider.open("three")
    async with running_worker(catalogue_of(provider)) as rig:
        await rig.front.call("openai.chat", chat(*messages))
        await rig.front.call("openai.chat", chat(*messages, user="ann"))
        await rig.front.call("openai.chat", chat(messages[3], user="ann"))
    told = [
        [
            (message.role, *(part.text for part in message.parts if isinstance(part, TextPart)))
            for message in request.messages
        ]
        for request in provider.requests
    ]
    before = "be brief\n\nEarlier in this conversation:\nuser: one\nassistant: two"
    assert told[0] == [("system", before), ("user", "three")]
    # A session that is named remembers by itself, and forgets what was for one turn.
    assert told[1] == [("system", "be brief"), ("user", "three")]
    assert told[2] == [("user", "three"), ("assistant", "answer to three"), ("user", "three")]


async def test_the_text_is_streamed_and_whoever_leaves_ends_the_turn() -> None:
    provider = GatedProvider()
    async with running_worker(catalogue_of(provider)) as rig:
        body = chat(stream=True, key="agent:main:mine")
        call = rig.front.stream("openai.chat", body)
        async with asyncio.timeout(SECONDS):
            await provider.started("hi").wait()
        await until(call, 1)
        assert call.chunks[0]["choices"][0]["delta"]["content"] == "answer to "
        call.cancel()
        with pytest.raises(GatewayError) as refused:
            await call.result()
        assert refused.value.code is ErrorCode.CANCELLED
        listed = await rig.front.call("sessions.get", {"key": "agent:main:mine"})
        got = await rig.front.finished(listed["runId"], "agent:main:mine")
        assert got["runStatus"] == "interrupted"


async def until(call: StreamedCall, count: int) -> None:
    async with asyncio.timeout(SECONDS):
        while len(call.chunks) < count:
            call._news.clear()
            await call._news.wait()


async def test_a_stream_of_events_of_a_turn() -> None:
    async with running_worker() as rig:
        body = {"body": {"model": "openclaw", "input": "hello", "stream": True}}
        call = rig.front.stream("openai.responses", body, credit=64)
        whole = await call.result()
        assert call.chunks[-1]["type"] == "response.completed"
        text = "".join(chunk["delta"] for chunk in call.chunks if "delta" in chunk)
        assert text.endswith("hello")
        assert call.chunks[-1]["response"]["output"][0]["content"][0]["text"] == text
        assert whole["status"] == "completed"


async def test_a_request_that_is_repeated_is_one_turn() -> None:
    async with running_worker() as rig:
        first = await rig.front.call("openai.chat", chat(), key="once")
        again = await rig.front.call("openai.chat", chat(), key="once")
        assert again["choices"] == first["choices"]
        assert len(await keys_of(rig)) == 1
        other = chat({"role": "user", "content": "other"})
        refused = await rig.front.refused("openai.chat", other, key="once")
        assert refused.code is ErrorCode.CONFLICT
        call = rig.front.stream("openai.chat", chat(stream=True), key="once")
        assert (await call.result())["usage"] == first["usage"]
        text = call.chunks[0]["choices"][0]["delta"]["content"]
        assert text == first["choices"][0]["message"]["content"]


REFUSED: dict[str, tuple[dict[str, Any], ErrorCode]] = {
    "model": (chat(model="openclaw:other"), ErrorCode.NOT_FOUND),
    "sessionKey": (chat(key="agent:other:x"), ErrorCode.INVALID_REQUEST),
    "tools": (
        chat(tools=[{"type": "function", "function": {"name": "f"}}]),
        ErrorCode.INVALID_REQUEST,
    ),
    "messages": (chat({"role": "system", "content": "x"}), ErrorCode.INVALID_REQUEST),
    "user": (chat(user=""), ErrorCode.INVALID_REQUEST),
}


@pytest.mark.parametrize("field", REFUSED)
async def test_what_is_refused_makes_no_session(field: str) -> None:
    async with running_worker() as rig:
        params, code = REFUSED[field]
        refused = await rig.front.refused("openai.chat", params)
        assert (refused.code, refused.details["field"]) == (code, field)
        assert await keys_of(rig) == []


async def test_a_turn_that_fails_is_an_error() -> None:
    class Failing(GatedProvider):
        def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
            raise GatewayError(ErrorCode.QUOTA_EXCEEDED, f"no {request.model}", limit=5)

    async with running_worker(catalogue_of(Failing())) as rig:
        refused = await rig.front.refused("openai.chat", chat(key="agent:main:mine"))
        assert refused.message == "no gated/test"
        assert refused.code is ErrorCode.QUOTA_EXCEEDED
        assert refused.details == {"limit": 5, "sessionKey": "agent:main:mine"}
