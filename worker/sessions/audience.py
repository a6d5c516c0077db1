"""Those who follow one turn: who waits for its text, and who listens to events."""

from typing import Final

from protocol.methods.events import ToolProgress
from worker.agents.model import ToolCall
from worker.agents.tool import ToolResult
from worker.events.turn import TurnEvents
from worker.sessions.feed import Feed

# What is shown of a tool's arguments and of what it said.
PREVIEW_CHARS: Final = 1000


class Audience:
    """Implements `worker.agents.run.Audience`."""

    def __init__(self, feed: Feed, told: TurnEvents) -> None:
        self._feed: Final = feed
        self._told: Final = told

    def text(self, text: str) -> None:
        """Text is added to the answer."""
        self._feed.add(text)
        self._told.text(text)

    def tool_began(self, call: ToolCall) -> None:
        """A tool begins to run."""
        self._tool(
            ToolProgress(
                phase="start",
                name=call.name,
                tool_call_id=call.call_id,
                arguments=call.arguments[:PREVIEW_CHARS],
            )
        )

    def tool_ended(self, call: ToolCall, result: ToolResult) -> None:
        """It has ended."""
        self._tool(
            ToolProgress(
                phase="result",
                name=call.name,
                tool_call_id=call.call_id,
                output=result.text[:PREVIEW_CHARS],
                is_error=result.is_error,
            )
        )

    def _tool(self, progress: ToolProgress) -> None:
        self._feed.tool(progress)
        self._told.tool(progress)
