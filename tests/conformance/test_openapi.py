"""A bounded run of what `scripts/conformance` does at length."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.control.routes import ROUTES
from tests.e2e.gateway import Gateway
from tests.workers.crowd import PROGRAM

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = 5
RUN_SECONDS = 240
# It tries without the key again and again; how such attempts are slowed is tested elsewhere.
SETTINGS = {"protocol.limits": {"AUTH_FAILURES_FREE": 1_000_000}}


@pytest.fixture
def gateway(state_dir: Path) -> Iterator[Gateway]:
    command = (sys.executable, PROGRAM, json.dumps(SETTINGS))
    with Gateway(state_dir, command=command) as running:
        yield running


@pytest.mark.timeout(RUN_SECONDS + 30)
def test_the_control_plane_is_what_its_description_says(gateway: Gateway, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(SCHEMATHESIS, "--config-file", CONFIG, "run", f"{gateway.url}/openapi.json"),
            *("--max-examples", str(EXAMPLES), "--no-color"),
            *("--generation-deterministic", "--no-shrink"),
        ],
        env={**os.environ, "ADMIN_KEY": (gateway.state_dir / "admin.key").read_text().strip()},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Tested: {len(ROUTES)}\n" in done.stdout
