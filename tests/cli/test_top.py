"""`openclaw top`, with a gateway and without."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli import top_table
from cli.top import Readings
from tests.certificates import paths
from tests.cli.command import OPENCLAW, WAIT_SECONDS, Command
from tests.e2e.gateway import Gateway
from tests.e2e.test_tls import configure


@pytest.fixture(autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """Have children hear of SIGINT also where a shell started us to ignore it, with `&`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def row(tenant: str, **members: Any) -> dict[str, Any]:
    return {"tenantId": tenant, "state": "ready", "inFlight": 0, "held": 0, "deaths": 0, **members}


def test_the_busiest_come_first() -> None:
    readings = Readings()
    first = [
        row("acme", pid=1, cpuSeconds=1.0, memoryBytes=5, restarts=3, nextWakeAtMs=7),
        row("globex", pid=2, cpuSeconds=1.0, memoryBytes=9),
        row("hooli", pid=3, cpuSeconds=1.0, memoryBytes=1, held=1),
        row("initech", state="absent"),
    ]
    taken = readings.take(first, now=10.0)
    assert [reading.tenant_id for reading in taken] == ["hooli", "globex", "acme", "initech"]
    assert {reading.cpu_percent for reading in taken} == {None}
    assert (taken[2].restarts, taken[2].next_wake_at_ms) == (3, 7)
    second = [
        row("acme", pid=1, cpuSeconds=2.0),
        row("globex", pid=9, cpuSeconds=0.1),  # another process: there is no difference to take
        row("hooli", pid=3, cpuSeconds=1.0),
    ]
    taken = readings.take(second, now=14.0)
    assert [reading.tenant_id for reading in taken] == ["acme", "globex", "hooli"]
    assert [reading.cpu_percent for reading in taken] == [25.0, None, 0.0]


def test_what_sleeps_or_does_not_fit_is_counted() -> None:
    rows = [
        *(row(f"awake-{number}", pid=number, memoryBytes=9 - number) for number in range(4)),
        row("parked", state="parked"),
        row("due", state="parked", nextWakeAtMs=93_784_000),
        row("waited-for", state="absent", held=1),
        row("broken", state="failed"),
    ]
    drawn = top_table.table(Readings().take(rows, now=0.0), now=0.0, rows_max=5)
    console = Console(width=160)
    with console.capture() as captured:
        console.print(drawn)
    _, *lines, caption = captured.get().rstrip().splitlines()
    shown = [line.split()[0] for line in lines]
    assert shown == ["waited-for", "awake-0", "awake-1", "awake-2", "awake-3"]
    assert caption.strip() == "tenants: 8, 1 of them asleep, 2 more than fit"
    everyone = top_table.text(Readings().take(rows, now=0.0), now=0.0)
    cells = {line.split()[0]: line.split() for line in everyone.splitlines()}
    assert cells["due"][-2:] == ["1d", "2h"]
    assert "parked" not in cells


def test_without_a_gateway_there_is_nothing_to_see(openclaw: Command) -> None:
    assert openclaw("tenants", "list").code == 0
    assert openclaw("top").refused() == "no gateway is running on this state directory"
    assert openclaw("top", "--once", "--json").refused()
    assert "0.2" in openclaw("top", "--interval", "0").err


def test_one_reading_as_text_and_as_json(state_dir: Path) -> None:
    configure(state_dir, paths.FIRST, paths.FIRST_KEY)  # over TLS
    with Gateway(state_dir) as gateway:
        token = gateway.create("acme")
        gateway.create("globex")
        gateway.rpc(token, "health")
        openclaw = Command(state_dir)
        acme, globex = openclaw("top", "--once", "--json").json()
        assert (acme["tenantId"], acme["state"], acme["inFlight"]) == ("acme", "ready", 0)
        assert acme["memoryBytes"] > 0
        assert acme["uptimeSeconds"] >= 0
        assert (acme["restarts"], acme["cpuPercent"], acme["nextWakeAtMs"]) == (0, None, None)
        assert (globex["tenantId"], globex["state"]) == ("globex", "absent")
        said = openclaw("top", "--once")
        assert (said.code, said.err) == (0, "")
        heading, line, caption = said.out.splitlines()
        assert heading.split()[:3] == ["TENANT", "STATE", "CPU"]
        assert line.split()[:3] == ["acme", "ready", "-"]
        assert caption.strip() == "tenants: 2, 1 of them asleep"


def lines_of(process: subprocess.Popen[str], count: int) -> list[Any]:
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def test_a_line_each_reading_until_ctrl_c(state_dir: Path) -> None:
    with Gateway(state_dir) as gateway:
        gateway.rpc(gateway.create("acme"), "health")
        openclaw = Command(state_dir)
        top = openclaw.start("top", "--json", "--interval", "0.2")
        _, (second,) = lines_of(top, 2)
        assert second["cpuPercent"] >= 0
        top.send_signal(signal.SIGINT)
        said = openclaw.end(top)
        assert (said.code, said.err) == (0, "")


def test_it_says_that_the_gateway_has_gone(state_dir: Path) -> None:
    with Gateway(state_dir) as gateway:
        openclaw = Command(state_dir)
        top = openclaw.start("top", "--json", "--interval", "0.2")
        assert lines_of(top, 1) == [[]]
        gateway.stop()
        said = openclaw.end(top)
        assert said.code == 75
        assert f"the gateway at {gateway.address} does not answer" in said.err


class Terminal:
    """`openclaw top` on a terminal of its own."""

    def __init__(self, state_dir: Path) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 120, 0, 0))
        self.process = subprocess.Popen(
            [OPENCLAW, "top", "--interval", "0.2"],
            env=Command(state_dir).env | {"TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def read_until(self, *texts: str) -> None:
        """Read until all of these have been shown since the last time."""
        since, deadline = len(self.shown), time.monotonic() + WAIT_SECONDS
        while not all(text in self.shown[since:] for text in texts):
            ready, _, _ = select.select([self._ours], [], [], max(0, deadline - time.monotonic()))
            assert ready, (texts, self.shown[since:])
            try:
                self.shown += os.read(self._ours, 65536).decode()
            except OSError as error:  # the other side is closed
                raise AssertionError((texts, self.shown[since:])) from error

    def end(self) -> int:
        code = self.process.wait(WAIT_SECONDS)
        os.close(self._ours)
        return code


ALTERNATE_SCREEN = "\x1b[?1049h"
FORMER_SCREEN = "\x1b[?1049l"


@pytest.mark.parametrize("goes", ["the caller", "the gateway"])
def test_it_is_drawn_again_and_again_and_leaves_the_terminal_as_it_was(
    state_dir: Path, goes: str
) -> None:
    with Gateway(state_dir) as gateway:
        gateway.rpc(gateway.create("acme"), "health")
        terminal = Terminal(state_dir)
        terminal.read_until(ALTERNATE_SCREEN, "NEXT WAKE", "acme", "tenants: 1")
        gateway.rpc(gateway.create("globex"), "health")
        terminal.read_until("globex", "tenants: 2")
        if goes == "the caller":
            terminal.process.send_signal(signal.SIGINT)
            terminal.read_until(FORMER_SCREEN)
            assert terminal.end() == 0
            assert "Traceback" not in terminal.shown
        else:
            gateway.stop()
            terminal.read_until(FORMER_SCREEN, "does not answer")
            # On the former screen, where it stays to be read.
            assert terminal.shown.index(FORMER_SCREEN) < terminal.shown.index("does not answer")
            assert terminal.end() == 75
