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
"""So many within the window are tried; one death more and the tenant has failed."""
RESTART_WINDOW_SECONDS: Final = 60.0
"""Of service: time in which the tenant is not served mends nothing and forgets nothing."""
BACKOFF_SECONDS_MIN: Final = 1.0
BACKOFF_SECONDS_MAX: Final = 60.0
BACKOFF_JITTER: Final = 0.1
CLEAN_SECONDS: Final = 600.0
"""Of service without a death, after which the delay is short again."""
DEATHS_KEPT: Final = 100

EXIT_WOULD_FAIL_AGAIN: Final = 3
EXIT_CONFIGURATION: Final = 78


class State(enum.Enum):
    """Where a tenant's worker is."""

    ABSENT = "absent"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    """One serves, and the next generation starts beside it."""
    PARKING = "parking"
    PARKED = "parked"
    """Asleep: nobody needed it for a while. A request or its own time wakes it."""
    DRAINING = "draining"
    BACKOFF = "backoff"
    FAILED = "failed"
    SUSPENDING = "suspending"
    SUSPENDED = "suspended"


class Event(enum.Enum):
    """What can happen to it."""

    WANTED = "wanted"
    """A request waits, or the time it asked to be woken at has come."""
    READY = "ready"
    """The readiness byte came."""
    LATE = "late"
    """It did not come in time."""
    HUNG = "hung"
    """Three pings were missed."""
    BROKE_LINK = "broke_link"
    """It sent what it must not, or closed its link."""
    IDLE = "idle"
    """It says that it had nothing to do for a while."""
    RESTART = "restart"
    """An operator wants the next generation."""
    NEXT_READY = "next_ready"
    """The next generation's readiness byte came."""
    NEXT_LATE = "next_late"
    """The next generation's did not come in time."""
    NEXT_DIED = "next_died"
    """The next generation ended before it was ready."""
    STOP = "stop"
    """It shall end: the gateway stops, or the tenant goes away."""
    SUSPEND = "suspend"
    """An operator takes the tenant out of service."""
    RESUME = "resume"
    """An operator takes it back; or what it was held back for is over."""
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
    """Hand the front its link; those who waited are answered."""
    REPLACE = "replace"
    """Spawn; the one that was to sleep finishes what it has in flight and ends beside it."""
    SPAWN_NEXT = "spawn_next"
    SWITCH = "switch"
    """Hand the front the next generation's link, then drain the present one."""
    PROMOTE = "promote"
    """The one that served is gone: what was to be the next is the present one, still starting."""
    ABORT_NEXT = "abort_next"
    KEEP = "keep"
    """The next generation came to nothing; the present one serves on. Report it."""
    DRAIN = "drain"
    """Take the front off it, let it finish and end; a next generation is killed."""
    ABORT = "abort"
    KILL = "kill"
    WAIT = "wait"
    """Try again after the delay."""
    SLEEP = "sleep"
    """It is asleep, until its own time if it gave one."""
    REFUSE = "refuse"
    """This cannot be had now; say why."""
    NOTHING = "nothing"


_S, _E, _A = State, Event, Action

