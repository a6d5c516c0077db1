from pathlib import Path

import pytest

from tests.cli.command import Command


@pytest.fixture
def openclaw(state_dir: Path) -> Command:
    return Command(state_dir / "state")
