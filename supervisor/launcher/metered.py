"""A sandbox whose seconds are told at its end, for its tenant's bill."""

import time
from collections.abc import Callable
from typing import Final

from protocol import launching
from protocol.egress import Ran
from supervisor.launcher.engine import Job, Launch, Outcome, Wrapped

Report = Callable[[Ran], None]


class Metered(Wrapped):
    """See `supervisor.launcher.engine.Job`.

    Args:
        job: The sandbox, which has just begun.
        launch: What it was begun with.
        mode: What kind it is.
        report: Gets what it has used, once, when its end has been waited for.
    """

    def __init__(self, job: Job, launch: Launch, mode: launching.Mode, report: Report) -> None:
        super().__init__(job)
        self._tenant: Final = launch.tenant
        self._sandbox_id: Final = launch.sandbox_id
        self._mode: Final = mode
        self._report: Final = report
        self._began: Final = time.monotonic()
        self._told = False

    async def wait(self) -> Outcome:
        """See `Job`."""
        outcome = await super().wait()
        if not self._told:
            self._told = True
            self._report(
                Ran(
                    tenant=self._tenant,
                    sandbox_id=self._sandbox_id,
                    mode=self._mode,
                    wall_ms=round((time.monotonic() - self._began) * 1000),
                    cpu_ms=outcome.cpu_ms,
                )
            )
        return outcome
