"""Every number of the system call table in sandboxes of a real gateway: what passes is written.

No call is made: see `marking`.
"""

import json
import platform
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.attack import calls, marking
from tests.bpf import number
from tests.conformance.box import MODES, running

PROGRAMS = [Path(__file__).with_name(name) for name in ("marking.py", "sandbox_walker.py")]
TRIES = [each for each in calls.tries(marking.ARGUMENTS) if number(each[0]) >= 0]
INPUT = json.dumps([(number(call), arguments) for call, arguments in TRIES])


@pytest.mark.parametrize("mode", MODES)
def test_what_passes_is_what_is_written(mode: str, request: pytest.FixtureRequest) -> None:
    docker = request.getfixturevalue("dockerd") if mode == "docker" else None
    with running(mode, docker, marked=True) as box:
        for path in PROGRAMS:
            box.call("sandbox.files.put", path=f"tests/attack/{path.name}", data=path.read_text())
        ran = box.run("python3", "/work/tests/attack/sandbox_walker.py", stdin=INPUT)
    assert (ran["exitCode"], ran["stderr"], ran["truncated"]) == (0, "", False)
    check(json.loads(ran["stdout"]))


def check(answer: Any) -> None:
    named = {number(call): call for call in calls.SANDBOXES | set(calls.SANDBOXES_DECIDE)}
    refused = {number(call) for call in calls.SANDBOXES_REFUSED}
    for n, verdict in ((int(n), verdict) for n, verdict in answer["calls"].items()):
        if n in named:
            decides = calls.SANDBOXES_DECIDE.get(named[n])
            passes = decides is None or decides(())
            assert verdict == ("passes" if passes else "EPERM"), named[n]
        elif n in refused:
            assert verdict == "EPERM", n
        else:  # none, or one between two that no machine of this kind has
            assert verdict == "ENOSYS" or (verdict == "EPERM" and 336 < n < 424), n
    for (call, arguments), verdict in zip(TRIES, answer["tries"], strict=True):
        passes = calls.SANDBOXES_DECIDE[call](arguments)
        assert verdict == ("passes" if passes else "EPERM"), (call, arguments)
    if platform.machine() == "x86_64":
        assert answer["x32"] == answer["i386"] == [-signal.SIGSYS]
