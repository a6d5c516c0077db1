"""What the handlers of a worker work with."""

from typing import NamedTuple

from protocol.spawn import WorkerSpec
from worker.agents.catalogue import Catalogue
from worker.clock import Clock
from worker.events.bus import Events
from worker.sessions.pages import Pages
from worker.sessions.turns import Turns
from worker.store.database import Database


class Services(NamedTuple):
    """One worker's parts. `started_at` is a reading of the clock's `monotonic`."""

    spec: WorkerSpec
    clock: Clock
    catalogue: Catalogue
    sessions: Database
    turns: Turns
    pages: Pages
    events: Events
    started_at: float
