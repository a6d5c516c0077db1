"""What the handlers of a worker work with."""

from typing import NamedTuple

from protocol.spawn import WorkerSpec
from worker.agents.catalogue import Catalogue
from worker.clock import Clock
from worker.config.overlay import OverlayFile
from worker.egress.link import EgressLink
from worker.events.bus import Events
from worker.sandbox.files import SandboxFiles
from worker.sandbox.link import LauncherLink
from worker.sandbox.sandboxes import Sandboxes
from worker.sandbox.watchers import Watchers
from worker.sessions.pages import Pages
from worker.sessions.purging import Purging
from worker.sessions.turns import Turns
from worker.store.database import Database
from worker.store.gate import Gate


class Services(NamedTuple):
    """One worker's parts. `started_at` is a reading of the clock's `monotonic`."""

    spec: WorkerSpec
    clock: Clock
    catalogue: Catalogue
    overlay: OverlayFile
    sessions: Database
    turns: Turns
    pages: Pages
    purging: Purging
    events: Events
    files: SandboxFiles
    launcher: LauncherLink
    egress: EgressLink
    sandboxes: Sandboxes
    terminals: Watchers
    gate: Gate
    started_at: float
