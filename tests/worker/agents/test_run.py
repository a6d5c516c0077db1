import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import ErrorCode, GatewayError
from protocol.methods.chat import TextPart, ToolCallPart, ToolResultPart, Usage
from protocol.spawn import AgentSettings
from tests.worker.harness import ManualClock, catalogue_of, tool_context
from worker.agents import run as module
from worker.agents.model import (
    Finished,
    ModelEvent,
    ModelRequest,
    PromptMessage,
    TextDelta,
    ToolCall,
)
from worker.agents.run import AgentRun
from worker.agents.tool import Arguments, ToolContext, ToolResult
from worker.agents.tools import message
from worker.sessions.writes import Ending, NewMessage

ROUNDS, CALLS_MAX = 8, 32
BOUNDS = AgentSettings(max_rounds=ROUNDS, max_tool_calls=CALLS_MAX)
DONE = Finished(Usage(input=3, output=2), "stop")
CALLS = Finished(Usage(input=3, output=2), "tool_calls")


class Scripted:
    """Gives the next list of events at each call; an exception among them is raised."""

    name = "scripted"

    def __init__(self, *answers: list[ModelEvent | Exception]) -> None:
        self._answers = list(answers)
        self.requests: list[ModelRequest] = []
        self.closed = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        try:
            for event in answer:
                if isinstance(event, Exception):
                    raise event
                await asyncio.sleep(0)
                yield event
        finally:
            self.closed += 1


class PlusArguments(Arguments, frozen=True):
    a: int
    b: int = 1


class Plus:
    name = "plus"
    description = "Add."
    parameters = PlusArguments

    def __init__(self) -> None:
        self.hold: asyncio.Event | None = None
        self.entered = asyncio.Event()

    async def run(self, arguments: PlusArguments, context: ToolContext) -> ToolResult:
        self.entered.set()
        if self.hold is not None:
            await self.hold.wait()
        if arguments.a < 0:
            raise RuntimeError("secret")
        if arguments.a == 0:
            raise GatewayError(ErrorCode.FORBIDDEN, "zero is not yours")
        return ToolResult("9" * arguments.b)


class Audience:
    """Who follows a turn: its text, and what becomes of its tools."""

    def __init__(self, heard: list[str]) -> None:
        self.heard = heard
        self.tools: list[str] = []

    def text(self, text: str) -> None:
        self.heard.append(text)

    def tool_began(self, call: ToolCall) -> None:
        self.tools.append(f"{call.call_id} begins")

    def tool_ended(self, call: ToolCall, result: ToolResult) -> None:
        self.tools.append(f"{call.call_id} {'fails' if result.is_error else 'ends'}")


def agent(
    provider: Scripted,
    tool: Any = None,
    heard: list[str] | None = None,
    bounds: AgentSettings = BOUNDS,
    audience: Audience | None = None,
) -> AgentRun:
    prompt = [PromptMessage("user", (TextPart(text="hi"),))]
    context = tool_context(ManualClock())
    audience = audience or Audience(heard if heard is not None else [])
    return AgentRun(catalogue_of(provider, tool or Plus()), prompt, context, bounds, audience)


def shape(ending: Ending) -> list[tuple[Any, ...]]:
    """Role and parts in short, with stop reasons."""

    def short(row: NewMessage) -> tuple[Any, ...]:
        parts: list[str] = []
        for part in row.parts:
            match part:
                case TextPart():
                    parts.append(part.text)
                case ToolCallPart():
                    parts.append(f"{part.name}({part.arguments})#{part.call_id}")
                case ToolResultPart():
                    mark = "!" if part.is_error else ""
                    parts.append(f"#{part.call_id}{mark} {part.text}")
        return row.role, *parts, row.stop_reason

    assert_consistent(ending)
    return [short(row) for row in ending.rows]


def assert_consistent(ending: Ending) -> None:
    """Each tool call is followed by its result before anything else is said."""
    open_calls: list[str] = []
    for row in ending.rows:
        if row.role == "tool":
            (part,) = row.parts
            assert isinstance(part, ToolResultPart)
            assert open_calls.pop(0) == part.call_id
        else:
            assert open_calls == []
            open_calls = [part.call_id for part in row.parts if isinstance(part, ToolCallPart)]
    assert open_calls == []


