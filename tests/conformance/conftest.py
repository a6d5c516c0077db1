"""The fixture of both modes."""

from collections.abc import Iterator

import pytest

from tests.conformance.box import MODES, Box, running


@pytest.fixture(scope="package", params=MODES)
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    docker = request.getfixturevalue("dockerd") if request.param == "docker" else None
    with running(request.param, docker) as made:
        yield made
