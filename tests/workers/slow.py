"""Real workers that take their time, and whose next generation fails when a file says how.

The file is `next` in the tenant's directory, so that one tenant can have good generations and bad
ones in the order that a test wants.
"""

import asyncio
import os
import re
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

import msgspec

from protocol import frames
from protocol.codec import encode
from protocol.descriptors import WorkerDescriptors
from protocol.methods.chat import TextPart
from protocol.spawn import Idle, WorkerSpec
from tests.workers import starts
from tests.workers.echo import EchoProvider
from tests.workers.puppet import Program, Puppet, pause
from worker import main as worker
from worker.agents.catalogue import CATALOGUE
from worker.agents.model import ModelEvent, ModelRequest, TextDelta

NEXT: Final = "next"
WAKES_AFTER_MS: Final = 1500
PIECE_SECONDS: Final = 0.05
SLOW: Final = re.compile(r"(?P<words>\w+) for (?P<seconds>[0-9.]+) s")


def answer_of(text: str) -> str:
    """What the model says to `<words> for <seconds> s`, a piece every `PIECE_SECONDS`."""
    asked = SLOW.fullmatch(text)
    assert asked is not None
    count = round(float(asked["seconds"]) / PIECE_SECONDS)
    return "".join(f"{asked['words']} {number} " for number in range(count))


class SlowEcho(EchoProvider):
    """Echoes, but talks for as long as it is told to."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        part = request.messages[-1].parts[0]
        slow = isinstance(part, TextPart) and SLOW.fullmatch(part.text)
        async for event in super().stream(request):
            if slow and isinstance(part, TextPart) and isinstance(event, TextDelta):
                continue
            if slow and isinstance(part, TextPart):
                for piece in re.findall(r"\w+ \d+ ", answer_of(part.text)):
                    yield TextDelta(piece)
                    await asyncio.sleep(PIECE_SECONDS)
            yield event


def slow(spec: bytes, fds: WorkerDescriptors) -> None:
    """The real worker with a slow model, unless the file names another start."""
    with suppress(FileNotFoundError):
        descriptor = os.open(NEXT, os.O_RDONLY)
        name = os.read(descriptor, 64).decode()
        os.close(descriptor)
        starts.PROGRAMS[name](spec, fds)
    worker.run(spec, fds, CATALOGUE.with_local(SlowEcho()))


class Wakes(Puppet):
    """It says that it is idle as soon as it may, and wants to be woken soon after."""

    @classmethod
    def program(cls, spec: bytes, fds: WorkerDescriptors) -> None:  # type: ignore[override]
        cls.idle_seconds = msgspec.msgpack.decode(spec, type=WorkerSpec).idle_seconds
        cls(fds).run()

    idle_seconds = 0.0

    def after_ready(self) -> None:
        pause(self.idle_seconds)  # it was idle that long, as it says
        body = msgspec.json.encode(Idle(wake_at_ms=time.time_ns() // 1_000_000 + WAKES_AFTER_MS))
        self.supervisor.sendall(encode(frames.Event("idle", body)))


PROGRAMS: dict[str, Program] = {"slow": slow, "wakes": Wakes.program}
