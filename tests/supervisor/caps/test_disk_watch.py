"""Who is counted next, by what the disk has lost."""

from supervisor.caps.disk_walk import Use
from supervisor.caps.disk_watch import (
    BLIND_SECONDS,
    PERIOD_SECONDS,
    PERIODIC_SHARE,
    Bounds,
    Free,
    Watch,
    is_over,
)

TOTAL = 10**12
MIB = 2**20


class Stage:
    """A disk, a clock and a watch."""

    def __init__(self, floor_bytes: int = 0) -> None:
        self.watch = Watch(floor_bytes)
        self.now = 100.0
        self.bytes = 10**11
        self.inodes: int | None = 10**7
        self.lose(0)

    def lose(self, size: int, inodes: int = 0) -> None:
        self.bytes -= size
        if self.inodes is not None:
            self.inodes -= inodes
        self.watch.note_free(Free(self.bytes, self.inodes, TOTAL))

    def add(self, tenant: str, use: Use, bounds: Bounds, seconds: float = 0.01) -> None:
        self.watch.add(tenant, bounds)
        self.count(tenant, use, seconds)

    def count(self, tenant: str, use: Use, seconds: float = 0.01) -> None:
        self.watch.begin(tenant)
        self.watch.end(tenant, use, seconds, self.now)
        self.now += seconds

    def due(self) -> list[str]:
        return self.watch.due(self.now)


def test_who_has_never_been_counted_is_first() -> None:
    stage = Stage()
    stage.watch.add("acme", Bounds(100 * MIB, 1000))
    assert stage.due() == ["acme"]
    stage.watch.begin("acme")
    assert stage.due() == [], "it is being counted"
    stage.watch.end("acme", Use(MIB, 10), 0.5, stage.now)
    assert stage.due() == []


def test_who_cannot_have_come_over_its_limit_is_left_alone() -> None:
    stage = Stage()
    stage.add("near", Use(90 * MIB, 10), Bounds(100 * MIB, 1000))
    stage.add("far", Use(10 * MIB, 10), Bounds(100 * MIB, 1000))
    stage.add("free", Use(10 * MIB, 10), Bounds(None, None))
    stage.lose(10 * MIB)
    assert stage.due() == []
    stage.lose(1)
    assert stage.due() == ["near"]
    stage.lose(80 * MIB)
    assert stage.due() == ["far", "near"]


def test_what_is_given_back_does_not_make_up_for_what_was_lost() -> None:
    stage = Stage()
    stage.add("acme", Use(90 * MIB, 10), Bounds(100 * MIB, None))
    for _ in range(3):
        stage.lose(4 * MIB)
        stage.lose(-4 * MIB)
    assert stage.due() == ["acme"]


def test_inodes_are_lost_too() -> None:
    stage = Stage()
    stage.add("acme", Use(0, 990), Bounds(None, 1000))
    stage.lose(0, inodes=10)
    assert stage.due() == []
    stage.lose(0, inodes=1)
    assert stage.due() == ["acme"]


def test_what_is_lost_during_a_count_counts_for_the_next() -> None:
    stage = Stage()
    stage.watch.add("acme", Bounds(100 * MIB, None))
    stage.watch.begin("acme")
    stage.lose(20 * MIB)
    stage.watch.end("acme", Use(90 * MIB, 1), 0.01, stage.now)
    stage.now += 0.01
    assert stage.due() == ["acme"]


def test_other_bounds_make_another_suspect() -> None:
    stage = Stage()
    stage.add("acme", Use(90 * MIB, 10), Bounds(None, None))
    stage.lose(20 * MIB)
    assert stage.due() == []
    stage.watch.add("acme", Bounds(None, None))
    assert stage.due() == [], "they are the same"
    stage.watch.add("acme", Bounds(200 * MIB, None))
    assert stage.due() == ["acme"]
    assert stage.watch.bounds("acme") == Bounds(200 * MIB, None)


def test_one_that_is_over_is_counted_when_anything_changes() -> None:
    stage = Stage()
    stage.add("acme", Use(101 * MIB, 10), Bounds(100 * MIB, None))
    stage.add("odd", Use(1, 1, "a fault"), Bounds(None, None))
    assert stage.due() == []
    stage.lose(-1)
    assert stage.due() == ["acme", "odd"]


def test_everybody_is_counted_from_time_to_time_and_costs_little() -> None:
    stage = Stage()
    for number in range(100):
        stage.add(f"t{number}", Use(0, 1), Bounds(None, None), seconds=0.01)
    period = 100 * 0.01 / PERIODIC_SHARE
    assert period > PERIOD_SECONDS
    stage.now = 100.01 + period
    assert stage.due() == ["t0"]


def test_where_nobody_says_how_many_inodes_are_free_it_is_looked_more_often() -> None:
    stage = Stage()
    stage.inodes = None
    stage.lose(0)
    stage.add("acme", Use(0, 1), Bounds(None, 1000), seconds=0.0)
    stage.now += BLIND_SECONDS
    assert stage.due() == ["acme"]


def test_a_long_count_takes_half_of_the_time_at_most() -> None:
    stage = Stage()
    stage.add("acme", Use(99 * MIB, 10), Bounds(100 * MIB, None), seconds=2.0)
    stage.now -= 2.0
    stage.lose(10 * MIB)
    assert stage.due() == []
    stage.now += 2.0
    assert stage.due() == ["acme"]


def test_near_the_floor_everybody_is_counted_when_anything_is_lost() -> None:
    stage = Stage(floor_bytes=10**9)
    stage.bytes = 3 * 10**9
    stage.lose(0)
    stage.add("acme", Use(0, 1), Bounds(None, None))
    stage.lose(1)
    assert stage.due() == []
    stage.bytes = 2 * 10**9 - 1
    stage.lose(0)
    assert stage.due() == ["acme"]


def test_who_is_not_watched_is_not_counted() -> None:
    stage = Stage()
    stage.watch.add("acme", Bounds(1, 1))
    stage.watch.remove("acme")
    stage.watch.begin("acme")
    stage.watch.end("acme", Use(), 0.1, stage.now)
    assert stage.watch.is_idle
    assert stage.due() == []
    assert stage.watch.bounds("acme") == Bounds(None, None)


def test_at_its_limit_it_is_not_over_it() -> None:
    assert not is_over(Use(10, 10), Bounds(10, 10))
    assert is_over(Use(11, 10), Bounds(10, 10))
    assert is_over(Use(10, 11), Bounds(10, 10))
    assert not is_over(Use(10**18, 10**9), Bounds(None, None))
    assert is_over(Use(0, 0, "a fault"), Bounds(None, None))
