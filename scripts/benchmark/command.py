"""What a call of the command line costs, beside the interpreter alone."""

import os
import statistics
import subprocess
import sys
import time
from typing import Any, Final

from tests.conftest import make_state_dir, remove_tree
from tests.e2e.gateway import OPENCLAW, Gateway

COMMANDS: Final = (
    ("tenants", "list"),
    ("tenants", "status"),
    ("logs",),
    ("doctor",),
    ("config", "check"),
)


def calls(rounds: int) -> dict[str, Any]:
    """Seconds and CPU seconds of each common command, with a gateway and without."""
    state_dir = make_state_dir()
    try:
        env = {**os.environ, "OPENCLAW_STATE_DIR": str(state_dir)}
        commands = {" ".join(words): [OPENCLAW, *words] for words in COMMANDS}
        bare = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "python -c 'import click, msgspec'": [sys.executable, "-c", "import click, msgspec"],
        }
        with Gateway(state_dir):
            up = _measure(commands | bare, env, rounds)
        return {"gateway_up": up, "gateway_down": _measure(commands | bare, env, rounds)}
    finally:
        remove_tree(state_dir)


def _measure(
    commands: dict[str, list[str]], env: dict[str, str], rounds: int
) -> dict[str, dict[str, float]]:
    wall: dict[str, list[float]] = {name: [] for name in commands}
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            before = os.times()
            started = time.perf_counter()
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
            wall[name].append(time.perf_counter() - started)
            after = os.times()
            cpu[name].append(
                after.children_user
                + after.children_system
                - before.children_user
                - before.children_system
            )
    return {
        name: {
            "p50_ms": round(statistics.median(wall[name]) * 1000),
            "cpu_ms": round(statistics.median(cpu[name]) * 1000),
        }
        for name in commands
    }
