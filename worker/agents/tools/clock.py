"""The tool `clock`: what time it is."""

import time
from typing import Final

from worker.agents.tool import Arguments, ToolContext, ToolResult


class ClockArguments(Arguments, frozen=True):
    """None."""


class ClockTool:
    """Tells the time in UTC, as RFC 3339 writes it (https://www.rfc-editor.org/rfc/rfc3339)."""

    name: Final = "clock"
    description: Final = "Tell the present date and time in UTC."
    parameters: Final = ClockArguments

    async def run(self, arguments: ClockArguments, context: ToolContext) -> ToolResult:
        """See `Tool`."""
        seconds = context.means.clock.now_ms() // 1000
        return ToolResult(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)))


TOOL: Final = ClockTool()
