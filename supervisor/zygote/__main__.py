"""The zygote's program: `python -I <this file> <descriptor channel>`, with no environment."""

import os
import sys
from pathlib import Path

# Read when numpy and libuv start: one would start a thread, the other use io_uring.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["UV_USE_IO_URING"] = "0"

if __name__ == "__main__":
    # Isolated mode has neither the program's folder nor the working directory on the path.
    packages = str(Path(__file__).resolve().parents[2])
    if packages not in sys.path:
        sys.path.insert(0, packages)
    from supervisor.zygote import main as zygote

    def load() -> zygote.Program:
        """Import the worker, as the one place that does."""
        from worker import main  # noqa: PLC0415 - after the privileges have gone

        return zygote.Program(main.run, main.rehearse)

    zygote.main(sys.argv[1:], load)