async def test_plain_answer() -> None:
    heard: list[str] = []
    ending = await agent(Scripted([TextDelta("a"), TextDelta("b"), DONE]), heard=heard).execute()
    assert ending.state == "ok"
    assert heard == ["a", "b"]
    assert shape(ending) == [("assistant", "ab", "stop")]
    assert ending.usage == ending.rows[0].usage == Usage(input=3, output=2)
    assert ending.model == ending.rows[0].model == "scripted/test"


async def test_empty_answer_is_an_answer() -> None:
    ending = await agent(Scripted([DONE])).execute()
    assert (ending.state, shape(ending)) == ("ok", [("assistant", "stop")])


async def test_tools_are_run_and_told() -> None:
    provider = Scripted(
        [
            TextDelta("let me see"),
            ToolCall("1", "plus", '{"a":1}'),
            ToolCall("2", "plus", '{"a":1,"b":2}'),
            CALLS,
        ],
        [TextDelta("it is 9"), DONE],
    )
    ending = await agent(provider).execute()
    assert shape(ending) == [
        ("assistant", "let me see", 'plus({"a":1})#1', 'plus({"a":1,"b":2})#2', "tool_calls"),
        ("tool", "#1 9", None),
        ("tool", "#2 99", None),
        ("assistant", "it is 9", "stop"),
    ]
    assert ending.usage == Usage(input=6, output=4)
    told = provider.requests[1].messages
    assert [message.role for message in told] == ["user", "assistant", "tool", "tool"]
    (offered,) = provider.requests[0].tools
    assert (offered.name, offered.description) == ("plus", "Add.")
    assert "a" in str(offered.parameters)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (ToolCall("1", "absent", "{}"), "there is no tool 'absent'"),
        (ToolCall("1", "plus", "{"), "bad arguments: "),
        (ToolCall("1", "plus", '{"a":"x"}'), "bad arguments: Expected `int`"),
        (ToolCall("1", "plus", '{"a":1,"c":2}'), "bad arguments: Object contains unknown"),
        (ToolCall("1", "plus", "[" * 100_000), "bad arguments: "),
        (ToolCall("1", "plus", '{"a":-1}'), "the tool failed"),
        (ToolCall("1", "plus", '{"a":0}'), "zero is not yours"),
    ],
)
async def test_what_a_tool_cannot_do_is_told_to_the_model(
    call: ToolCall, text: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOOL_ARGUMENTS_CHARS_MAX", 200_000)
    ending = await agent(Scripted([call, CALLS], [DONE])).execute()
    assert ending.state == "ok"
    assert shape(ending)[1][1].startswith(f"#1! {text}")
    assert "secret" not in str(ending)
    assert "secret" not in capfd.readouterr().err


async def test_tool_output_is_bounded() -> None:
    call = ToolCall("1", "plus", '{"a":1,"b":1000000}')
    ending = await agent(Scripted([call, CALLS], [DONE])).execute()
    text = shape(ending)[1][1]
    assert text.endswith("[cut off here]")
    assert len(text) < module.TOOL_OUTPUT_CHARS_MAX + 50


async def test_tool_over_its_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOOL_SECONDS_MAX", 0.01)
    tool = Plus()
    tool.hold = asyncio.Event()
    ending = await agent(
        Scripted([ToolCall("1", "plus", '{"a":1}'), CALLS], [DONE]), tool
    ).execute()
    assert (ending.state, shape(ending)[1][1]) == ("ok", "#1! no answer within 0 s")


class Turns(Plus):
    """Tools that wait for each other: the second has to end before the first."""

    def __init__(self) -> None:
        super().__init__()
        self.second_ended = asyncio.Event()

    async def run(self, arguments: PlusArguments, context: ToolContext) -> ToolResult:
        if arguments.a == 1:
            await self.second_ended.wait()
        else:
            self.second_ended.set()
        return await super().run(arguments, context)


async def test_tools_of_one_answer_run_side_by_side_and_are_told_in_order() -> None:
    calls = [ToolCall("x", "plus", '{"a":1,"b":1}'), ToolCall("y", "plus", '{"a":2,"b":2}')]
    audience = Audience([])
    run = agent(Scripted([*calls, CALLS], [DONE]), Turns(), audience=audience)
    async with asyncio.timeout(5):
        ending = await run.execute()
    assert shape(ending)[1:3] == [("tool", "#x 9", None), ("tool", "#y 99", None)]
    assert audience.tools == ["x begins", "y begins", "y ends", "x ends"]


async def test_what_has_ended_at_an_abort_is_kept() -> None:
    calls = [ToolCall("x", "plus", '{"a":1}'), ToolCall("y", "plus", '{"a":-1}')]

    class Both(Audience):
        def tool_ended(self, call: ToolCall, result: ToolResult) -> None:
            super().tool_ended(call, result)
            task.cancel()

    class Never(Turns):
        async def run(self, arguments: PlusArguments, context: ToolContext) -> ToolResult:
            if arguments.a == 1:
                await asyncio.Event().wait()
            return await super().run(arguments, context)

    run = agent(Scripted([*calls, CALLS], [DONE]), Never(), audience=Both([]))
    task = asyncio.create_task(run.execute())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert shape(run.interrupted("stopped"))[1:] == [
        ("tool", "#x! cut off: stopped", None),
        ("tool", "#y! the tool failed", None),
    ]


async def test_tokens_are_bounded() -> None:
    provider = Scripted([ToolCall("1", "plus", '{"a":1}'), CALLS])
    ending = await agent(provider, bounds=AgentSettings(max_tokens=9)).execute()
    assert (ending.state, ending.error) == ("error", "the turn was stopped after 9 tokens")
    assert len(provider.requests) == 2


async def test_rounds_are_bounded() -> None:
    provider = Scripted([ToolCall("1", "plus", '{"a":1}'), CALLS])
    ending = await agent(provider).execute()
    assert (ending.state, len(provider.requests)) == ("error", ROUNDS)
    assert ending.error == "the turn was stopped after 8 rounds of tools"
    assert len(shape(ending)) == 2 * ROUNDS


async def test_tool_calls_are_bounded() -> None:
    calls: list[ModelEvent | Exception] = [
        ToolCall(str(number), "plus", '{"a":1}') for number in range(100)
    ]
    ending = await agent(Scripted([*calls, CALLS])).execute()
    assert ending.state == "error"
    assert len(ending.rows) == 1 + CALLS_MAX
    assert all("! not run: " in row[1] for row in shape(ending)[1:])


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("1", "plus", "x" * (module.TOOL_ARGUMENTS_CHARS_MAX + 1)),
        ToolCall("1", "x" * 129, "{}"),
        ToolCall("x" * 129, "plus", "{}"),
    ],
)
async def test_tool_calls_with_too_much_text_are_not_kept(call: ToolCall) -> None:
    ending = await agent(Scripted([call, CALLS])).execute()
    assert (ending.state, ending.rows) == ("error", ())


