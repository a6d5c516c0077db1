"""A worker for tests, as a program: `program.py <mode> <file size limit> <spec> <descriptors…>`.

Modes: `plain`; `imports` prints at the end what was imported or looked for after `run` was called.
The model echoes, except that it never ends its answer to a message that starts with `wait`.
"""

import asyncio
import json
import os
import resource
import sys
from collections.abc import AsyncGenerator

from protocol.descriptors import WorkerDescriptors
from protocol.methods.chat import TextPart
from tests.workers.echo import EchoProvider
from worker.agents.catalogue import CATALOGUE
from worker.agents.model import ModelEvent, ModelRequest, TextDelta
from worker.main import run


class WaitingEcho(EchoProvider):
    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        part = request.messages[-1].parts[0]
        if isinstance(part, TextPart) and part.text.startswith("wait"):
            yield TextDelta("waiting")
            await asyncio.Event().wait()
        async for event in super().stream(request):
            yield event


def main() -> None:
    mode, file_bytes_max, spec, *descriptors = sys.argv[1:]
    if int(file_bytes_max):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_bytes_max),) * 2)
    catalogue = CATALOGUE.with_local(WaitingEcho())
    fds = WorkerDescriptors(*map(int, descriptors))
    if mode == "imports":
        before = set(sys.modules)
        sought: set[str] = set()
        leave = os._exit

        def report(code: int) -> None:
            os.write(1, json.dumps(sorted(sought | (set(sys.modules) - before))).encode())
            leave(code)

        def note(event: str, arguments: tuple[object, ...]) -> None:
            if event == "import":
                sought.add(str(arguments[0]))

        os._exit = report  # type: ignore[assignment]
        sys.addaudithook(note)
    run(bytes.fromhex(spec), fds, catalogue)


if __name__ == "__main__":
    main()
