"""The rehearsal leaves nothing behind but warm pages."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, os, resource, sys, threading
from worker.main import rehearse

def seen():
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "modules": len(sys.modules),
    }

before = seen()
rehearse()
after = seen()
rehearse()
print(json.dumps([before, after, seen()]))
"""


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    before, after, again = json.loads(done.stdout)
    # libuv makes a pipe to itself, once in a process (uv__signal_global_init), and keeps it.
    assert after.pop("descriptors") == again.pop("descriptors") == before.pop("descriptors") + 2
    assert before == after == again
    assert list(tmp_path.iterdir()) == []
