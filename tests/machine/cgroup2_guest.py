"""What runs in the machine of `tests.machine.cgroup2`: pytest, as root and as an ordinary user."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).resolve().parents[2]
TREE: Final = Path("/sys/fs/cgroup")
DELEGATED: Final = TREE / "user.slice"
USER: Final = 1000
CONTROLLERS: Final = "+cpu +memory +pids"
PLUGINS: Final = ("pytest_asyncio.plugin", "pytest_timeout", "_hypothesis_pytestplugin")
"""Others are not here, though their entry points are."""
PYTEST: Final = ("-m", "pytest", "-v", "--color=no", "--durations=5", "--timeout=300")


def main() -> int:
    """Run both at the same time; gives pytest's worse exit code."""
    Path(tempfile.gettempdir()).chmod(0o1777)
    (TREE / "cgroup.subtree_control").write_text(CONTROLLERS)
    delegate()
    with tempfile.TemporaryFile() as later:
        user = start(USER, str(DELEGATED), DELEGATED / "session", later)
        root = start(0, "auto", TREE, None)
        codes = (root.wait(), user.wait())
        later.seek(0)
        sys.stdout.buffer.write(later.read())
    return max(map(abs, codes))


def delegate() -> None:
    """Give a part of the tree away, as `systemd-run --user -p Delegate=yes` has it."""
    session = DELEGATED / "session"
    session.mkdir(parents=True)
    for directory in (DELEGATED, session):
        os.chown(directory, USER, USER)
        for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            os.chown(directory / name, USER, USER)


def start(
    uid: int, setting: str, directory: Path, output: IO[bytes] | None
) -> "subprocess.Popen[bytes]":
    """Start the tests as a user, in a cgroup; they write where we do if not somewhere else."""
    home = tempfile.mkdtemp()
    os.chown(home, uid, uid)
    return subprocess.Popen(
        [sys.executable, *PYTEST, *(f"-p{name}" for name in PLUGINS), *sys.argv[1:]],
        cwd=ROOT,
        env={
            **os.environ,
            "HOME": home,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": home,
            "PYTEST_DEBUG_TEMPROOT": home,
            "OPENCLAW_TEST_CGROUP": setting,
            "OPENCLAW_TEST_PATIENCE": "12",
        },
        stdout=output,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: _become(uid, directory),  # noqa: PLW1509 - one thread
    )


def _become(uid: int, directory: Path) -> None:
    (directory / "cgroup.procs").write_text(str(os.getpid()))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


if __name__ == "__main__":
    code = main()
    sys.stdout.write(f"verdict:{code}\n")
    sys.stdout.flush()
