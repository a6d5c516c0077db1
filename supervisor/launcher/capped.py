"""A sandbox in a cgroup of its own: what it used is read there."""

from typing import Final

from supervisor.launcher.engine import Job, Outcome, Wrapped
from supervisor.launcher.nurseries import Nurseries, Nursery


class Capped(Wrapped):
    """See `supervisor.launcher.engine.Job`.

    Args:
        job: The sandbox.
        nursery: Its cgroup; given back by `close`.
        nurseries: Where it is from.
    """

    def __init__(self, job: Job, nursery: Nursery, nurseries: Nurseries) -> None:
        super().__init__(job)
        self._nursery: Final = nursery
        self._nurseries: Final = nurseries
        self._clean = False

    async def wait(self) -> Outcome:
        """See `Job`."""
        outcome = await super().wait()
        try:
            used = self._nursery.used()
        except OSError:  # the tenant has been removed meanwhile
            return outcome
        self._clean = used.pids == 1 and not used.oom_kills
        return outcome._replace(
            oom_killed=outcome.oom_killed or used.oom_kills > 0,
            cpu_ms=round(used.cpu_seconds * 1000),
            peak_memory_bytes=used.memory_peak_bytes or outcome.peak_memory_bytes,
        )

    def close(self) -> None:
        """See `Job`."""
        super().close()
        self._nurseries.give_back(self._nursery, clean=self._clean)
