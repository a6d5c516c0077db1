"""The tool `edit`: other text in the place of some, in a file of the agent's workspace."""

from typing import Annotated, Final

import msgspec

from protocol.launching import DEFAULT_NAME, SandboxName
from worker.agents.tool import Arguments, ToolContext, ToolResult
from worker.agents.workspace import Path, parts_of_file, put, text_of


class EditArguments(Arguments, frozen=True):
    """Which file; the text that is there, exactly; what is to be there instead."""

    path: Path
    old: Annotated[str, msgspec.Meta(min_length=1)]
    new: str
    everywhere: bool = False
    name: SandboxName = DEFAULT_NAME


class EditTool:
    """See the module."""

    name: Final = "edit"
    description: Final = (
        "Replace text in a file of /work. old must be there exactly once, with all its spaces and "
        "line ends; or set everywhere."
    )
    parameters: Final = EditArguments

    async def run(self, arguments: EditArguments, context: ToolContext) -> ToolResult:
        """See `Tool`."""
        parts = parts_of_file(arguments.path)
        context.means.gate.check()

        def work(root: int) -> ToolResult:
            text, executable = text_of(root, parts)
            count = text.count(arguments.old)
            if not count:
                return ToolResult("not changed: old is not in the file", is_error=True)
            if count > 1 and not arguments.everywhere:
                why = f"not changed: old is there {count} times; give more of what is around it"
                return ToolResult(why, is_error=True)
            put(root, parts, text.replace(arguments.old, arguments.new), executable=executable)
            return ToolResult(f"changed in {count} place{'s' if count > 1 else ''}")

        return await context.means.files.run(arguments.name, work)


TOOL: Final = EditTool()
