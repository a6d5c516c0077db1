"""A short command loads no more than it needs: start-up is most of its time."""

import re
from pathlib import Path

import pytest

from tests.cli.command import Command
from tests.e2e.gateway import Gateway

# What costs more than the rest of the command together, or belongs to another process.
HEAVY = {
    "aiohttp",
    "apsw",
    "asyncio",
    "cryptography",
    "docker",
    "http.client",
    "httptools",
    "numpy",
    "prometheus_client",
    "psutil",
    "rich",
    "ssl",
    "structlog",
    "uvloop",
    "websockets",
    "yaml",
}


def imported(openclaw: Command, *arguments: str) -> set[str]:
    """Run a command to its success; gives every module that it loaded."""
    said = openclaw(*arguments, PYTHONPROFILEIMPORTTIME="1")
    assert said.code == 0, said
    return set(re.findall(r"^import time:.*\| +([\w.]+)$", said.err, re.MULTILINE))


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (("--help",), set()),
        (("config", "check"), set()),
        (("logs",), set()),
        (("doctor",), {"apsw"}),
        (("tenants", "list"), {"apsw"}),
        (("tenants", "status"), {"apsw"}),
    ],
)
def test_without_a_gateway(openclaw: Command, arguments: tuple[str, ...], needed: set[str]) -> None:
    assert openclaw("tenants", "list").code == 0
    (openclaw.state_dir / "gateway.log").touch()
    assert imported(openclaw, *arguments) & HEAVY == needed


@pytest.mark.parametrize(
    "arguments", [("tenants", "list"), ("tenants", "status"), ("top", "--once", "--json")]
)
def test_with_a_gateway(state_dir: Path, arguments: tuple[str, ...]) -> None:
    with Gateway(state_dir):
        # Python's HTTP client brings TLS along, whether it is used or not.
        assert imported(Command(state_dir), *arguments) & HEAVY == {"http.client", "ssl"}


def test_what_is_drawn_needs_what_draws(state_dir: Path) -> None:
    with Gateway(state_dir):
        heavy = imported(Command(state_dir), "top", "--once") & HEAVY
    assert "rich" in heavy
    assert not heavy & {"apsw", "numpy", "prometheus_client", "structlog", "uvloop"}
