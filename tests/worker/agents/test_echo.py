import math

from hypothesis import given
from hypothesis import strategies as st

from protocol.methods.chat import Part, Role, TextPart, ToolCallPart, ToolResultPart, Usage
from supervisor.egress.providers.echo import PIECES_MAX, pieces, tokens
from tests.worker.harness import ManualClock, tool_context
from tests.workers.echo import EchoProvider
from worker.agents.catalogue import CATALOGUE
from worker.agents.model import (
    Finished,
    ModelEvent,
    ModelRequest,
    PromptMessage,
    TextDelta,
    ToolCall,
)
from worker.agents.run import describe
from worker.agents.tools.clock import TOOL, ClockArguments


def message(role: Role, *parts: Part) -> PromptMessage:
    return PromptMessage(role, parts)


def said(text: str) -> PromptMessage:
    return message("user", TextPart(text=text))


async def answer(
    *messages: PromptMessage, model: str = "builtin/echo", with_tools: bool = True
) -> list[ModelEvent]:
    tools = tuple(describe(tool) for tool in CATALOGUE.tools.values()) if with_tools else ()
    return [event async for event in EchoProvider().stream(ModelRequest(model, messages, tools))]


async def test_says_what_it_was_told_in_pieces() -> None:
    events = await answer(said("what is it?"))
    assert events == [
        TextDelta("echo: "),
        TextDelta("what "),
        TextDelta("is "),
        TextDelta("it?"),
        Finished(Usage(input=3, output=5), "stop"),
    ]
    assert await answer(said("what is it?")) == events


async def test_counts_every_message_and_bytes_not_characters() -> None:
    events = await answer(said("ééé"), message("assistant", TextPart(text="1234")), said("ab"))
    assert events[-1] == Finished(Usage(input=3, output=2), "stop")
    assert tokens([]) == 0
    assert tokens(["a", "b"]) == 1


async def test_time_calls_the_clock_and_says_what_it_said() -> None:
    call, finished = await answer(said(" /time\n"))
    assert isinstance(call, ToolCall)
    assert (call.name, call.arguments) == ("clock", "{}")
    assert isinstance(finished, Finished)
    assert finished.stop_reason == "tool_calls"
    asked = message("assistant", ToolCallPart(call_id="c", name="clock", arguments="{}"))
    told = message("tool", ToolResultPart(call_id="c", name="clock", text="noon"))
    assert (await answer(said("/time"), asked, told))[:-1] == [TextDelta("noon")]


async def test_without_the_tool_a_command_is_text() -> None:
    assert (await answer(said("/time"), with_tools=False))[1] == TextDelta("/time")


@given(st.text())
def test_pieces_are_the_text(text: str) -> None:
    parts = pieces(text)
    assert "".join(parts) == text
    assert all(parts)
    assert len(parts) <= PIECES_MAX


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_tokens_are_four_bytes(texts: list[str]) -> None:
    assert tokens(texts) == math.ceil(len("".join(texts).encode()) / 4)


async def test_clock_tells_the_time_it_is_given() -> None:
    context = tool_context(ManualClock(1_700_000_000_999))
    result = await TOOL.run(ClockArguments(), context)
    assert result.text == "2023-11-14T22:13:20Z"
    assert not result.is_error
