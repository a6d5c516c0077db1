"""A directory for a worker to work in."""

from pathlib import Path

import pytest


@pytest.fixture
def tenant_dir(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tenant's directory, which is the working directory."""
    directory = state_dir / "acme"
    directory.mkdir(mode=0o700)
    monkeypatch.chdir(directory)
    return directory
