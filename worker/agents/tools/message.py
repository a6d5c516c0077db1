"""The tool `message`: say something to whoever follows the turn, before it has ended.

It goes where the turn's answer goes, and nowhere else: there is no destination to name.
"""

from typing import Annotated, Final

import msgspec

from worker.agents.tool import Arguments, ToolContext, ToolResult

TEXT_CHARS_MAX: Final = 4000


class MessageArguments(Arguments, frozen=True):
    """What is said."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_CHARS_MAX)]


class MessageTool:
    """See the module."""

    name: Final = "message"
    description: Final = (
        "Tell the user something now, while you go on working. It goes into this conversation."
    )
    parameters: Final = MessageArguments

    async def run(self, arguments: MessageArguments, context: ToolContext) -> ToolResult:
        """See `Tool`."""
        context.say(arguments.text)
        return ToolResult("sent")


TOOL: Final = MessageTool()
