import asyncio
import json
import os
import sys
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from supervisor.alerts import RUNNING_MAX, Alert, AlertCommand

ALERT = Alert(tenant_id="acme", state="failed", reason="exited with 3", ts=1)
REPEAT = "import sys; sys.stderr.write(sys.stdin.read()); sys.exit(int(sys.argv[1]))"


async def logged(entries: list[Any], event: str, count: int = 1) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            found = [entry for entry in entries if entry["event"] == event]
            if len(found) >= count:
                return dict(found[0])
            await asyncio.sleep(0)


async def test_the_command_reads_the_alert() -> None:
    with capture_logs() as entries:
        log = structlog.get_logger()
        AlertCommand((sys.executable, "-c", REPEAT, "0"), log).send(ALERT)
        said = await logged(entries, "output")
    assert json.loads(said["line"]) == {
        "tenantId": "acme",
        "state": "failed",
        "reason": "exited with 3",
        "ts": 1,
    }
    assert entries[0]["event"] == "tenant failed"


async def test_a_command_that_fails_is_told_about() -> None:
    with capture_logs() as entries:
        log = structlog.get_logger()
        AlertCommand((sys.executable, "-c", REPEAT, "7"), log).send(ALERT)
        entry = await logged(entries, "alert command failed")
    assert entry["status"] == "exited with 7"


async def test_a_command_that_is_not_there() -> None:
    with capture_logs() as entries:
        AlertCommand(("/nowhere/at-all",), structlog.get_logger()).send(ALERT)
    assert [entry["event"] for entry in entries] == [
        "tenant failed",
        "alert command cannot be started",
    ]


async def test_a_command_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.alerts.SECONDS_MAX", 0.05)
    forever = (sys.executable, "-c", "import signal; signal.pause()")
    with capture_logs() as entries:
        alerts = AlertCommand(forever, structlog.get_logger())
        for _ in range(RUNNING_MAX + 1):
            alerts.send(ALERT)
        assert entries[-1]["event"] == "alert command skipped: too many run"
        entry = await logged(entries, "alert command failed", RUNNING_MAX)
    assert entry["status"] == "killed by SIGKILL"


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names


async def test_without_a_command_it_is_only_written_down() -> None:
    before = descriptors()
    with capture_logs() as entries:
        AlertCommand((), structlog.get_logger()).send(ALERT)
    assert [entry["log_level"] for entry in entries] == ["critical"]
    assert descriptors() == before
