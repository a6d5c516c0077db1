"""The real worker with a model that takes the whole process down when it reads a certain text."""

import asyncio
import ctypes
import os
from collections.abc import AsyncGenerator
from typing import Final

from protocol.descriptors import WorkerDescriptors
from protocol.methods.chat import TextPart
from tests.workers.echo import EchoProvider
from tests.workers.puppet import Program
from worker import main as worker
from worker.agents.catalogue import CATALOGUE
from worker.agents.model import ModelEvent, ModelRequest

POISON: Final = "poison"
GO: Final = "go"
"""The file in the tenant's directory that lets it act."""
POLL_SECONDS: Final = 0.02


def told() -> bool:
    return os.path.exists(GO)  # noqa: PTH110 - pathlib looks into /proc for some of this


class PoisonedEcho(EchoProvider):
    """Echoes, but dies of one text, as of a bug in native code."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        part = request.messages[-1].parts[0]
        if isinstance(part, TextPart) and part.text.startswith(POISON):
            while not told():  # noqa: ASYNC110 - by another process
                await asyncio.sleep(POLL_SECONDS)
            # Not by a signal: it is process 1 of its namespace, which takes none from itself.
            ctypes.string_at(0)
        async for event in super().stream(request):
            yield event


def poisoned(spec: bytes, fds: WorkerDescriptors) -> None:
    """The real worker, with that model."""
    worker.run(spec, fds, CATALOGUE.with_local(PoisonedEcho()))


PROGRAMS: dict[str, Program] = {"poisoned": poisoned}
