"""One turn: the model answers, has tools run, is told what they said, and answers again.

Whatever happens, the rows that come out are a consistent transcript: each tool call is followed by
its result, and text that was cut off is kept and marked.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from protocol import limits
from protocol.errors import GatewayError
from protocol.methods.chat import Part, TextPart, ToolCallPart, ToolResultPart, Usage
from protocol.methods.sessions import RunStatus
from worker import log, memory
from worker.agents.catalogue import Catalogue
from worker.agents.model import (
    Finished,
    ModelRequest,
    PromptMessage,
    TextDelta,
    ToolCall,
    ToolDescription,
)
from worker.agents.tool import Tool, ToolContext, ToolResult
from worker.sessions.writes import Ending, NewMessage

ROUNDS_MAX: Final = 8
TOOL_CALLS_MAX: Final = 32
# A model that says back what it was sent must not be cut off.
OUTPUT_CHARS_MAX: Final = limits.MESSAGE_CHARS_MAX + 4 * limits.KIB
TOOL_OUTPUT_CHARS_MAX: Final = 64 * 1024
TOOL_ARGUMENTS_CHARS_MAX: Final = 64 * 1024
TOOL_NAME_CHARS_MAX: Final = 128
TOOL_SECONDS_MAX: Final = 60.0
TURN_SECONDS_MAX: Final = 600.0

OnText = Callable[[str], None]


class _StoppedError(Exception):
    """The turn has to end here; the text says why, for the user."""


class AgentRun:
    """One turn of an agent.

    Args:
        catalogue: The model and the tools.
        prompt: The conversation so far; its last message is the one to answer.
        context: On whose behalf tools run.
        on_text: Told each piece of the answer's text as it comes.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        prompt: Sequence[PromptMessage],
        context: ToolContext,
        on_text: OnText,
    ) -> None:
        self._catalogue: Final = catalogue
        self._messages: Final = list(prompt)
        self._context: Final = context
        self._on_text: Final = on_text
        self._tools: Final = tuple(describe(tool) for tool in catalogue.tools.values())
        self._rows: list[NewMessage] = []
        # The answer that comes in now.
        self._text: list[str] = []
        self._calls: list[ToolCall] = []
        self._finished: Finished | None = None
        # Calls that are in a row, and whose results are not.
        self._unanswered: list[ToolCall] = []
        self._usage = Usage(input=0, output=0)
        self._output_chars = self._tool_calls = 0

    async def execute(self) -> Ending:
        """Run the turn to its end. Only raises when cancelled; then ask `interrupted`."""
        try:
            async with asyncio.timeout(TURN_SECONDS_MAX):
                for _ in range(ROUNDS_MAX):
                    await self._ask_model()
                    if not self._calls:
                        self._close("stop", "")
                        return self._ending("ok", None)
                    await self._run_tools()
            return self._failed(f"the turn was stopped after {ROUNDS_MAX} rounds of tools")
        except TimeoutError:
            return self._failed(f"the turn took longer than {TURN_SECONDS_MAX:.0f} s")
        except _StoppedError as stop:
            return self._failed(str(stop))
        except GatewayError as error:
            return self._failed(error.message)
        except Exception as error:  # noqa: BLE001 - a provider may fail in any way
            memory.end_if_exhausted(error)
            reference = uuid.uuid4().hex
            log.failure("turn failed", error, reference=reference, run=self._context.run_id)
            return self._failed(f"internal error (reference {reference})")

    def interrupted(self, reason: str) -> Ending:
        """Give the end of a turn that was cancelled, with what there is of it."""
        self._close("aborted", reason)
        return self._ending("interrupted", reason)

    async def _ask_model(self) -> None:
        request = ModelRequest(self._catalogue.model, tuple(self._messages), self._tools)
        async with aclosing(self._catalogue.provider.stream(request)) as events:
            async for event in events:
                match event:
                    case TextDelta():
                        self._take_text(event.text)
                    case ToolCall():
                        self._take_call(event)
                    case Finished():
                        self._finished = event
        if self._finished is None:
            raise _StoppedError("the model's answer broke off")
        spent = self._finished.usage
        self._usage = Usage(
            input=self._usage.input + spent.input, output=self._usage.output + spent.output
        )

    def _take_text(self, text: str) -> None:
        room = OUTPUT_CHARS_MAX - self._output_chars
        kept = text[:room]
        self._output_chars += len(kept)
        if kept:
            self._text.append(kept)
            self._on_text(kept)
        if len(text) > room:
            raise _StoppedError(f"the answer was cut off at {OUTPUT_CHARS_MAX} characters")

    def _take_call(self, call: ToolCall) -> None:
        self._tool_calls += 1
        if self._tool_calls > TOOL_CALLS_MAX:
            raise _StoppedError(f"the turn was stopped after {TOOL_CALLS_MAX} tool calls")
        sizes = (len(call.arguments), len(call.name), len(call.call_id))
        bounds = (TOOL_ARGUMENTS_CHARS_MAX, TOOL_NAME_CHARS_MAX, TOOL_NAME_CHARS_MAX)
        if any(size > bound for size, bound in zip(sizes, bounds, strict=True)):
            raise _StoppedError("the model asked for a tool with too much text")
        self._calls.append(call)

    async def _run_tools(self) -> None:
        self._add_answer("tool_calls")
        while self._unanswered:
            self._add_result(await self._run_tool(self._unanswered[0]))

    async def _run_tool(self, call: ToolCall) -> ToolResult:
        tool = self._catalogue.tools.get(call.name)
        if tool is None:
            return ToolResult(f"there is no tool {call.name!r}", is_error=True)
        try:
            arguments = msgspec.json.decode(call.arguments, type=tool.parameters)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return ToolResult(f"bad arguments: {error}", is_error=True)
        try:
            async with asyncio.timeout(TOOL_SECONDS_MAX):
                return await tool.run(arguments, self._context)
        except TimeoutError:
            return ToolResult(f"no answer within {TOOL_SECONDS_MAX:.0f} s", is_error=True)
        except GatewayError as error:
            return ToolResult(error.message, is_error=True)
        except Exception as error:  # noqa: BLE001 - a tool may fail in any way
            memory.end_if_exhausted(error)
            log.failure("tool failed", error, tool=call.name, run=self._context.run_id)
            return ToolResult("the tool failed", is_error=True)

    # Rows.

    def _add_row(self, row: NewMessage) -> None:
        self._rows.append(row)
        self._messages.append(PromptMessage(row.role, row.parts))

    def _add_answer(self, stop_reason: str) -> None:
        parts: list[Part] = []
        if self._text:
            parts.append(TextPart(text="".join(self._text)))
        parts += [
            ToolCallPart(call_id=call.call_id, name=call.name, arguments=call.arguments)
            for call in self._calls
        ]
        usage = self._finished.usage if self._finished else None
        model = self._catalogue.model
        self._unanswered += self._calls
        self._text, self._calls, self._finished = [], [], None
        self._add_row(
            NewMessage(str(uuid.uuid4()), "assistant", tuple(parts), model, usage, stop_reason)
        )

    def _add_result(self, result: ToolResult) -> None:
        call = self._unanswered.pop(0)
        text = result.text
        if len(text) > TOOL_OUTPUT_CHARS_MAX:
            text = f"{text[:TOOL_OUTPUT_CHARS_MAX]}\n[cut off here]"
        part = ToolResultPart(
            call_id=call.call_id, name=call.name, text=text, is_error=result.is_error
        )
        self._add_row(NewMessage(str(uuid.uuid4()), "tool", (part,)))

    def _close(self, stop_reason: str, why: str) -> None:
        """Write down what there is of the present answer; calls without a result get one."""
        if self._finished is not None and not self._calls:
            stop_reason = self._finished.stop_reason
        if self._text or self._calls or self._finished is not None:
            self._add_answer(stop_reason)
        while self._unanswered:
            self._add_result(ToolResult(f"not run: {why}", is_error=True))

    def _failed(self, why: str) -> Ending:
        self._close("error", why)
        return self._ending("error", why)

    def _ending(self, state: RunStatus, error: str | None) -> Ending:
        return Ending(state, tuple(self._rows), self._usage, error, self._catalogue.model)


def describe(tool: Tool) -> ToolDescription:
    """Give what a model is told of a tool."""
    return ToolDescription(tool.name, tool.description, msgspec.json.schema(tool.parameters))
