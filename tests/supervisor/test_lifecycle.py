import importlib.util
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from supervisor.lifecycle import (
    BACKOFF_JITTER,
    BACKOFF_SECONDS_MAX,
    CLEAN_SECONDS,
    DEATHS_KEPT,
    ENDING,
    RESTART_WINDOW_SECONDS,
    RESTARTS_MAX,
    TABLE,
    Action,
    Death,
    Event,
    ImpossibleEventError,
    Lifecycle,
    State,
)

ROOT = Path(__file__).parents[2]
ALIVE = {State.STARTING, State.READY, State.RESTARTING, *ENDING}
DIED = {Event.EXITED, Event.FAILED}
AT_ANY_TIME = {Event.WANTED, Event.RESTART, Event.STOP, Event.SUSPEND}


class Jitter(random.Random):
    """The same number always."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def random(self) -> float:
        return self.number


def life(*events: Event, jitter: float = 0.0) -> Lifecycle:
    life = Lifecycle(Jitter(jitter))
    for event in events:
        life.on(event, 0.0)
    return life


def death(at: float, exit_code: int | None = 1, uptime: float = 1.0) -> Death:
    return Death(at=at, exit_code=exit_code, signal=None, cause=f"exit {exit_code}", uptime=uptime)


def insides(life: Lifecycle) -> dict[str, object]:
    return {name: repr(value) for name, value in vars(life).items()}


# --- the table


WAYS: dict[State, tuple[Event, ...]] = {
    State.ABSENT: (),
    State.STARTING: (Event.WANTED,),
    State.READY: (Event.WANTED, Event.READY),
    State.RESTARTING: (Event.WANTED, Event.READY, Event.RESTART),
    State.PARKING: (Event.WANTED, Event.READY, Event.IDLE),
    State.PARKED: (Event.WANTED, Event.READY, Event.IDLE, Event.EXITED),
    State.DRAINING: (Event.WANTED, Event.READY, Event.STOP),
    State.BACKOFF: (Event.WANTED, Event.EXITED),
    State.FAILED: (Event.WANTED, Event.FAILED),
    State.SUSPENDING: (Event.WANTED, Event.READY, Event.SUSPEND),
    State.SUSPENDED: (Event.SUSPEND,),
}


@pytest.mark.parametrize("state", State)
def test_every_pair_is_in_the_table_or_raises_and_changes_nothing(state: State) -> None:
    for event in Event:
        subject = life(*WAYS[state])
        assert subject.state is state
        before = insides(subject)
        if (state, event) in TABLE:
            action = subject.on(event, 1.0)
            assert (subject.state, action) == TABLE[state, event]
        else:
            with pytest.raises(ImpossibleEventError, match=f"{event.name} cannot .* {state.name}"):
                subject.on(event, 1.0)
            assert insides(subject) == before


def reachable(start: State) -> set[State]:
    found = {start}
    while more := {target for (state, _), (target, _) in TABLE.items() if state in found} - found:
        found |= more
    return found


def test_every_state_is_reached_and_left_again() -> None:
    assert reachable(State.ABSENT) == set(State)
    for state in State:
        assert State.ABSENT in reachable(state)
        assert State.READY in reachable(state)


def test_every_event_and_action_is_used() -> None:
    assert {event for _, event in TABLE} == set(Event)
    assert {action for _, action in TABLE.values()} == set(Action)


def test_a_process_is_spawned_where_there_is_none() -> None:
    for (state, _), (target, action) in TABLE.items():
        assert (action is Action.SPAWN) == (state not in ALIVE and target in ALIVE)


def test_only_a_death_ends_a_process_and_the_next_may_take_its_place() -> None:
    for (state, event), (target, action) in TABLE.items():
        if event in DIED:
            assert state in ALIVE
            assert (target in ALIVE) == (action is Action.PROMOTE)
        else:
            assert state not in ALIVE or target in ALIVE


def test_a_next_generation_is_where_it_is_known_of() -> None:
    begins = {Action.SPAWN_NEXT}
    ends = {Action.SWITCH, Action.KEEP, Action.PROMOTE, Action.DRAIN}
    for (state, _), (target, action) in TABLE.items():
        if target is State.RESTARTING and state is not State.RESTARTING:
            assert action in begins
        elif state is State.RESTARTING and target is not State.RESTARTING:
            assert action in ends
        else:
            assert action not in begins | (ends - {Action.DRAIN})


def test_what_can_happen_at_any_time_is_known_everywhere() -> None:
    # A client's request and an operator's wish come when they come.
    for state in State:
        assert {(state, event) for event in AT_ANY_TIME} <= TABLE.keys()
    # And so does what a process does, or is seen not to do.
    for state in ALIVE - ENDING:
        assert {(state, Event.BROKE_LINK), *((state, event) for event in DIED)} <= TABLE.keys()
    for state in ENDING:
        seen = {Event.READY, Event.LATE, Event.HUNG, Event.BROKE_LINK, Event.IDLE, Event.EXITED}
        # Of a next generation that was killed with it, what it did before may come later.
        assert {(state, event) for event in seen | {Event.NEXT_READY, Event.NEXT_LATE}} <= set(
            TABLE
        )


def test_who_waits_is_answered_by_whatever_comes_next() -> None:
    for state in State:
        target, action = TABLE[state, Event.WANTED]
        if action is not Action.REFUSE:
            # From here it gets ready or fails: nothing else forgets him.
            ways = {State.STARTING, State.READY, State.RESTARTING, State.BACKOFF}
            assert target in ways
    # Who comes as it falls asleep does not wait for its end.
    assert TABLE[State.PARKING, Event.WANTED] == (State.STARTING, Action.REPLACE)
    assert TABLE[State.PARKING, Event.EXITED] == (State.PARKED, Action.SLEEP)


# --- deaths


def crash_and_retry(subject: Lifecycle, at: float) -> float:
    """One death at once after a start; gives the delay before the next start."""
    assert subject.on_death(death(at)) is Action.WAIT
    assert subject.state is State.BACKOFF
    delay = subject.next_delay()
    assert subject.on(Event.RETRY, at + delay) is Action.SPAWN
    return delay


def serve_and_retry(subject: Lifecycle, at: float, seconds: float) -> tuple[float, float]:
    """One life that is ready at `at`; gives when it was tried again, and the delay before that."""
    subject.on(Event.READY, at)
    delay = crash_and_retry(subject, at + seconds)
    return at + seconds + delay, delay


def test_five_restarts_in_a_minute_and_then_it_has_failed() -> None:
    subject = life(Event.WANTED)
    at, delays = 0.0, []
    for _ in range(RESTARTS_MAX):
        delays.append(crash_and_retry(subject, at))
        at += delays[-1]
    assert delays == [1, 2, 4, 8, 16]
    assert subject.on_death(death(at)) is Action.REFUSE
    assert subject.state is State.FAILED
    assert subject.reason == "6 deaths within 60 s of service; last: exit 1"
    assert subject.on(Event.WANTED, at + 1e6) is Action.REFUSE
    assert subject.state is State.FAILED


@pytest.mark.parametrize("seconds", [0.0, 12.0, 3600.0])
def test_one_that_never_gets_ready_fails_however_long_each_start_takes(seconds: float) -> None:
    subject = life(Event.WANTED)
    at = 0.0
    for _ in range(RESTARTS_MAX):
        at += seconds
        assert subject.on(Event.LATE, at) is Action.ABORT
        at += crash_and_retry(subject, at)
    assert subject.on_death(death(at + seconds)) is Action.REFUSE
    assert subject.state is State.FAILED


@pytest.mark.parametrize(
    ("last", "action"), [(19.999, Action.REFUSE), (20.0, Action.WAIT)], ids=["within", "outside"]
)
def test_the_budget_is_of_a_minute_of_service_and_no_more(last: float, action: Action) -> None:
    subject = life(Event.WANTED)
    at = 0.0
    for _ in range(RESTARTS_MAX):
        at, _ = serve_and_retry(subject, at, 10.0)
    subject.on(Event.READY, at + 1000.0)
    assert subject.on_death(death(at + 1000.0 + last)) is action


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_the_delay_doubles_up_to_a_minute(jitter: float) -> None:
    subject = life(Event.WANTED, jitter=jitter)
    at, delays = 0.0, []
    for _ in range(9):
        at, delay = serve_and_retry(subject, at, RESTART_WINDOW_SECONDS)
        delays.append(delay)
    expected = [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert delays == pytest.approx([base * (1 + BACKOFF_JITTER * jitter) for base in expected])


def test_jitter_spreads() -> None:
    assert len({Lifecycle().next_delay() for _ in range(20)}) > 1


@pytest.mark.parametrize(("seconds", "forgotten"), [(CLEAN_SECONDS, True), (599.9, False)])
def test_ten_clean_minutes_forget_what_was(seconds: float, forgotten: bool) -> None:
    subject = life(Event.WANTED)
    for number in range(4):
        crash_and_retry(subject, number)
    subject.on(Event.READY, 1000.0)
    assert subject.on_death(death(1000.0 + seconds)) is Action.WAIT
    assert subject.next_delay() == (1 if forgotten else 16)


def test_time_that_it_was_not_ready_is_not_clean() -> None:
    subject = life(Event.WANTED)
    crash_and_retry(subject, 0.0)
    assert subject.on_death(death(5000.0, uptime=4999.0)) is Action.WAIT
    assert subject.next_delay() == 2


@pytest.mark.parametrize("code", [3, 78])
@pytest.mark.parametrize("way", [State.STARTING, State.READY])
def test_what_would_fail_again_fails_at_once(way: State, code: int) -> None:
    subject = life(*WAYS[way])
    assert subject.on_death(death(1.0, exit_code=code)) is Action.REFUSE
    assert subject.state is State.FAILED
    assert subject.reason == f"exit {code}"


@pytest.mark.parametrize("code", [0, 1, 2, 77, 79, None])
def test_any_other_end_is_tried_again(code: int | None) -> None:
    subject = life(*WAYS[State.READY])
    assert subject.on_death(death(1.0, exit_code=code)) is Action.WAIT
    assert subject.state is State.BACKOFF
    assert subject.reason == f"exit {code}"


@pytest.mark.parametrize("code", [0, 1, 3, 78, None])
@pytest.mark.parametrize(
    ("ending", "end"),
    [
        (State.DRAINING, State.ABSENT),
        (State.PARKING, State.PARKED),
        (State.SUSPENDING, State.SUSPENDED),
    ],
)
def test_an_end_that_was_asked_for_costs_nothing(
    ending: State, end: State, code: int | None
) -> None:
    subject = life(*WAYS[ending])
    for number in range(2 * RESTARTS_MAX):
        subject.state = ending
        subject.on_death(death(number, exit_code=code))
        assert subject.state is end
    assert subject.next_delay() == 1
    assert subject.reason == ""


def test_an_operators_restart_forgives() -> None:
    subject = life(Event.WANTED)
    for number in range(RESTARTS_MAX):
        crash_and_retry(subject, number)
    assert subject.on_death(death(5.0)) is Action.REFUSE
    assert subject.on(Event.RESTART, 6.0) is Action.SPAWN
    assert [crash_and_retry(subject, 7.0 + number) for number in range(RESTARTS_MAX)] == [
        *(1, 2, 4, 8, 16)
    ]


def test_a_next_generation_that_dies_changes_nothing() -> None:
    subject = life(*WAYS[State.RESTARTING])
    for code in (0, 3, 78, None):
        assert subject.on_next_death(death(1.0, exit_code=code)) is Action.KEEP
        assert subject.state is State.READY
        assert subject.deaths[-1].exit_code == code
        assert subject.on(Event.RESTART, 2.0) is Action.SPAWN_NEXT
    assert subject.next_delay() == 1


@pytest.mark.parametrize("code", [0, 3, None])
def test_a_next_generation_takes_over_from_one_that_dies(code: int | None) -> None:
    subject = life(*WAYS[State.RESTARTING])
    assert subject.on_death(death(1.0, exit_code=code)) is Action.PROMOTE
    assert subject.on(Event.READY, 2.0) is Action.SERVE


def test_a_change_of_generations_is_no_break_in_the_service() -> None:
    subject = life(Event.WANTED)
    crash_and_retry(subject, 0.0)
    subject.on(Event.READY, 10.0)
    subject.on(Event.RESTART, 20.0)
    assert subject.on(Event.NEXT_READY, 30.0) is Action.SWITCH
    assert subject.on_death(death(10.0 + CLEAN_SECONDS)) is Action.WAIT
    assert subject.next_delay() == 1


def test_one_that_was_replaced_and_does_not_end_by_itself_is_a_death_without_consequence() -> None:
    subject = life(*WAYS[State.READY])
    killed = death(1.0, exit_code=None)
    subject.on_old_death(killed)
    subject.on_old_death(death(2.0, exit_code=0))
    assert list(subject.deaths) == [killed]
    assert (subject.state, subject.reason) == (State.READY, "")


def test_restarts_are_counted_and_wakes_are_not() -> None:
    subject = life(*WAYS[State.PARKED])
    subject.on(Event.WANTED, 1.0)
    assert subject.restarts == 0
    crash_and_retry(subject, 2.0)
    assert subject.restarts == 1
    subject.on(Event.READY, 3.0)
    subject.on(Event.RESTART, 4.0)
    subject.on(Event.RESTART, 4.0)  # refused: one is under way
    assert subject.restarts == 2
    subject.on_death(death(5.0))  # what was started already takes over
    assert (subject.state, subject.restarts) == (State.STARTING, 2)


def test_the_last_hundred_deaths_are_kept() -> None:
    subject = life(Event.WANTED)
    at, ends = 0.0, []
    for _ in range(DEATHS_KEPT + 50):
        ends.append(at + RESTART_WINDOW_SECONDS)
        at, _ = serve_and_retry(subject, at, RESTART_WINDOW_SECONDS)
    assert [kept.at for kept in subject.deaths] == ends[50:]
    assert DEATHS_KEPT == 100


# --- any life at all


class AnyLife(RuleBasedStateMachine):
    """Events and deaths in any order, beside the simplest account of what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Lifecycle(Jitter(0.0))
        self.now = 0.0
        self.present = self.next = False
        self.served = 0.0
        self.doubled = 0
        self.restarts: list[float] = []

    def forgive(self) -> None:
        self.restarts.clear()
        self.doubled = 0

    def act(self, action: Action) -> None:
        match action:
            case Action.SPAWN:
                assert not self.present
                self.present = True
            case Action.SPAWN_NEXT:
                assert self.present
                assert not self.next
                self.next = True
            case Action.SWITCH | Action.PROMOTE:
                assert self.next
                self.present, self.next = True, False
            case Action.KEEP | Action.DRAIN:
                self.next = False
            case Action.WAIT:
                assert self.life.next_delay() == min(2**self.doubled, BACKOFF_SECONDS_MAX)
                self.doubled += 1
            case _:
                pass

    @rule(seconds=st.sampled_from([0.0, 0.5, 7.0, 20.0, 60.0, 599.0, 600.0]))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds
        if self.life.state in (State.READY, State.RESTARTING):
            self.served += seconds

    @rule(event=st.sampled_from([event for event in Event if event not in DIED]))
    def something_happens(self, event: Event) -> None:
        before, state = insides(self.life), self.life.state
        if (state, event) in TABLE:
            action = self.life.on(event, self.now)
            if event is Event.RESTART and action is Action.SPAWN:
                self.forgive()
            self.act(action)
        else:
            with pytest.raises(ImpossibleEventError):
                self.life.on(event, self.now)
            assert insides(self.life) == before

    # Often enough that the budget is used up.
    @rule()
    def it_is_tried_again(self) -> None:
        if self.life.state is State.BACKOFF:
            self.act(self.life.on(Event.RETRY, self.now))

    @precondition(lambda self: self.present)
    @rule(code=st.sampled_from([0, 1, 3, 78, None]))
    def it_dies(self, code: int | None) -> None:
        state = self.life.state
        clean = bool(self.restarts) and self.served - self.restarts[-1] >= 600
        self.present = False
        expected = {
            State.DRAINING: State.ABSENT,
            State.PARKING: State.PARKED,
            State.SUSPENDING: State.SUSPENDED,
        }.get(state)
        if expected is None:
            expected = State.FAILED
            if clean and code not in (3, 78):
                self.forgive()
            recent = [at for at in self.restarts if self.served - at < 60]
            if code not in (3, 78) and len(recent) < 5:
                self.restarts.append(self.served)
                expected = State.BACKOFF
            if state is State.RESTARTING:
                expected = State.STARTING
        last = death(self.now, exit_code=code)
        action = self.life.on_death(last)
        assert self.life.state is expected
        # One that ended as it was told to is no death.
        kept = any(known is last for known in self.life.deaths)
        assert kept == (state not in ENDING or code != 0)
        self.act(action)

    @precondition(lambda self: self.next)
    @rule(code=st.sampled_from([0, 3, None]))
    def the_next_one_dies(self, code: int | None) -> None:
        self.act(self.life.on_next_death(death(self.now, exit_code=code)))
        assert self.life.state is State.READY

    @invariant()
    def there_are_the_processes_that_there_should_be(self) -> None:
        assert self.present == (self.life.state in ALIVE)
        assert self.next == (self.life.state is State.RESTARTING)

    @invariant()
    def no_minute_sees_more_restarts_than_the_budget(self) -> None:
        for start in self.restarts:
            assert sum(start <= at < start + 60 for at in self.restarts) <= RESTARTS_MAX

    @invariant()
    def trouble_has_a_reason(self) -> None:
        if self.life.state in (State.BACKOFF, State.FAILED):
            assert self.life.reason

    @invariant()
    def history_is_bounded(self) -> None:
        assert len(self.life.deaths) <= DEATHS_KEPT


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# --- the figure


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "lifecycle_diagram", ROOT / "scripts" / "lifecycle_diagram.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figure_shows_every_row(drawing: ModuleType) -> None:
    figure = drawing.diagram()
    assert figure.count("-->") == len(TABLE) + 1
    assert "\n    absent --> starting: wanted / spawn\n" in figure
    assert "\n    backoff --> absent: stop\n" in figure


def test_the_architecture_page_shows_this_table(drawing: ModuleType) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert page == drawing.with_diagram(page), (
        "run scripts/lifecycle_diagram.py --write docs/architecture.md"
    )


def test_the_figure_is_printed_or_written_between_its_markers(
    drawing: ModuleType, tmp_path: Path
) -> None:
    program = [sys.executable, str(ROOT / "scripts" / "lifecycle_diagram.py")]
    printed = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert printed == drawing.diagram() + "\n"
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- lifecycle -->\nold\n<!-- /lifecycle -->\nafter\n")
    for _ in range(2):
        subprocess.run([*program, "--write", str(page)], check=True)
        assert page.read_text() == (
            f"before\n<!-- lifecycle -->\n{drawing.diagram()}\n<!-- /lifecycle -->\nafter\n"
        )
    page.write_text("no markers")
    with pytest.raises(ValueError, match="no single"):
        drawing.with_diagram(page.read_text())