async def test_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OUTPUT_CHARS_MAX", 10)
    heard: list[str] = []
    provider = Scripted([TextDelta("1234567"), TextDelta("89012345"), TextDelta("never"), DONE])
    ending = await agent(provider, heard=heard).execute()
    assert (ending.state, "".join(heard)) == ("error", "1234567890")
    assert shape(ending) == [("assistant", "1234567890", "error")]
    assert provider.closed == 1


@pytest.mark.parametrize(
    ("failure", "error", "code"),
    [
        (
            GatewayError(ErrorCode.QUOTA_EXCEEDED, "no tokens left"),
            "no tokens left",
            "QUOTA_EXCEEDED",
        ),
        (RuntimeError("secret"), "internal error (reference ", "INTERNAL"),
    ],
)
async def test_failing_model_keeps_what_was_said(
    failure: Exception, error: str, code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    provider = Scripted([TextDelta("half an "), ToolCall("1", "plus", '{"a":1}'), failure])
    ending = await agent(provider).execute()
    assert ending.state == "error"
    assert str(ending.error).startswith(error)
    assert ending.error_code == code
    assert shape(ending)[0] == ("assistant", "half an ", 'plus({"a":1})#1', "error")
    assert shape(ending)[1][1].startswith("#1! not run: ")
    assert "secret" not in capfd.readouterr().err + str(ending)


async def test_answer_without_an_end_is_an_error() -> None:
    ending = await agent(Scripted([TextDelta("half")])).execute()
    assert (ending.state, ending.error) == ("error", "the model's answer broke off")
    assert shape(ending) == [("assistant", "half", "error")]


async def test_turn_over_its_time_is_an_error() -> None:
    tool = Plus()
    tool.hold = asyncio.Event()
    provider = Scripted([ToolCall("1", "plus", '{"a":1}'), CALLS])
    ending = await agent(provider, tool, bounds=AgentSettings(max_seconds=0.01)).execute()
    assert (ending.state, ending.error) == ("error", "the turn took longer than 0 s")
    assert ending.error_code == "TIMEOUT"
    assert shape(ending)[1][1].startswith("#1! cut off: ")


async def test_cancelled_turn_is_consistent() -> None:
    tool = Plus()
    tool.hold = asyncio.Event()
    calls = [ToolCall("1", "plus", '{"a":1}'), ToolCall("2", "plus", '{"a":1}')]
    run = agent(Scripted([TextDelta("wait"), *calls, CALLS]), tool)
    task = asyncio.create_task(run.execute())
    await tool.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ending = run.interrupted("stopped")
    assert (ending.state, ending.error) == ("interrupted", "stopped")
    assert shape(ending)[1:] == [
        ("tool", "#1! cut off: stopped", None),
        ("tool", "#2! cut off: stopped", None),
    ]


async def test_calls_without_a_number_of_their_own_get_one() -> None:
    calls = [ToolCall("", "plus", '{"a":1}'), ToolCall("", "plus", '{"a":1}')]
    provider = Scripted([*calls, CALLS], [ToolCall("x", "plus", '{"a":1}'), CALLS], [DONE])
    ending = await agent(provider).execute()
    assert_consistent(ending)
    parts = [part for row in ending.rows for part in row.parts if isinstance(part, ToolCallPart)]
    numbers = {part.call_id for part in parts}
    assert (len(numbers), "" in numbers) == (3, False)


async def test_no_more_run_side_by_side_than_may_and_the_rest_is_not_begun() -> None:
    tool, audience = Plus(), Audience([])
    tool.hold = asyncio.Event()
    calls = [ToolCall(str(number), "plus", '{"a":1}') for number in range(6)]
    run = agent(Scripted([*calls, CALLS]), tool, audience=audience)
    task = asyncio.create_task(run.execute())
    await tool.entered.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    said = [row[1] for row in shape(run.interrupted("stopped"))[1:]]
    assert said == [
        *(f"#{number}! cut off: stopped" for number in range(4)),
        *(f"#{number}! not run: stopped" for number in (4, 5)),
    ]
    begun = {line.split()[0] for line in audience.tools if line.endswith("begins")}
    assert begun == {line.split()[0] for line in audience.tools if line.endswith("fails")}


async def test_a_message_goes_where_the_reply_goes_and_has_a_row() -> None:
    heard: list[str] = []
    provider = Scripted(
        [ToolCall("1", "message", '{"text":"half way"}'), CALLS], [TextDelta("there"), DONE]
    )
    ending = await agent(provider, message.TOOL, heard).execute()
    assert shape(ending)[1:] == [
        ("tool", "#1 sent", None),
        ("assistant", "half way", "message"),
        ("assistant", "there", "stop"),
    ]
    assert "".join(heard) == "half way\n\nthere"
    assert [each.role for each in provider.requests[1].messages] == ["user", "assistant", "tool"]
    many = [ToolCall(str(number), "message", '{"text":"x"}') for number in range(20)]
    ending = await agent(Scripted([*many, CALLS], [DONE]), message.TOOL).execute()
    sent = [row for row in ending.rows if row.stop_reason == "message"]
    assert len(sent) == module.MESSAGES_SENT_MAX


async def test_what_is_left_of_the_tokens_bounds_the_answer() -> None:
    provider = Scripted([ToolCall("1", "plus", '{"a":1}'), CALLS])
    ending = await agent(provider, bounds=AgentSettings(max_tokens=12)).execute()
    assert [request.max_tokens for request in provider.requests] == [12, 7, 2]
    assert_consistent(ending)


def test_modules_of_the_folders_are_the_catalogue() -> None:
    from worker.agents import catalogue, tools

    def modules(package: Any) -> set[str]:
        (folder,) = package.__path__
        return {path.stem for path in Path(folder).glob("*.py")} - {"__init__"}

    assert (
        modules(tools)
        == set(catalogue.CATALOGUE.tools)
        == {
            *("clock", "edit", "exec", "fetch", "list", "message", "read", "write"),
        }
    )


def test_two_of_one_name_stop_the_start() -> None:
    from worker.agents import catalogue

    with pytest.raises(ValueError, match="two are called 'plus'"):
        catalogue._named(iter([Plus(), Plus()]))
