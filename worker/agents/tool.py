"""The interface of a tool. A tool is one file in `worker/agents/tools/`."""

import hashlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from protocol.launching import Mode
from worker.clock import Clock
from worker.egress.link import EgressLink
from worker.sandbox.files import SandboxFiles
from worker.sandbox.sandboxes import Sandboxes
from worker.store.gate import Gate

_CONTROL: Final = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}
_BOUNDARY_CHARS: Final = 16
FETCH: Final = "fetch"
"""The tool that there is where the operator has named a host for it."""


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what a tool is given: closed, and checked before the tool sees it."""


class Means(NamedTuple):
    """What tools work with: all of it is the tenant's own."""

    clock: Clock
    sandboxes: Sandboxes
    files: SandboxFiles
    gate: Gate
    egress: EgressLink


class ToolContext(NamedTuple):
    """On whose behalf a tool runs.

    `say` sends a message to whoever gets the turn's reply, and to nobody else. `sandbox` is the
    mode that the turn was asked for with.
    """

    session_key: str
    run_id: str
    say: Callable[[str], None]
    means: Means
    sandbox: Mode | None = None


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


def marked(what: str, text: str) -> str:
    """Give untrusted text between two lines that it could not have written itself.

    They hold a digest of what is between them. Control characters are replaced.
    """
    text = text.translate(_CONTROL).removesuffix("\n")
    boundary = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_BOUNDARY_CHARS]
    return f"--- {what}, untrusted, until {boundary}\n{text}\n--- {boundary}"
