"""A bwrap that runs, and its end."""

import os
import subprocess

from supervisor.launcher.bubblewrap_job import BwrapJob


async def test_one_that_has_ended_is_killed_without_effect() -> None:
    """A run is cancelled, or its tenant ended, also between bwrap's end and that of the sandbox."""
    program = subprocess.Popen(["true"])  # noqa: ASYNC220 - it is over at once
    status, theirs = os.pipe()
    os.write(theirs, b'{"exit-code": 0}\n')
    os.close(theirs)
    job = BwrapJob(program.pid, status, None)
    outcome = await job.wait()
    program.returncode = 0  # the job has reaped it
    job.kill()
    assert (outcome.exit_code, outcome.signal) == (0, None)
