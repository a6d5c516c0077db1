"""Terminals as the launcher holds them: real programs on real ptys, the sandbox left out."""

import asyncio
import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
import pytest

from protocol import launching, limits
from protocol.errors import ErrorCode, GatewayError
from supervisor.launcher.engine import Outcome, Size
from supervisor.launcher.scrollback import Scrollback
from supervisor.launcher.terminal import Terminal
from supervisor.launcher.terminals import Opened, Started, Terminals

SECONDS: Final = 20.0
IDLE: Final = 300.0
MOST: Final = 2
CEILINGS: Final = launching.Ceilings(
    modes=("bubblewrap",),
    default_mode="bubblewrap",
    images=(),
    sandbox=launching.Caps(),
    wall_seconds=60,
    concurrent=1,
    queued=0,
    terminals=MOST,
    terminal_idle_seconds=IDLE,
    file_bytes=limits.MIB,
)
SIZE: Final = Size(80, 24)
# A session of its own with the terminal as its own, as the stem makes one.
ENTRY: Final = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Job:
    """A program on a pty; see `supervisor.launcher.engine.Job`."""

    def __init__(self, argv: list[str], size: Size) -> None:
        self.terminal, program = os.openpty()
        os.set_blocking(self.terminal, False)
        self.resize(size)
        self._process = subprocess.Popen(
            [sys.executable, "-c", ENTRY, *argv], stdin=program, stdout=program, stderr=program
        )
        os.close(program)
        self.closed = False

    async def wait(self) -> Outcome:
        code = await asyncio.to_thread(self._process.wait)
        return Outcome(code, None) if code >= 0 else Outcome(None, -code)

    def kill(self) -> None:
        self._process.kill()

    def resize(self, size: Size) -> None:
        packed = struct.pack("4H", size.rows, size.columns, 0, 0)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, packed)

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        os.close(self.terminal)


class Watcher:
    """A stream that takes what it has credit for; see `supervisor.launcher.terminal.Stream`."""

    def __init__(self, credit: int = 1_000_000) -> None:
        self.on_credit: Callable[[], None] | None = None
        self.credit = credit
        self.view: launching.Terminal | None = None
        self.pieces: list[tuple[int, bytes]] = []
        self.ended: launching.Ended | None = None
        self._changed = asyncio.Event()

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.pieces)

    def send(self, chunk: bytes) -> None:
        assert self.credit > 0
        assert self.ended is None
        self.credit -= 1
        if self.view is None:
            self.view = msgspec.json.decode(chunk, type=launching.Terminal)
        else:
            number, data = launching.read_terminal_chunk(chunk)
            assert len(data) <= limits.TERMINAL_CHUNK_BYTES_MAX
            self.pieces.append((number, data))
        self._changed.set()

    def finish(self, ended: launching.Ended) -> None:
        self.ended = ended
        self._changed.set()

    def take(self, count: int) -> None:
        self.credit += count
        if self.on_credit is not None:
            self.on_credit()

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(SECONDS):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def end(self) -> launching.Ended:
        await self.until(lambda: self.ended)
        assert self.ended is not None
        return self.ended