TABLE: Final[dict[tuple[State, Event], tuple[State, Action]]] = {
    (_S.ABSENT, _E.WANTED): (_S.STARTING, _A.SPAWN),
    (_S.ABSENT, _E.RESTART): (_S.STARTING, _A.SPAWN),
    (_S.ABSENT, _E.STOP): (_S.ABSENT, _A.NOTHING),
    (_S.ABSENT, _E.SUSPEND): (_S.SUSPENDED, _A.NOTHING),
    (_S.STARTING, _E.WANTED): (_S.STARTING, _A.NOTHING),
    (_S.STARTING, _E.RESTART): (_S.STARTING, _A.NOTHING),
    (_S.STARTING, _E.READY): (_S.READY, _A.SERVE),
    (_S.STARTING, _E.LATE): (_S.STARTING, _A.ABORT),
    (_S.STARTING, _E.BROKE_LINK): (_S.STARTING, _A.KILL),
    (_S.STARTING, _E.STOP): (_S.DRAINING, _A.KILL),
    (_S.STARTING, _E.SUSPEND): (_S.SUSPENDING, _A.KILL),
    (_S.STARTING, _E.EXITED): (_S.BACKOFF, _A.WAIT),
    (_S.STARTING, _E.FAILED): (_S.FAILED, _A.REFUSE),
    (_S.READY, _E.WANTED): (_S.READY, _A.NOTHING),
    (_S.READY, _E.HUNG): (_S.READY, _A.ABORT),
    (_S.READY, _E.BROKE_LINK): (_S.READY, _A.KILL),
    (_S.READY, _E.IDLE): (_S.PARKING, _A.DRAIN),
    (_S.READY, _E.RESTART): (_S.RESTARTING, _A.SPAWN_NEXT),
    (_S.READY, _E.STOP): (_S.DRAINING, _A.DRAIN),
    (_S.READY, _E.SUSPEND): (_S.SUSPENDING, _A.DRAIN),
    (_S.READY, _E.EXITED): (_S.BACKOFF, _A.WAIT),
    (_S.READY, _E.FAILED): (_S.FAILED, _A.REFUSE),
    (_S.RESTARTING, _E.WANTED): (_S.RESTARTING, _A.NOTHING),
    (_S.RESTARTING, _E.HUNG): (_S.RESTARTING, _A.ABORT),
    (_S.RESTARTING, _E.BROKE_LINK): (_S.RESTARTING, _A.KILL),
    (_S.RESTARTING, _E.IDLE): (_S.RESTARTING, _A.NOTHING),
    (_S.RESTARTING, _E.RESTART): (_S.RESTARTING, _A.REFUSE),
    (_S.RESTARTING, _E.NEXT_READY): (_S.READY, _A.SWITCH),
    (_S.RESTARTING, _E.NEXT_LATE): (_S.RESTARTING, _A.ABORT_NEXT),
    (_S.RESTARTING, _E.NEXT_DIED): (_S.READY, _A.KEEP),
    (_S.RESTARTING, _E.STOP): (_S.DRAINING, _A.DRAIN),
    (_S.RESTARTING, _E.SUSPEND): (_S.SUSPENDING, _A.DRAIN),
    (_S.RESTARTING, _E.EXITED): (_S.STARTING, _A.PROMOTE),
    (_S.RESTARTING, _E.FAILED): (_S.STARTING, _A.PROMOTE),
    (_S.PARKED, _E.WANTED): (_S.STARTING, _A.SPAWN),
    (_S.PARKED, _E.RESTART): (_S.STARTING, _A.SPAWN),
    (_S.PARKED, _E.STOP): (_S.ABSENT, _A.NOTHING),
    (_S.PARKED, _E.SUSPEND): (_S.SUSPENDED, _A.NOTHING),
    (_S.BACKOFF, _E.WANTED): (_S.BACKOFF, _A.NOTHING),
    (_S.BACKOFF, _E.RETRY): (_S.STARTING, _A.SPAWN),
    (_S.BACKOFF, _E.RESTART): (_S.STARTING, _A.SPAWN),
    (_S.BACKOFF, _E.STOP): (_S.ABSENT, _A.NOTHING),
    (_S.BACKOFF, _E.SUSPEND): (_S.SUSPENDED, _A.NOTHING),
    (_S.FAILED, _E.WANTED): (_S.FAILED, _A.REFUSE),
    (_S.FAILED, _E.RESTART): (_S.STARTING, _A.SPAWN),
    (_S.FAILED, _E.STOP): (_S.ABSENT, _A.NOTHING),
    (_S.FAILED, _E.SUSPEND): (_S.SUSPENDED, _A.NOTHING),
    (_S.FAILED, _E.RESUME): (_S.ABSENT, _A.NOTHING),
    (_S.SUSPENDED, _E.WANTED): (_S.SUSPENDED, _A.REFUSE),
    (_S.SUSPENDED, _E.RESTART): (_S.SUSPENDED, _A.REFUSE),
    (_S.SUSPENDED, _E.SUSPEND): (_S.SUSPENDED, _A.NOTHING),
    (_S.SUSPENDED, _E.RESUME): (_S.ABSENT, _A.NOTHING),
    (_S.SUSPENDED, _E.STOP): (_S.ABSENT, _A.NOTHING),
    # The three ways to end a worker on purpose differ in what comes after its exit.
    **{
        (state, event): (state, action)
        for state in (_S.DRAINING, _S.PARKING, _S.SUSPENDING)
        for event, action in (
            (_E.READY, _A.NOTHING),
            (_E.NEXT_READY, _A.NOTHING),
            (_E.LATE, _A.KILL),
            (_E.NEXT_LATE, _A.NOTHING),
            (_E.HUNG, _A.KILL),
            (_E.BROKE_LINK, _A.KILL),
            (_E.IDLE, _A.NOTHING),
        )
    },
    # Only its sleep ends for who waits: after the others nobody would answer him.
    (_S.PARKING, _E.WANTED): (_S.STARTING, _A.REPLACE),
    (_S.PARKING, _E.RESTART): (_S.STARTING, _A.REPLACE),
    (_S.DRAINING, _E.WANTED): (_S.DRAINING, _A.REFUSE),
    (_S.DRAINING, _E.RESTART): (_S.DRAINING, _A.REFUSE),
    (_S.SUSPENDING, _E.WANTED): (_S.SUSPENDING, _A.REFUSE),
    (_S.SUSPENDING, _E.RESTART): (_S.SUSPENDING, _A.REFUSE),
    (_S.DRAINING, _E.STOP): (_S.DRAINING, _A.NOTHING),
    (_S.DRAINING, _E.SUSPEND): (_S.DRAINING, _A.NOTHING),
    (_S.DRAINING, _E.EXITED): (_S.ABSENT, _A.NOTHING),
    (_S.PARKING, _E.STOP): (_S.DRAINING, _A.NOTHING),
    (_S.PARKING, _E.SUSPEND): (_S.SUSPENDING, _A.NOTHING),
    (_S.PARKING, _E.EXITED): (_S.PARKED, _A.SLEEP),
    (_S.SUSPENDING, _E.SUSPEND): (_S.SUSPENDING, _A.NOTHING),
    (_S.SUSPENDING, _E.RESUME): (_S.PARKING, _A.NOTHING),
    (_S.SUSPENDING, _E.STOP): (_S.DRAINING, _A.NOTHING),
    (_S.SUSPENDING, _E.EXITED): (_S.SUSPENDED, _A.NOTHING),
}

