"""The zygote with the tests' workers: as `supervisor/zygote/__main__.py`, but for the entry."""

import os
import sys
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["UV_USE_IO_URING"] = "0"

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from supervisor.zygote import main as zygote

    def load() -> zygote.Program:
        from tests.workers.entry import run
        from worker.main import rehearse

        return zygote.Program(run, rehearse)

    zygote.main(sys.argv[1:], load)