class House:
    """All that a tenant's terminals need, with a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = 1000.0
        self.told: list[launching.TerminalEvent] = []
        self.jobs: list[Job] = []
        self.terminals = Terminals(
            "acme", lambda: CEILINGS, lambda: self.clock, lambda: 7, self.told.append
        )

    async def open(self, *argv: str, size: Size = SIZE) -> Terminal:
        async def start(wanted: Size) -> Opened:
            job = Job(list(argv), wanted)
            self.jobs.append(job)
            return Opened(Started(f"t{len(self.jobs)}", job), job.close)

        spec = launching.Spec(argv=argv, mode="bubblewrap", wall_seconds=1)
        asked = launching.OpenTerminal(spec=spec, columns=size.columns, rows=size.rows)
        return await self.terminals.open(asked, start)

    async def python(self, program: str) -> Terminal:
        return await self.open(sys.executable, "-c", program)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    yield made
    async with asyncio.timeout(SECONDS):
        await made.terminals.end()
    assert all(job.closed for job in made.jobs)
    assert len(made.terminals) == 0


def test_scrollback_keeps_the_newest_with_their_numbers() -> None:
    kept = Scrollback(10)
    kept.add(b"0123456")
    assert kept.read(0, 100) == (0, b"0123456")
    assert kept.room(0) == 3
    kept.add(b"789ab")
    assert (kept.start, kept.end) == (2, 12)
    assert kept.read(0, 3) == (2, b"234")
    assert kept.read(11, 3) == (11, b"b")
    assert kept.read(12, 3) == (12, b"")
    kept.add(b"cd", forget=False)
    assert kept.read(0, 100) == (2, b"23456789abcd")


async def test_a_program_has_the_terminal_and_its_end_is_told(house: House) -> None:
    terminal = await house.open("/bin/sh", "-c", "stty size; read x; exit $x", size=Size(91, 31))
    watcher = Watcher()
    terminal.attach(watcher, None)
    await watcher.until(lambda: b"31 91\r\n" in watcher.data)
    assert await terminal.write(b"7\n", "", 0) == 2
    assert await watcher.end() == launching.Ended(exit_code=7, reason="exit")
    # Whoever comes late hears it too, from where he was.
    late = Watcher()
    terminal.attach(late, 4)
    assert await late.end() == watcher.ended
    assert late.data == watcher.data[4:]
    opened, ended = house.told
    assert (opened.program, opened.ended, ended.ended) == ("/bin/sh", None, watcher.ended)


async def test_several_watch_and_each_gets_all(house: House) -> None:
    terminal = await house.python("input(); print('x' * 100_000)")
    watchers = [Watcher() for _ in range(3)]
    for watcher in watchers:
        terminal.attach(watcher, 0)
    await terminal.write(b"\n", "", 0)
    for watcher in watchers:
        await watcher.end()
        assert watcher.data == watchers[0].data
        assert watcher.data.count(b"x") == 100_000


async def test_too_many_cannot_watch(house: House) -> None:
    terminal = await house.open("cat")
    watchers = [Watcher() for _ in range(limits.TERMINAL_WATCHERS_MAX)]
    for watcher in watchers:
        terminal.attach(watcher, None)
    with pytest.raises(GatewayError) as refused:
        terminal.attach(Watcher(), None)
    assert refused.value.code is ErrorCode.RATE_LIMITED
    terminal.detach(watchers[0])
    terminal.attach(Watcher(), None)
    assert terminal.view().attached == limits.TERMINAL_WATCHERS_MAX


NUMBERS: Final = "import sys\nfor n in range({count}): print(f'{{n:09d}}')"


async def test_nobody_watches_and_the_program_does_not_wait(house: House) -> None:
    count = 200_000  # 2.2 MB, many times what is kept and what a pty holds
    terminal = await house.python(NUMBERS.format(count=count))
    async with asyncio.timeout(SECONDS):
        await terminal.wait()
    watcher = Watcher()
    terminal.attach(watcher, 0)
    assert (await watcher.end()).exit_code == 0
    # What is lost shows by the number, and what is there is right and no more than may be.
    number, _ = watcher.pieces[0]
    assert watcher.view is not None
    assert number == watcher.view.from_byte == 11 * count - len(watcher.data)
    most = limits.TERMINAL_SCROLLBACK_BYTES_MAX
    assert most // 2 <= len(watcher.data) <= 2 * most
    whole = b"".join(b"%09d\r\n" % each for each in range(count))
    assert whole.endswith(watcher.data)


async def test_a_slow_watcher_loses_nothing_while_it_goes_on(house: House) -> None:
    count = 100_000
    terminal = await house.python(NUMBERS.format(count=count))
    watcher = Watcher(credit=1)
    terminal.attach(watcher, 0)
    async with asyncio.timeout(SECONDS):
        while watcher.ended is None:
            await asyncio.sleep(0.001)
            watcher.take(1)
    assert watcher.data == b"".join(b"%09d\r\n" % each for each in range(count))


async def test_one_that_takes_nothing_does_not_hold_the_others_for_ever(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TERMINAL_STALL_SECONDS", 0.05)
    count = 100_000
    terminal = await house.python(NUMBERS.format(count=count))
    stuck = Watcher(credit=1)
    terminal.attach(stuck, 0)
    async with asyncio.timeout(SECONDS):
        await terminal.wait()
    stuck.take(1000)
    await stuck.end()
    assert stuck.pieces[0][0] > 0, "it sees what it has missed"
    last = stuck.pieces[-1]
    assert last[0] + len(last[1]) == 11 * count
    assert terminal.view().attached == 0


async def test_a_number_that_is_not_there_yet_is_refused(house: House) -> None:
    terminal = await house.open("cat")
    with pytest.raises(GatewayError) as refused:
        terminal.attach(Watcher(), 1)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert refused.value.details["field"] == "fromByte"


async def test_a_repeated_write_is_typed_once(house: House) -> None:
    terminal = await house.open("/bin/sh", "-c", "stty raw -echo; echo ready; exec cat")
    watcher = Watcher()
    terminal.attach(watcher, None)
    await watcher.until(lambda: b"ready" in watcher.data)
    assert await terminal.write(b"abc", "w", 0) == 3
    assert await terminal.write(b"abcde", "w", 0) == 5
    assert await terminal.write(b"bc", "w", 1) == 2
    assert await terminal.write(b"f", "w", 5) == 1
    assert await terminal.write(b"1", "other", 0) == 1
    assert await terminal.write(b"2", "", 0) == 1
    with pytest.raises(GatewayError) as refused:
        await terminal.write(b"z", "w", 7)
    assert (refused.value.code, refused.value.details["field"]) == (ErrorCode.INVALID_REQUEST, "at")
    await watcher.until(lambda: b"2" in watcher.data)
    assert watcher.data.endswith(b"abcdef12")


async def test_a_program_that_does_not_read_is_not_waited_for_for_ever(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TERMINAL_WRITE_SECONDS", 0.1)
    terminal = await house.open("/bin/sh", "-c", "stty raw -echo; echo ready; read x; exec cat")
    watcher = Watcher()
    terminal.attach(watcher, None)
    await watcher.until(lambda: b"ready" in watcher.data)
    os.kill(house.jobs[0]._process.pid, signal.SIGSTOP)
    data = b"." * limits.TERMINAL_WRITE_BYTES_MAX
    taken = 0
    while count := await terminal.write(data, "w", taken):
        taken += count
    writes = [
        asyncio.ensure_future(terminal.write(b"x", "", 0))
        for _ in range(limits.TERMINAL_WRITES_WAITING_MAX + 1)
    ]
    done = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(each) for each in done].count(GatewayError) == 1
    # When it reads again, it has had each byte once.
    os.kill(house.jobs[0]._process.pid, signal.SIGCONT)
    assert await terminal.write(b"\n!", "w", taken) == 2
    await watcher.until(lambda: b"!" in watcher.data)


async def test_one_that_has_ended_takes_nothing(house: House) -> None:
    terminal = await house.open("true")
    await terminal.wait()
    for act in (
        lambda: terminal.write(b"x", "", 0),
        lambda: asyncio.to_thread(terminal.resize, Size(1, 1)),
    ):
        with pytest.raises(GatewayError) as refused:
            await act()
        assert refused.value.code is ErrorCode.CONFLICT
    terminal.end("closed")
    assert terminal.view().ended == launching.Ended(exit_code=0, reason="exit")


async def test_a_size_is_told_to_the_program(house: House) -> None:
    program = (
        "import os, signal\n"
        "signal.signal(signal.SIGWINCH, lambda *_: print(os.get_terminal_size(), flush=True))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()\n"
    )
    terminal = await house.python(program)
    watcher = Watcher()
    terminal.attach(watcher, None)
    await watcher.until(lambda: b"ready" in watcher.data)
    terminal.resize(Size(132, 43))
    await watcher.until(lambda: b"columns=132, lines=43" in watcher.data)
    assert (terminal.view().columns, terminal.view().rows) == (132, 43)


async def test_it_ends_when_nobody_has_used_it_for_long_enough(house: House) -> None:
    terminal = await house.open("cat")
    watcher = Watcher()
    terminal.attach(watcher, None)
    house.clock += IDLE - 1
    house.terminals.tick(house.clock)
    await terminal.write(b"x", "", 0)  # which is use
    await watcher.until(lambda: watcher.data)  # and so is what is seen of it
    house.clock += IDLE - 1
    house.terminals.tick(house.clock)
    assert terminal.view().ended is None
    house.clock += 1
    house.terminals.tick(house.clock)
    assert await watcher.end() == launching.Ended(signal=signal.SIGKILL, reason="idle")
    # It is kept for a while for those who come back, and then it is not.
    house.clock += limits.TERMINAL_ENDED_SECONDS - 1
    house.terminals.tick(house.clock)
    assert house.terminals.find("t1") is terminal
    house.clock += 1
    house.terminals.tick(house.clock)
    with pytest.raises(GatewayError) as refused:
        house.terminals.find("t1")
    assert refused.value.code is ErrorCode.NOT_FOUND


async def test_there_are_only_so_many(house: House) -> None:
    first, _second = [await house.open("cat") for _ in range(MOST)]
    with pytest.raises(GatewayError) as refused:
        await house.open("cat")
    assert refused.value.code is ErrorCode.RATE_LIMITED
    assert len(house.jobs) == MOST, "nothing was launched"
    first.end("closed")
    await first.wait()
    assert first.view().ended == launching.Ended(signal=signal.SIGKILL, reason="closed")
    # Of those that have ended no more are kept either.
    for _ in range(MOST + 2):
        ended = await house.open("true")
        await ended.wait()
    assert len(house.terminals.view().terminals) == 1 + MOST


async def test_the_audit_is_not_a_tenants_to_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TERMINAL_EVENTS_BURST", 6)
    house = House()
    for _ in range(limits.TERMINAL_EVENTS_BURST):
        await (await house.open("true")).wait()
    assert len(house.told) == limits.TERMINAL_EVENTS_BURST
    house.clock += 1 / limits.TERMINAL_EVENTS_PER_SECOND
    await (await house.open("true")).wait()
    assert len(house.told) == limits.TERMINAL_EVENTS_BURST + 1
    assert house.told[-1].lost == limits.TERMINAL_EVENTS_BURST
    assert "\x1b" not in (await named(house, "/nothing/\x1b[2J")).program


async def named(house: House, program: str) -> launching.TerminalEvent:
    house.clock += 2 / limits.TERMINAL_EVENTS_PER_SECOND
    await (await house.open(program)).wait()
    return next(event for event in reversed(house.told) if event.program.startswith("/nothing"))


async def test_all_ends_with_the_tenant(house: House) -> None:
    terminal = await house.open("cat")
    watcher = Watcher()
    terminal.attach(watcher, None)
    async with asyncio.timeout(SECONDS):
        await house.terminals.end()
    assert await watcher.end() == launching.Ended(signal=signal.SIGKILL, reason="tenant")
    assert house.terminals.view().terminals == ()
