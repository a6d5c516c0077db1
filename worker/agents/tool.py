"""The interface of a tool. A tool is one file in `worker/agents/tools/`."""

from typing import Any, NamedTuple, Protocol

import msgspec

from worker.clock import Clock
from worker.sandbox.sandboxes import Sandboxes


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what a tool is given: closed, and checked before the tool sees it."""


class ToolContext(NamedTuple):
    """On whose behalf a tool runs."""

    session_key: str
    run_id: str
    clock: Clock
    sandboxes: Sandboxes


class ToolResult(NamedTuple):
    """What a tool answers; text for the model."""

    text: str
    is_error: bool = False


class Tool(Protocol):
    """Something that a model can have done."""

    @property
    def name(self) -> str:
        """What the model calls it by."""

    @property
    def description(self) -> str:
        """What the model is told about it."""

    @property
    def parameters(self) -> type[Arguments]:
        """What it takes."""

    async def run(self, arguments: Any, context: ToolContext) -> ToolResult:
        """Do it. `arguments` is of the type that `parameters` gives."""
