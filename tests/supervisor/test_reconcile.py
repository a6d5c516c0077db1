from typing import Final

import pytest

from supervisor.lifecycle import ENDING, TABLE, Event, State
from supervisor.reconcile import Actual, Step, Wanted, step

NOW: Final = 100.0
LATER: Final = 100.5
NOT_YET: Final = (None, LATER)
DUE: Final = (NOW, 0.0, float("-inf"))

# Every pair of what is wanted and where the worker is: what to do, and what to do once it is due.
EXPECTED: Final[dict[tuple[Wanted, State], tuple[Step, Step]]] = {
    (Wanted.ENABLED, State.ABSENT): (Step.NOTHING, Step.KILL),
    (Wanted.ENABLED, State.STARTING): (Step.NOTHING, Step.NOTHING),
    (Wanted.ENABLED, State.READY): (Step.NOTHING, Step.LINK),
    (Wanted.ENABLED, State.RESTARTING): (Step.NOTHING, Step.LINK),
    (Wanted.ENABLED, State.PARKING): (Step.NOTHING, Step.KILL),
    (Wanted.ENABLED, State.PARKED): (Step.NOTHING, Step.WAKE),
    (Wanted.ENABLED, State.DRAINING): (Step.NOTHING, Step.KILL),
    (Wanted.ENABLED, State.BACKOFF): (Step.NOTHING, Step.RETRY),
    (Wanted.ENABLED, State.FAILED): (Step.NOTHING, Step.NOTHING),
    (Wanted.ENABLED, State.SUSPENDING): (Step.RESUME, Step.RESUME),
    (Wanted.ENABLED, State.SUSPENDED): (Step.RESUME, Step.RESUME),
    (Wanted.SUSPENDED, State.ABSENT): (Step.SUSPEND, Step.SUSPEND),
    (Wanted.SUSPENDED, State.STARTING): (Step.SUSPEND, Step.SUSPEND),
    (Wanted.SUSPENDED, State.READY): (Step.SUSPEND, Step.SUSPEND),
    (Wanted.SUSPENDED, State.RESTARTING): (Step.SUSPEND, Step.SUSPEND),
    (Wanted.SUSPENDED, State.PARKING): (Step.SUSPEND, Step.SUSPEND),
    (Wanted.SUSPENDED, State.PARKED): (Step.SUSPEND, Step.SUSPEND),
    (Wanted.SUSPENDED, State.DRAINING): (Step.NOTHING, Step.KILL),
    (Wanted.SUSPENDED, State.BACKOFF): (Step.SUSPEND, Step.SUSPEND),
    (Wanted.SUSPENDED, State.FAILED): (Step.SUSPEND, Step.SUSPEND),
    (Wanted.SUSPENDED, State.SUSPENDING): (Step.NOTHING, Step.KILL),
    (Wanted.SUSPENDED, State.SUSPENDED): (Step.NOTHING, Step.KILL),
    (Wanted.GONE, State.ABSENT): (Step.NOTHING, Step.KILL),
    (Wanted.GONE, State.STARTING): (Step.STOP, Step.STOP),
    (Wanted.GONE, State.READY): (Step.STOP, Step.STOP),
    (Wanted.GONE, State.RESTARTING): (Step.STOP, Step.STOP),
    (Wanted.GONE, State.PARKING): (Step.STOP, Step.STOP),
    (Wanted.GONE, State.PARKED): (Step.STOP, Step.STOP),
    (Wanted.GONE, State.DRAINING): (Step.NOTHING, Step.KILL),
    (Wanted.GONE, State.BACKOFF): (Step.STOP, Step.STOP),
    (Wanted.GONE, State.FAILED): (Step.STOP, Step.STOP),
    (Wanted.GONE, State.SUSPENDING): (Step.STOP, Step.STOP),
    (Wanted.GONE, State.SUSPENDED): (Step.STOP, Step.STOP),
}
EVENTS: Final = {
    Step.WAKE: Event.WANTED,
    Step.RETRY: Event.RETRY,
    Step.SUSPEND: Event.SUSPEND,
    Step.RESUME: Event.RESUME,
    Step.STOP: Event.STOP,
}
STATES_AT_REST: Final = {
    Wanted.ENABLED: frozenset(State) - {State.SUSPENDED, *ENDING},
    Wanted.SUSPENDED: frozenset({State.SUSPENDED}),
    Wanted.GONE: frozenset({State.ABSENT}),
}


def test_every_pair_is_expected() -> None:
    assert set(EXPECTED) == {(wanted, state) for wanted in Wanted for state in State}


@pytest.mark.parametrize(("wanted", "state"), EXPECTED)
def test_what_is_done(wanted: Wanted, state: State) -> None:
    at_once, when_due = EXPECTED[wanted, state]
    for due_at in NOT_YET:
        assert step(wanted, Actual(state, 1, due_at), NOW) is at_once
    for due_at in DUE:
        assert step(wanted, Actual(state, 1, due_at), NOW) is when_due


@pytest.mark.parametrize("wanted", Wanted)
def test_only_a_tenant_that_is_gone_and_has_no_process_is_forgotten(wanted: Wanted) -> None:
    for state in State:
        forgotten = step(wanted, Actual(state), NOW) is Step.FORGET
        assert forgotten == ((wanted, state) == (Wanted.GONE, State.ABSENT))


@pytest.mark.parametrize(("wanted", "state"), EXPECTED)
def test_a_state_knows_every_event_that_a_step_means(wanted: Wanted, state: State) -> None:
    for due_at in (*NOT_YET, *DUE):
        event = EVENTS.get(step(wanted, Actual(state, 1, due_at), NOW))
        assert event is None or (state, event) in TABLE


@pytest.mark.parametrize(("wanted", "state"), EXPECTED)
def test_passes_lead_to_what_is_wanted(wanted: Wanted, state: State) -> None:
    """With processes that end when they are told to, from anywhere, in a few passes."""
    for _ in range(4):
        taken = step(wanted, Actual(state, 1, NOW), NOW)
        if taken in EVENTS:
            state, _ = TABLE[state, EVENTS[taken]]
        elif taken is Step.KILL and state in ENDING:
            state, _ = TABLE[state, Event.EXITED]
    assert state in STATES_AT_REST[wanted]
    if wanted is Wanted.GONE:
        assert step(wanted, Actual(state), NOW) is Step.FORGET
