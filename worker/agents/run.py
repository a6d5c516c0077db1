"""One turn: the model answers, has tools run, is told what they said, and answers again.

Whatever happens, the rows that come out are a consistent transcript: each tool call is followed by
its result, and text that was cut off is kept and marked.
"""

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final, Protocol

import msgspec

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from protocol.methods.chat import Part, TextPart, ToolCallPart, ToolResultPart, Usage
from protocol.methods.sessions import RunStatus
from protocol.spawn import AgentSettings
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
from worker.agents.window import fitted, tokens_of_tools
from worker.sessions.writes import SENT, Ending, NewMessage

# Of one answer, that run side by side.
TOOLS_AT_ONCE: Final = 4
# A model that says back what it was sent must not be cut off.
OUTPUT_CHARS_MAX: Final = limits.MESSAGE_CHARS_MAX + 4 * limits.KIB
TOOL_OUTPUT_CHARS_MAX: Final = 64 * 1024
TOOL_ARGUMENTS_CHARS_MAX: Final = limits.MESSAGE_CHARS_MAX
TOOL_NAME_CHARS_MAX: Final = 128
TOOL_SECONDS_MAX: Final = 60.0
MESSAGES_SENT_MAX: Final = 16
# When less than this is left of a turn's tokens, it bounds the answer.
ANSWER_TOKENS_LEFT: Final = 16_384


class Audience(Protocol):
    """Who is told of a turn while it runs."""

    def text(self, text: str) -> None:
        """Text is added to the answer."""

    def tool_began(self, call: ToolCall) -> None:
        """A tool begins to run."""

    def tool_ended(self, call: ToolCall, result: ToolResult) -> None:
        """It has ended."""


class _StoppedError(Exception):
    """The turn has to end here; the text says why, for the user."""


