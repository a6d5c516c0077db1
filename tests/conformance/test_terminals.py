"""A terminal is the same in both modes: a real one, with job control, sizes and an end."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.box import Box

WAIT_MS = 10_000
WIDE = "na\u00efve \U0001f680"
SHELL = ["bash", "--norc", "--noprofile", "-i"]
PROMPT = "ready> "


class Terminal:
    """A terminal of a tenant's, and what it has shown so far."""

    def __init__(self, box: Box, cmd: list[str], **params: Any) -> None:
        self.box = box
        made = box.call("terminal.spawn", cmd=cmd, sandbox=box.mode, **params)
        assert made["mode"] == box.mode
        self.id = made["terminalId"]
        self.shown = ""
        self.ended: Any = None
        self._next = 0

    def type(self, text: str) -> None:
        sent = self.box.call("terminal.write", terminalId=self.id, data=text)
        assert sent["written"] == len(text.encode())

    def wait_for(self, text: str) -> str:
        """Wait until something is shown; gives what was, up to there, and forgets it."""
        while text not in self.shown:
            assert self.ended is None, self.shown
            self._read()
        before, _, self.shown = self.shown.partition(text)
        return before

    def wait_for_end(self) -> Any:
        while self.ended is None:
            self._read()
        return self.ended

    def _read(self) -> None:
        piece = self.box.call(
            "terminal.attach", terminalId=self.id, fromByte=self._next, waitMs=WAIT_MS
        )
        assert piece["nextByte"] > self._next or piece.get("ended"), (self.shown, piece)
        self.shown += piece.get("data") or ""
        self._next = piece["nextByte"]
        self.ended = piece.get("ended")

    def close(self) -> None:
        self.box.call("terminal.close", terminalId=self.id)


@pytest.fixture
def shell(box: Box) -> Iterator[Terminal]:
    terminal = Terminal(box, SHELL, cols=101, rows=31, env={"PS1": PROMPT})
    terminal.wait_for(PROMPT)
    yield terminal
    terminal.close()


def test_it_is_a_terminal(shell: Terminal) -> None:
    shell.type("tty < /dev/tty; stty size; echo $TERM; test -t 0 -a -t 1 -a -t 2; echo end-$?\n")
    said = shell.wait_for("end-0")
    assert "/dev/" in said
    assert "31 101\r\n" in said
    assert "xterm-256color\r\n" in said
    assert "no job control" not in said


def test_its_size_changes(shell: Terminal) -> None:
    shell.type("trap 'echo told-$((1+1))' WINCH; echo set-$((1+1))\n")
    shell.wait_for("set-2")
    shell.wait_for(PROMPT)  # until then bash may put back the size that it has just read
    answer = shell.box.call("terminal.resize", terminalId=shell.id, cols=40, rows=12)
    assert (answer["cols"], answer["rows"]) == (40, 12)
    shell.type("\n")
    shell.wait_for("told-2")
    shell.type("stty size\n")
    shell.wait_for("12 40\r\n")


# Says that it runs when it is in the foreground, where keys find it.
NAP = "sh -c 'echo be$((1+1))gun; exec sleep 2000'"


def test_interrupting(shell: Terminal) -> None:
    """Ctrl-C ends what is in the foreground, and not the shell."""
    shell.type(f"{NAP}; echo status-$?\n")
    shell.wait_for("be2gun")
    shell.type("\3")
    shell.wait_for(PROMPT)
    shell.type("echo went-$((1+1))\n")
    shell.wait_for("went-2")


def test_jobs(shell: Terminal) -> None:
    """Ctrl-Z stops a job; it goes on in the background and comes back."""
    shell.type(f"{NAP}\n")
    shell.wait_for("be2gun")
    shell.type("\x1a")
    shell.wait_for("Stopped")
    shell.wait_for(PROMPT)
    shell.type("bg; jobs; kill -0 %1 && echo told-$((1+1))\n")
    assert "Running" in shell.wait_for("told-2")
    shell.wait_for(PROMPT)
    shell.type("kill -QUIT %1; fg; echo went-$((1+1))\n")
    shell.wait_for("went-2")
    shell.wait_for(PROMPT)
    shell.type("jobs; echo none-$((1+1))\n")
    assert "Running" not in shell.wait_for("none-2")


def test_characters_of_several_bytes(shell: Terminal) -> None:
    shell.type(f"printf '<%s>' '{WIDE}' | tr a-z A-Z; echo\n")
    shell.wait_for(f"<{WIDE.replace('na', 'NA').replace('ve', 'VE')}>")


@pytest.mark.parametrize(
    ("typed", "code", "number"),
    [("\4", 0, None), ("exit 7\n", 7, None), ("kill -KILL $$\n", None, signal.SIGKILL)],
    ids=["end-of-file", "exit", "signal"],
)
def test_it_ends_with_its_program(
    shell: Terminal, typed: str, code: int | None, number: int | None
) -> None:
    shell.type(typed)
    ended = shell.wait_for_end()
    assert (ended.get("exitCode"), ended.get("signal")) == (code, number)


def test_nothing_is_left_of_it(shell: Terminal) -> None:
    shell.type(f"setsid {shell.box.nap} & {shell.box.nap} &\n")
    shell.box.wait_for_naps(2)
    shell.close()
    shell.wait_for_end()
    assert shell.box.naps() == 0


def test_a_program_without_a_shell(box: Box) -> None:
    terminal = Terminal(box, ["python3", "-c", "print(6 * 7)"])
    assert terminal.wait_for_end()["exitCode"] == 0
    assert terminal.shown == "42\r\n"
