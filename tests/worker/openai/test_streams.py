"""What is streamed, as OpenAI's own client reads it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from protocol import limits
from protocol.models import AskedTool, ModelAnswer, ModelPiece, Spent, ToolPiece
from worker.openai.bodies import ResponseBody
from worker.openai.chat import Chunks
from worker.openai.outlet import Outlet, Writer
from worker.openai.response_events import Events
from worker.openai.response_shape import ResponseShape

SPENT = Spent(input=5, cache_read=3, output=7, reasoning=2)
ANSWER = ModelAnswer(model="m", stop_reason="stop", spent=SPENT, cost_micro_usd=1)
_event: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class Stream:
    """A stream that takes so many chunks, and puts the parts of one together again."""

    def __init__(self, credit: int = 2**30) -> None:
        self.on_credit: Callable[[], None] | None = None
        self.credit = credit
        self.sent: list[bytes] = []
        self._goes_on = False

    def send(self, chunk: bytes, *, goes_on: bool = False) -> None:
        assert self.credit > 0
        assert len(chunk) <= limits.CHUNK_BYTES_MAX
        self.credit -= 1
        if self._goes_on:
            self.sent[-1] += chunk
        else:
            self.sent.append(chunk)
        self._goes_on = goes_on

    def grant(self, count: int) -> None:
        self.credit += count
        assert self.on_credit is not None
        self.on_credit()

    @property
    def json(self) -> list[Any]:
        return [msgspec.json.decode(chunk) for chunk in self.sent]


async def played(writer: Writer, pieces: list[ModelPiece], answer: ModelAnswer) -> list[Any]:
    stream = Stream()
    outlet = Outlet(stream, writer)
    for piece in pieces:
        outlet.take(msgspec.json.encode(piece))
    await outlet.finish(answer)
    return stream.json


async def test_chunks_of_a_chat_completion() -> None:
    pieces = [
        ModelPiece(reasoning="hm"),
        ModelPiece(text='He"l'),
        ModelPiece(text="lo"),
        ModelPiece(tools=(ToolPiece(0, "c1", "f", ""),)),
        ModelPiece(tools=(ToolPiece(0, arguments='{"a"'), ToolPiece(1, "c2", "g", "{}"))),
    ]
    answer = msgspec.structs.replace(ANSWER, stop_reason="tool_calls")
    said = await played(Chunks("chatcmpl-1", 17, "m", with_usage=True), pieces, answer)
    chunks = [ChatCompletionChunk.model_validate(chunk) for chunk in said]
    assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {("chatcmpl-1", 17, "m")}
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert [delta.role for delta in deltas] == ["assistant", *[None] * 5]
    assert "".join(delta.content or "" for delta in deltas) == 'He"llo'
    assert said[0]["choices"][0]["delta"]["reasoning_content"] == "hm"
    assert said[3]["choices"][0]["delta"]["tool_calls"] == [
        {"index": 0, "id": "c1", "type": "function", "function": {"arguments": "", "name": "f"}}
    ]
    assert said[4]["choices"][0]["delta"]["tool_calls"][0] == {
        "index": 0,
        "function": {"arguments": '{"a"'},
    }
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [*[None] * 5, "tool_calls"]
    assert all(chunk["usage"] is None for chunk in said[:-1])
    assert chunks[-1].choices == []
    assert said[-1]["usage"] == {
        "prompt_tokens": 8,
        "completion_tokens": 9,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


async def test_an_empty_answer_is_a_role_and_a_reason() -> None:
    said = await played(Chunks("x", 1, "m", with_usage=False), [], ANSWER)
    assert [chunk["choices"][0]["delta"] for chunk in said] == [
        {"role": "assistant", "content": ""},
        {},
    ]
    assert all("usage" not in chunk for chunk in said)


async def test_events_of_a_response() -> None:
    pieces = [
        ModelPiece(reasoning="hm"),
        ModelPiece(text="Hel"),
        ModelPiece(text="lo"),
        ModelPiece(tools=(ToolPiece(0, "c1", "f", '{"a"'),)),
        ModelPiece(tools=(ToolPiece(0, arguments=":1}"),)),
    ]
    body = ResponseBody(model="m", input="hi")
    said = await played(Events(ResponseShape(body, 17)), pieces, ANSWER)
    events = [_event.validate_python(event) for event in said]
    assert [event["type"].removeprefix("response.") for event in said] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in said] == list(range(15))
    whole: Response = events[-1].response
    assert whole.output_text == "Hello"
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (8, 9)
    assert said[-1]["response"]["output"][1]["arguments"] == '{"a":1}'
    assert {event["item_id"] for event in said if "delta" in event} == {
        item["id"] for item in said[-1]["response"]["output"]
    }


@pytest.mark.parametrize(
    ("reason", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_a_response_that_was_cut_off_is_incomplete(reason: Any, why: str) -> None:
    asked = (AskedTool(id="c", name="f", arguments="{}"),)
    answer = msgspec.structs.replace(ANSWER, stop_reason=reason, text="Hel", tool_calls=asked)
    shown = ResponseShape(ResponseBody(model="m", input="hi"), 17).whole(answer)
    whole = Response.model_validate(msgspec.json.decode(msgspec.json.encode(shown)))
    assert whole.status == "incomplete"
    assert shown["incomplete_details"] == {"reason": why}
    assert [item.type for item in whole.output] == ["message", "function_call"]


async def test_what_does_not_fit_a_chunk_goes_on_in_the_next() -> None:
    text = "é" * limits.CHUNK_BYTES_MAX
    said = await played(
        Events(ResponseShape(ResponseBody(model="m", input=""), 1)), [ModelPiece(text=text)], ANSWER
    )
    assert said[-1]["response"]["output"][0]["content"][0]["text"] == text


async def test_no_more_is_let_come_than_is_taken() -> None:
    stream, granted = Stream(credit=0), list[int]()
    outlet = Outlet(stream, Chunks("x", 1, "m", with_usage=False), granted.append)
    for _ in range(limits.STREAM_CREDIT_INITIAL):
        outlet.add(ModelPiece(text="a"))
    assert not stream.sent
    assert not granted
    stream.grant(limits.STREAM_CREDIT_INITIAL - 1)
    assert granted == []
    stream.grant(1)
    assert granted == [limits.STREAM_CREDIT_INITIAL]
    assert len(stream.sent) == limits.STREAM_CREDIT_INITIAL