class AgentRun:
    """One turn of an agent.

    Args:
        catalogue: The model and the tools.
        prompt: The conversation so far; its last message is the one to answer.
        context: On whose behalf tools run.
        settings: The bounds of the turn. They are fixed here: nothing that a model or a tool says
            changes them, or which tools there are.
        audience: Told of it as it goes on.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        prompt: Sequence[PromptMessage],
        context: ToolContext,
        settings: AgentSettings,
        audience: Audience,
    ) -> None:
        self._catalogue: Final = catalogue
        self._messages: Final = list(prompt)
        self._newest: Final = len(self._messages) - 1
        self._context: Final = context._replace(say=self._say)
        self._settings: Final = settings
        self._audience: Final = audience
        self._window: int | None = None
        self._tools: Final = tuple(describe(tool) for tool in catalogue.tools.values())
        self._rows: list[NewMessage] = []
        # The answer that comes in now.
        self._text: list[str] = []
        self._calls: list[ToolCall] = []
        self._finished: Finished | None = None
        # Calls that are in a row, and whose results are not.
        self._unanswered: list[ToolCall] = []
        self._begun: set[int] = set()
        self._results: dict[int, ToolResult] = {}
        self._call_ids: set[str] = set()
        self._said: list[str] = []
        self._usage = Usage(input=0, output=0)
        self._output_chars = self._tool_calls = self._messages_sent = 0

    async def execute(self) -> Ending:
        """Run the turn to its end. Only raises when cancelled; then ask `interrupted`."""
        bounds = self._settings
        try:
            async with asyncio.timeout(bounds.max_seconds):
                self._window = await self._catalogue.window()
                for _ in range(bounds.max_rounds):
                    await self._ask_model()
                    if not self._calls:
                        self._close("stop", "")
                        return self._ending("ok", None)
                    await self._run_tools()
            return self._failed(f"the turn was stopped after {bounds.max_rounds} rounds of tools")
        except TimeoutError:
            why = f"the turn took longer than {bounds.max_seconds:.0f} s"
            return self._failed(why, ErrorCode.TIMEOUT)
        except _StoppedError as stop:
            return self._failed(str(stop))
        except GatewayError as error:
            return self._failed(error.message, error.code)._replace(refusal=error)
        except Exception as error:  # noqa: BLE001 - a provider may fail in any way
            memory.end_if_exhausted(error)
            reference = uuid.uuid4().hex
            log.failure("turn failed", error, reference=reference, run=self._context.run_id)
            return self._failed(f"internal error (reference {reference})", ErrorCode.INTERNAL)

    def interrupted(self, reason: str) -> Ending:
        """Give the end of a turn that was cancelled, with what there is of it."""
        self._close("aborted", reason)
        return self._ending("interrupted", reason)

    async def _ask_model(self) -> None:
        async with aclosing(self._catalogue.provider.stream(self._request())) as events:
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
        self._usage = total(self._usage, self._finished.usage)

    def _request(self) -> ModelRequest:
        left = self._settings.max_tokens - self._usage.input - self._usage.output
        if left <= 0:
            raise _StoppedError(f"the turn was stopped after {self._settings.max_tokens} tokens")
        return ModelRequest(
            self._catalogue.model,
            fitted(self._messages, self._newest, self._window, tokens_of_tools(self._tools)),
            self._tools,
            self._context.run_id,
            self._context.session_key,
            left if left < ANSWER_TOKENS_LEFT else None,
        )

    def _take_text(self, text: str) -> None:
        room = OUTPUT_CHARS_MAX - self._output_chars
        kept = text[:room]
        self._output_chars += len(kept)
        if kept:
            self._text.append(kept)
            self._audience.text(kept)
        if len(text) > room:
            raise _StoppedError(f"the answer was cut off at {OUTPUT_CHARS_MAX} characters")

    def _take_call(self, call: ToolCall) -> None:
        self._tool_calls += 1
        most = self._settings.max_tool_calls
        if self._tool_calls > most:
            raise _StoppedError(f"the turn was stopped after {most} tool calls")
        sizes = (len(call.arguments), len(call.name), len(call.call_id))
        bounds = (TOOL_ARGUMENTS_CHARS_MAX, TOOL_NAME_CHARS_MAX, TOOL_NAME_CHARS_MAX)
        if any(size > bound for size, bound in zip(sizes, bounds, strict=True)):
            raise _StoppedError("the model asked for a tool with too much text")
        if not call.call_id or call.call_id in self._call_ids:
            # Some servers number none, or each answer's anew; then nobody knows whose a result is.
            call = call._replace(call_id=f"call_{uuid.uuid4().hex}")
        self._call_ids.add(call.call_id)
        self._calls.append(call)

    async def _run_tools(self) -> None:
        self._add_answer("tool_calls")
        gate = asyncio.Semaphore(TOOLS_AT_ONCE)

        async def run(place: int, call: ToolCall) -> None:
            async with gate:
                self._begun.add(place)
                self._audience.tool_began(call)
                result = await self._run_tool(call)
                self._results[place] = result
                self._audience.tool_ended(call, result)

        async with asyncio.TaskGroup() as running:
            for place, call in enumerate(self._unanswered):
                running.create_task(run(place, call))
        self._add_results("")

    def _say(self, text: str) -> None:
        if self._messages_sent == MESSAGES_SENT_MAX:
            message = f"{MESSAGES_SENT_MAX} messages were sent in this turn already"
            raise GatewayError(ErrorCode.RATE_LIMITED, message)
        self._messages_sent += 1
        self._said.append(text)
        self._audience.text(f"{text}\n\n")

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
        self._unanswered = self._calls
        self._text, self._calls, self._finished = [], [], None
        self._add_row(
            NewMessage(str(uuid.uuid4()), "assistant", tuple(parts), model, usage, stop_reason)
        )

    def _add_results(self, why: str) -> None:
        """Write down what each call has come to, in the order in which they were made."""
        calls, results = self._unanswered, self._results
        self._unanswered, self._results = [], {}
        for place, call in enumerate(calls):
            result = results.get(place)
            if result is None:
                word = "cut off" if place in self._begun else "not run"
                result = ToolResult(f"{word}: {why}", is_error=True)
                if place in self._begun:
                    self._audience.tool_ended(call, result)
            self._add_result(call, result)
        self._begun.clear()
        said, self._said = self._said, []
        for text in said:
            # No part of the prompt: the call has told it.
            part = TextPart(text=text)
            self._rows.append(NewMessage(str(uuid.uuid4()), "assistant", (part,), stop_reason=SENT))

    def _add_result(self, call: ToolCall, result: ToolResult) -> None:
        text = result.text
        if len(text) > TOOL_OUTPUT_CHARS_MAX:
            text = f"{text[:TOOL_OUTPUT_CHARS_MAX]}\n[cut off here]"
        part = ToolResultPart(
            call_id=call.call_id, name=call.name, text=text, is_error=result.is_error
        )
        self._add_row(NewMessage(str(uuid.uuid4()), "tool", (part,)))

    def _close(self, stop_reason: str, why: str) -> None:
        """Write down what there is of the present answer; calls without a result get one."""
        self._add_results(why)
        if self._finished is not None and not self._calls:
            stop_reason = self._finished.stop_reason
        if self._text or self._calls or self._finished is not None:
            self._add_answer(stop_reason)
        self._add_results(why)

    def _failed(self, why: str, code: ErrorCode | None = None) -> Ending:
        self._close("error", why)
        return self._ending("error", why, code)

    def _ending(self, state: RunStatus, error: str | None, code: ErrorCode | None = None) -> Ending:
        return Ending(
            state,
            tuple(self._rows),
            self._usage,
            error,
            self._catalogue.model,
            error_code=None if code is None else code.name,
        )


def describe(tool: Tool) -> ToolDescription:
    """Give what a model is told of a tool."""
    return ToolDescription(tool.name, tool.description, msgspec.json.schema(tool.parameters))


def total(first: Usage, second: Usage) -> Usage:
    """Give two usages together."""
    return Usage(
        **{name: getattr(first, name) + getattr(second, name) for name in Usage.__struct_fields__}
    )
