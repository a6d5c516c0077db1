"""What to do now so that a tenant's worker is as the registry wants it.

Level-triggered: a pass looks at how things are and never at what has happened, so nothing depends
on a timer that fired, a message that arrived or a command that was carried out to its end. No I/O
in here, and time is an argument; `supervisor.workers` runs the passes and does what they say.
"""

import enum
from typing import Final, NamedTuple

from supervisor.lifecycle import ENDING, SERVING, State


class Wanted(enum.Enum):
    """What the registry says of a tenant."""

    ENABLED = "enabled"
    """It may have a worker, when somebody needs one."""
    SUSPENDED = "suspended"
    GONE = "gone"
    """It is being deleted, or there is no such tenant."""


class Actual(NamedTuple):
    """How a tenant's worker is.

    Attributes:
        state: Where it is in its life.
        processes: How many processes it has, of any generation.
        due_at: When what its state waits for is due (seconds, the clock of `step`), if it waits for
            something: the front's next link, the time to wake, the next try, the end of its end.
    """

    state: State
    processes: int = 0
    due_at: float | None = None


def due(
    state: State,
    link: float | None,
    retry: float,
    wake: float | None,
    end: float | None,
) -> float | None:
    """Give when what a state waits for is due, if it waits for something.

    Args:
        state: Which.
        link: When the front is to get its next link.
        retry: When a start is to be tried again.
        wake: When it asked to be woken.
        end: By when its processes must have ended; None if it has none.
    """
    if state in SERVING:
        return link
    if state is State.BACKOFF:
        return retry
    if state is State.PARKED:
        return wake
    return None if state is State.STARTING else end


class Step(enum.Enum):
    """What brings it nearer; the next pass sees how far that went."""

    NOTHING = "nothing"
    LINK = "link"
    """Hand the present front a link to it."""
    WAKE = "wake"
    RETRY = "retry"
    SUSPEND = "suspend"
    RESUME = "resume"
    STOP = "stop"
    KILL = "kill"
    """It was told to end and has not: end all its processes."""
    FORGET = "forget"
    """Nothing of it is left."""


_LIVELY: Final = frozenset(State) - {State.SUSPENDING, State.SUSPENDED, State.DRAINING}

CHANGES: Final[dict[tuple[Wanted, State], Step]] = {
    **{(Wanted.ENABLED, state): Step.RESUME for state in (State.SUSPENDING, State.SUSPENDED)},
    **{(Wanted.SUSPENDED, state): Step.SUSPEND for state in _LIVELY},
    **{
        (Wanted.GONE, state): Step.STOP
        for state in frozenset(State) - {State.DRAINING, State.ABSENT}
    },
}
"""Where the registry and the worker differ."""

DUE: Final[dict[State, Step]] = {
    State.READY: Step.LINK,
    State.RESTARTING: Step.LINK,
    State.PARKED: Step.WAKE,
    State.BACKOFF: Step.RETRY,
    **dict.fromkeys((*ENDING, State.ABSENT, State.SUSPENDED), Step.KILL),
}
"""Where they agree, and the state's time has come."""


def step(wanted: Wanted, actual: Actual, now: float) -> Step:
    """Give what to do now; doing it again is harmless."""
    change = CHANGES.get((wanted, actual.state))
    if change is not None:
        return change
    if wanted is Wanted.GONE and actual.state is State.ABSENT and not actual.processes:
        return Step.FORGET
    if actual.due_at is not None and actual.due_at <= now:
        return DUE.get(actual.state, Step.NOTHING)
    return Step.NOTHING
