"""The terminal that a command runs in: raw for a while, and as it was before on every way out."""

import os
import shutil
import sys
import termios
import tty
from typing import Any, Final, Self

# Bracketed paste off, the main screen, a cursor that is seen, plain characters: what a program
# would have undone that we have left.
_PLAIN: Final = b"\x1b[?2004l\x1b[?1049l\x1b[?1000l\x1b[?25h\x1b[0m\r\n"


class Screen:
    """Standard input and output.

    Attributes:
        source: The descriptor that is typed into.
        is_terminal: Whether it is a terminal's.
    """

    def __init__(self) -> None:
        self.source: Final = sys.stdin.fileno()
        self.is_terminal: Final = os.isatty(self.source)
        self._target: Final = sys.stdout.fileno()
        self._before: list[Any] | None = None

    @staticmethod
    def size() -> os.terminal_size:
        """Give its size in characters; 80 x 24 where there is none."""
        return shutil.get_terminal_size()

    def __enter__(self) -> Self:
        sys.stdout.flush()
        if self.is_terminal:
            self._before = termios.tcgetattr(self.source)
            tty.setraw(self.source, termios.TCSADRAIN)  # keeps what was typed ahead
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            termios.tcsetattr(self.source, termios.TCSADRAIN, self._before)

    def show(self, data: bytes) -> None:
        """Write all of it; waits while nobody takes it.

        Raises:
            OSError: nobody ever will.
        """
        left = memoryview(data)
        while left:
            left = left[os.write(self._target, left) :]

    def calm(self) -> None:
        """Undo what a program has made of it that goes on without us."""
        if os.isatty(self._target):
            self.show(_PLAIN)
