"""Those who follow one turn: who waits for its text, and who listens to events."""

from typing import Final

from worker.agents.model import ToolCall
from worker.agents.tool import ToolResult
from worker.events.turn import TurnEvents
from worker.sessions.feed import Feed


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
        self._told.tool(call)

    def tool_ended(self, call: ToolCall, result: ToolResult) -> None:
        """It has ended."""
        self._told.tool(call, result)