ENDING: Final = frozenset((_S.DRAINING, _S.PARKING, _S.SUSPENDING))
"""States in which a worker is ended on purpose."""
SERVING: Final = frozenset((_S.READY, _S.RESTARTING))
"""States in which the tenant is served."""
_WITH_REASON: Final = frozenset((_S.STARTING, _S.BACKOFF, _S.FAILED))
_STARTS: Final = frozenset((_A.SPAWN, _A.SPAWN_NEXT, _A.REPLACE))


class ImpossibleEventError(Exception):
    """An event that its state does not know: a mistake in our own code."""


class Death(NamedTuple):
    """How one process of a tenant ended. `at` and `uptime` are seconds."""

    at: float
    exit_code: int | None
    signal: int | None
    cause: str
    uptime: float
    generation: int = 0
    out_of_memory: bool = False
    """Whether it ended for want of memory: at its limit or, as it looks, by the kernel."""
    outlawed: bool = False
    """Whether it was ended for what another one must not go on with."""


class Lifecycle:
    """One tenant's worker. Times are seconds of any clock that only goes forward.

    One budget judges every kind of crash loop, since its clock stands still while the tenant is not
    served: a worker that never gets ready uses it up as surely as one that dies at once, however
    long each of its starts takes.

    Args:
        jitter: Gives a number in [0, 1); spreads restarts so that they do not meet.
    """

    def __init__(self, jitter: "random.Random | None" = None) -> None:
        self.state = State.ABSENT
        self.reason = ""
        """Why it is in BACKOFF or FAILED, or had to start again."""
        self.deaths: deque[Death] = deque(maxlen=DEATHS_KEPT)
        self.restarts = 0
        """How often another generation was started after a death, or because an operator asked."""
        self._random: Final = jitter or random.Random()  # noqa: S311 - spreads load, hides nothing
        self._restarts: deque[float] = deque(maxlen=RESTARTS_MAX)
        self._delay = BACKOFF_SECONDS_MIN
        self._served = 0.0
        self._serves_since: float | None = None

    def on(self, event: Event, now: float) -> Action:
        """Take an event and say what to do.

        Raises:
            ImpossibleEventError: this state does not know it; nothing changed.
        """
        row = TABLE.get((self.state, event))
        if row is None:
            msg = f"{event.name} cannot happen in {self.state.name}"
            raise ImpossibleEventError(msg)
        target, action = row
        if event is Event.RESTART and action is Action.SPAWN:
            self._forgive()  # whoever asks for it has seen to the cause
        if event in (Event.RESTART, Event.RETRY) and action in _STARTS:
            self.restarts += 1
        self._count_service(now, serves=target in SERVING)
        self.state = target
        if target not in _WITH_REASON:
            self.reason = ""
        return action

    def on_death(self, death: Death) -> Action:
        """Take the end of the present process; decides between another try and giving up."""
        if self.state in ENDING:
            self.on_old_death(death)
            return self.on(Event.EXITED, death.at)
        self.deaths.append(death)
        self.reason = death.cause
        if death.outlawed or death.exit_code in (EXIT_WOULD_FAIL_AGAIN, EXIT_CONFIGURATION):
            return self.on(Event.FAILED, death.at)
        served = self._service(death.at)
        if self._restarts and served - self._restarts[-1] >= CLEAN_SECONDS:
            self._forgive()
        recent = [at for at in self._restarts if served - at < RESTART_WINDOW_SECONDS]
        if len(recent) >= RESTARTS_MAX:
            tally = f"{len(recent) + 1} deaths within {RESTART_WINDOW_SECONDS:.0f} s of service"
            self.reason = f"{tally}; last: {death.cause}"
            return self.on(Event.FAILED, death.at)
        self._restarts.append(served)
        return self.on(Event.EXITED, death.at)

    def on_next_death(self, death: Death) -> Action:
        """Take the end of the next generation, which never got ready."""
        self.deaths.append(death)
        return self.on(Event.NEXT_DIED, death.at)

    def on_old_death(self, death: Death) -> None:
        """Take the end of a process that was told to end; one that did so as it should is none."""
        if death.exit_code != 0:
            self.deaths.append(death)

    def next_delay(self) -> float:
        """Give the seconds to wait before the next try, and double the one after it."""
        delay = self._delay * (1 + BACKOFF_JITTER * self._random.random())
        self._delay = min(self._delay * 2, BACKOFF_SECONDS_MAX)
        return delay

    def _service(self, now: float) -> float:
        """Give the seconds for which the tenant has been served so far."""
        since = self._serves_since
        return self._served if since is None else self._served + now - since

    def _count_service(self, now: float, *, serves: bool) -> None:
        if serves != (self._serves_since is not None):
            self._served = self._service(now)
            self._serves_since = now if serves else None

    def _forgive(self) -> None:
        self._restarts.clear()
        self._delay = BACKOFF_SECONDS_MIN
