"""Models through OpenAI's API, as the front and egress see the worker between them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.models import AskedTool, ModelPiece
from tests.worker.egress import ANSWER, EgressEnd
from tests.worker.harness import SECONDS, Rig, running_worker

pytestmark = pytest.mark.usefixtures("tenant_dir")
QUOTA = GatewayError(ErrorCode.QUOTA_EXCEEDED, "no more today", metric="tokensPerDay")


@asynccontextmanager
async def both() -> AsyncIterator[tuple[Rig, EgressEnd]]:
    async with running_worker() as rig:
        egress = EgressEnd()
        await egress.meet(rig.links.channel)
        yield rig, egress


def chat(**body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hi"}]
    return {"body": {"model": "gpt", "messages": messages} | body}


async def test_whole_answers() -> None:
    async with both() as (rig, egress):
        session = {"sessionKey": "agent:main:mine"}
        answer = ChatCompletion.model_validate(
            await rig.front.call("openai.chat", chat(stream=True) | session)
        )
        assert answer.choices[0].message.content == "hello"
        assert answer.usage is not None
        assert answer.usage.total_tokens == 5
        # Who takes no pieces is given none.
        assert not egress.requests[0].stream
        assert egress.requests[0].session_key == "agent:main:mine"
        called = AskedTool(id="c", name="f", arguments="{}")
        egress.answer = msgspec.structs.replace(
            ANSWER, stop_reason="tool_calls", text="", tool_calls=(called,)
        )
        answer = ChatCompletion.model_validate(await rig.front.call("openai.chat", chat()))
        assert answer.choices[0].message.content is None
        assert answer.choices[0].message.tool_calls is not None
        assert answer.choices[0].message.tool_calls[0].id == "c"
        body = {"body": {"model": "gpt", "input": "hi"}}
        response = Response.model_validate(await rig.front.call("openai.responses", body))
        assert [item.type for item in response.output] == ["function_call"]
        vectors = await rig.front.call("openai.embeddings", body)
        assert CreateEmbeddingResponse.model_validate(vectors).data[0].embedding == [1.0, 0.5]


async def test_a_stream_begins_with_the_first_piece_and_not_before() -> None:
    async with both() as (rig, egress):
        egress.holds = True
        call = rig.front.stream("openai.chat", chat(stream=True))
        asked = await egress.calls.get()
        assert egress.requests[0].stream
        egress.say(asked, ModelPiece(text="hel"))
        async with asyncio.timeout(SECONDS):
            while not call.chunks:
                call._news.clear()
                await call._news.wait()
        egress.answer = QUOTA
        egress.finish(asked)
        with pytest.raises(GatewayError, match="no more today"):
            await call.result()
        call = rig.front.stream(
            "openai.responses", {"body": {"model": "gpt", "input": "hi", "stream": True}}
        )
        egress.finish(await egress.calls.get())
        with pytest.raises(GatewayError, match="no more today"):
            await call.result()
        assert call.chunks == []


async def test_a_response_that_breaks_off_fails_as_an_event() -> None:
    async with both() as (rig, egress):
        egress.holds = True
        body = {"body": {"model": "gpt", "input": "hi", "stream": True}}
        call = rig.front.stream("openai.responses", body, credit=1)
        asked = await egress.calls.get()
        egress.say(asked, ModelPiece(text="hel"))
        egress.answer = GatewayError(ErrorCode.UNAVAILABLE, "it broke off")
        egress.finish(asked)
        call.grant(16)
        assert (await call.result())["status"] == "failed"
        assert call.chunks[-1]["type"] == "response.failed"
        assert call.chunks[-1]["response"]["error"]["message"] == "it broke off"


async def test_credit_goes_all_the_way() -> None:
    async with both() as (rig, egress):
        egress.holds = True
        call = rig.front.stream("openai.chat", chat(stream=True), credit=1)
        asked = await egress.calls.get()
        assert asked.credit == limits.STREAM_CREDIT_INITIAL
        egress.say(asked, *[ModelPiece(text="a")] * asked.credit)
        egress.finish(asked)
        # The client has taken one, and so many must go before more may come.
        call.grant(limits.STREAM_CREDIT_INITIAL)
        await call.result()
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in call.chunks)
        assert text == "a" * limits.STREAM_CREDIT_INITIAL
        assert call.chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
async def test_whoever_leaves_cancels_the_call(*, stream: bool) -> None:
    async with both() as (rig, egress):
        egress.holds = True
        call = rig.front.stream("openai.chat", chat(stream=stream))
        asked = await egress.calls.get()
        call.cancel()
        assert await egress.cancelled.get() == asked.id
        egress.answer = GatewayError(ErrorCode.CANCELLED, "the caller has gone away")
        egress.finish(asked)
        with pytest.raises(GatewayError) as refused:
            await call.result()
        assert refused.value.code is ErrorCode.CANCELLED


async def test_an_egress_that_dies_is_unavailable() -> None:
    async with both() as (rig, egress):
        egress.holds = True
        for stream in (False, True):
            call = rig.front.stream("openai.chat", chat(stream=stream))
            await egress.calls.get()
            egress.end.close()
            with pytest.raises(GatewayError) as refused:
                await call.result()
            assert refused.value.code is ErrorCode.UNAVAILABLE
            await egress.meet(rig.links.channel)


async def test_models_are_those_of_egress_and_the_agent() -> None:
    async with both() as (rig, _):
        listed = await rig.front.call("openai.models")
        assert [model["id"] for model in listed["data"]] == ["openclaw", "gpt"]
        assert (await rig.front.call("openai.model", {"model": "gpt"})) == listed["data"][1]
        refused = await rig.front.refused("openai.model", {"model": "none"})
        assert (refused.code, refused.details["field"]) == (ErrorCode.NOT_FOUND, "model")
