"""bwrap(1) on this machine: where it is, and whether it can what it has to."""

import shutil
import subprocess
from typing import Final, NamedTuple

FEATURES: Final = (
    "--bind-fd",
    "--block-fd",
    "--disable-userns",
    "--json-status-fd",
    "--clearenv",
    "--size",
)
_PROBE_SECONDS: Final = 10.0


class Found(NamedTuple):
    """bwrap on this machine: its path, and what keeps it from being used, if anything does."""

    path: str
    lacking: str


def find() -> Found:
    """Look for bwrap and what it can; runs it, so before that is forbidden."""
    path = shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin")
    if path is None:
        return Found("", "there is no bwrap; install bubblewrap")
    try:
        shown = subprocess.run(
            [path, "--help"], capture_output=True, timeout=_PROBE_SECONDS, check=False, env={}
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Found(path, f"{path} cannot be run: {error}")
    known = (shown.stdout + shown.stderr).decode(errors="replace")
    missing = [feature for feature in FEATURES if feature not in known]
    lacking = f"{path} has no {', '.join(missing)}; install a newer bubblewrap" if missing else ""
    return Found(path, lacking)
