"""What a caller without a stream gets of a terminal."""

import asyncio

import msgspec

from protocol import launching, limits
from protocol.frames import Chunk, End
from protocol.methods import terminal
from worker.sandbox import terminals
from worker.sandbox.watching import Watching

WAITING = terminal.AttachParams(terminal_id="t", wait_ms=limits.EVENTS_WAIT_MS_MAX)
ENDED = launching.Ended(exit_code=0, reason="exit")
VIEW = launching.Terminal(
    sandbox_id="t",
    mode="bubblewrap",
    name="main",
    columns=80,
    rows=24,
    started_at_ms=0,
    active_at_ms=0,
    from_byte=0,
    next_byte=3,
    ended=ENDED,
)


async def test_what_came_at_once_with_the_end_is_not_waited_for() -> None:
    changed = asyncio.Event()
    watching = Watching(changed)
    for reply in (
        Chunk(id=1, data=msgspec.json.encode(VIEW)),
        Chunk(id=1, data=launching.terminal_chunk(0, b"abc")),
        End(id=1, body=msgspec.json.encode(ENDED)),
    ):
        watching._on_reply(reply)
    async with asyncio.timeout(limits.EVENTS_WAIT_MS_MAX / 2000):
        read = await terminals._read(watching, changed, WAITING)
    assert (read.data, read.next_byte) == ("abc", 3)
    assert read.ended == terminal.Ended(exit_code=0, reason="exit")
