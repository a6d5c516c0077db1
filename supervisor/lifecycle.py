"""The life of a tenant's worker as a table. No I/O in here, and time is an argument.

Everything that decides what happens to a worker is in this file; `supervisor.workers` does what is
decided. States and events are pure names; the table says which events a state knows, and an event
that it does not know raises. The figure in `docs/architecture.md` is generated from the table.
"""

import enum
import random
from collections import deque
from typing import Final, NamedTuple

RESTARTS_MAX: Final = 5
RESTART_WINDOW_SECONDS: Final = 60.0
BACKOFF_SECONDS_MIN: Final = 1.0
BACKOFF_SECONDS_MAX: Final = 60.0
BACKOFF_JITTER: Final = 0.1
CLEAN_SECONDS: Final = 600.0
DEATHS_KEPT: Final = 100

EXIT_WOULD_FAIL_AGAIN: Final = 3
EXIT_CONFIGURATION: Final = 78


class State(enum.Enum):
    """Where a tenant's worker is."""

    ABSENT = "absent"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    BACKOFF = "backoff"
    FAILED = "failed"


class Event(enum.Enum):
    """What can happen to it."""

    WANTED = "wanted"
    """A request waits, or an operator asks for it."""
    READY = "ready"
    """The readiness byte came."""
    LATE = "late"
    """It did not come in time."""
    HUNG = "hung"
    """Three pings were missed."""
    BROKE_LINK = "broke_link"
    """It sent what it must not, or closed its link."""
    STOP = "stop"
    """It shall end: the gateway stops, or the tenant goes away."""
    EXITED = "exited"
    """The process ended, and nothing says that it would fail again."""
    FAILED = "failed"
    """The process ended and would fail again: exit 3, exit 78, or over the restart budget."""
    RETRY = "retry"
    """The delay is over."""


class Action(enum.Enum):
    """What the owner of the processes has to do now."""

    SPAWN = "spawn"
    SERVE = "serve"
    DRAIN = "drain"
    ABORT = "abort"
    KILL = "kill"
    WAIT = "wait"
    REPORT = "report"
    NOTHING = "nothing"


TABLE: Final[dict[tuple[State, Event], tuple[State, Action]]] = {
    (State.ABSENT, Event.WANTED): (State.STARTING, Action.SPAWN),
    (State.ABSENT, Event.STOP): (State.ABSENT, Action.NOTHING),
    (State.STARTING, Event.WANTED): (State.STARTING, Action.NOTHING),
    (State.STARTING, Event.READY): (State.READY, Action.SERVE),
    (State.STARTING, Event.LATE): (State.STARTING, Action.ABORT),
    (State.STARTING, Event.BROKE_LINK): (State.STARTING, Action.KILL),
    (State.STARTING, Event.STOP): (State.DRAINING, Action.KILL),
    (State.STARTING, Event.EXITED): (State.BACKOFF, Action.WAIT),
    (State.STARTING, Event.FAILED): (State.FAILED, Action.REPORT),
    (State.READY, Event.WANTED): (State.READY, Action.NOTHING),
    (State.READY, Event.HUNG): (State.READY, Action.ABORT),
    (State.READY, Event.BROKE_LINK): (State.READY, Action.KILL),
    (State.READY, Event.STOP): (State.DRAINING, Action.DRAIN),
    (State.READY, Event.EXITED): (State.BACKOFF, Action.WAIT),
    (State.READY, Event.FAILED): (State.FAILED, Action.REPORT),
    (State.DRAINING, Event.WANTED): (State.DRAINING, Action.NOTHING),
    (State.DRAINING, Event.READY): (State.DRAINING, Action.NOTHING),
    (State.DRAINING, Event.LATE): (State.DRAINING, Action.KILL),
    (State.DRAINING, Event.HUNG): (State.DRAINING, Action.KILL),
    (State.DRAINING, Event.BROKE_LINK): (State.DRAINING, Action.KILL),
    (State.DRAINING, Event.STOP): (State.DRAINING, Action.NOTHING),
    (State.DRAINING, Event.EXITED): (State.ABSENT, Action.REPORT),
    (State.DRAINING, Event.FAILED): (State.ABSENT, Action.REPORT),
    (State.BACKOFF, Event.WANTED): (State.BACKOFF, Action.NOTHING),
    (State.BACKOFF, Event.RETRY): (State.STARTING, Action.SPAWN),
    (State.BACKOFF, Event.STOP): (State.ABSENT, Action.NOTHING),
    (State.FAILED, Event.WANTED): (State.FAILED, Action.REPORT),
    (State.FAILED, Event.STOP): (State.ABSENT, Action.NOTHING),
}


class ImpossibleEventError(Exception):
    """An event that its state does not know: a mistake in our own code."""


class Death(NamedTuple):
    """How one process of a tenant ended. `at` and `uptime` are seconds."""

    at: float
    exit_code: int | None
    signal: int | None
    cause: str
    uptime: float


class Lifecycle:
    """One tenant's worker. Times are seconds of any clock that only goes forward.

    Args:
        jitter: Gives a number in [0, 1); spreads restarts so that they do not meet.
    """

    def __init__(self, jitter: "random.Random | None" = None) -> None:
        self.state = State.ABSENT
        self.reason = ""
        """Why it is in BACKOFF or FAILED."""
        self.deaths: deque[Death] = deque(maxlen=DEATHS_KEPT)
        self._random: Final = jitter or random.Random()  # noqa: S311 - spreads load, hides nothing
        self._restarts: deque[float] = deque(maxlen=RESTARTS_MAX)
        self._delay = BACKOFF_SECONDS_MIN
        self._ready_at: float | None = None

    def on(self, event: Event, now: float) -> Action:
        """Take an event and say what to do.

        Raises:
            ImpossibleEventError: this state does not know it; nothing changed.
        """
        row = TABLE.get((self.state, event))
        if row is None:
            msg = f"{event.name} cannot happen in {self.state.name}"
            raise ImpossibleEventError(msg)
        self.state, action = row
        if event is Event.READY:
            self._ready_at = now
        return action

    def on_death(self, death: Death) -> Action:
        """Take the end of the process; decides between another try and giving up."""
        self.deaths.append(death)
        clean = self._ready_at is not None and death.at - self._ready_at >= CLEAN_SECONDS
        self._ready_at = None
        if self.state is State.DRAINING:
            return self.on(Event.EXITED, death.at)
        self.reason = death.cause
        if clean:
            self._restarts.clear()
            self._delay = BACKOFF_SECONDS_MIN
        if death.exit_code in (EXIT_WOULD_FAIL_AGAIN, EXIT_CONFIGURATION):
            return self.on(Event.FAILED, death.at)
        recent = [at for at in self._restarts if death.at - at < RESTART_WINDOW_SECONDS]
        if len(recent) >= RESTARTS_MAX:
            tally = f"{len(recent) + 1} deaths within {RESTART_WINDOW_SECONDS:.0f} s"
            self.reason = f"{tally}; last: {death.cause}"
            return self.on(Event.FAILED, death.at)
        self._restarts.append(death.at)
        return self.on(Event.EXITED, death.at)

    def next_delay(self) -> float:
        """Give the seconds to wait before the next try, and double the one after it."""
        delay = self._delay * (1 + BACKOFF_JITTER * self._random.random())
        self._delay = min(self._delay * 2, BACKOFF_SECONDS_MAX)
        return delay
