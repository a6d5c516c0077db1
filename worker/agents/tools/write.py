"""The tool `write`: a text file in the agent's workspace, as a whole."""

from typing import Final

from protocol.launching import DEFAULT_NAME, SandboxName
from worker.agents.tool import Arguments, ToolContext, ToolResult
from worker.agents.workspace import Path, parts_of_file, put


class WriteArguments(Arguments, frozen=True):
    """Which file, and all that is to be in it."""

    path: Path
    content: str
    name: SandboxName = DEFAULT_NAME


class WriteTool:
    """See the module."""

    name: Final = "write"
    description: Final = (
        "Write a text file in /work as a whole; directories are made, what was there is replaced."
    )
    parameters: Final = WriteArguments

    async def run(self, arguments: WriteArguments, context: ToolContext) -> ToolResult:
        """See `Tool`."""
        parts = parts_of_file(arguments.path)
        context.means.gate.check()
        status = await context.means.files.run(
            arguments.name, lambda root: put(root, parts, arguments.content), make=True
        )
        return ToolResult(f"written: {status.st_size} bytes")


TOOL: Final = WriteTool()
