"""The command `openclaw` as a shell starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

OPENCLAW = Path(sys.executable).with_name("openclaw")
WAIT_SECONDS = 50.0


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed, as JSON; only when it succeeded and said nothing else."""
        assert (self.code, self.err) == (0, "")
        return json.loads(self.out)

    def refused(self, code: int = 1) -> str:
        """The one line in which it said why it failed, with nothing on its output."""
        assert (self.code, self.out) == (code, ""), self
        assert self.err.startswith("openclaw: ")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("openclaw: ").rstrip("\n")


class Command:
    """`openclaw` on one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(state_dir),
            "OPENCLAW_STATE_DIR": str(state_dir),
        }

    def start(self, *arguments: str | bytes, **env: str) -> subprocess.Popen[str]:
        """Start it."""
        return subprocess.Popen(
            [OPENCLAW, *arguments],
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
        )

    def end(self, process: subprocess.Popen[str]) -> Said:
        """Wait for its end; no command ever shows a traceback."""
        with process:
            out, err = process.communicate(timeout=WAIT_SECONDS)
        assert "Traceback" not in err, err
        return Said(process.returncode, out, err)

    def __call__(self, *arguments: str | bytes, **env: str) -> Said:
        """Run it to its end."""
        return self.end(self.start(*arguments, **env))
