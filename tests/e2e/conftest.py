"""The gateway fixture."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.gateway import Gateway


@pytest.fixture
def gateway(state_dir: Path) -> Iterator[Gateway]:
    with Gateway(state_dir) as running:
        yield running
