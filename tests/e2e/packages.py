"""A gateway that runs from a copy of our packages, which can be changed while it does."""

import shutil
import sys
from pathlib import Path

from tests.e2e.gateway import Gateway

ROOT = Path(__file__).parents[2]
PACKAGES = ("protocol", "supervisor", "worker", "cli")
START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from cli.main import main; "
    "main(['gateway', '--port', '0'])"
)


class Upgradable(Gateway):
    """The gateway of a copy below its state directory; `changes` are made before it starts."""

    def __init__(self, state_dir: Path, *changes: tuple[str, str, str]) -> None:
        self.packages = state_dir / "packages"
        for name in PACKAGES:
            shutil.copytree(
                ROOT / name, self.packages / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        for path in (self.packages, *self.packages.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        for change in changes:
            self.change(*change)
        super().__init__(state_dir, command=(sys.executable, "-c", START, str(self.packages)))

    def change(self, file: str, before: str, after: str) -> None:
        """Change a line of the program."""
        path = self.packages / file
        text = path.read_text()
        assert text.count(before) == 1
        path.write_text(text.replace(before, after))
