"""Who may write, by what was counted."""

import pytest

from supervisor.caps.disk_judge import (
    GROWING_BYTES,
    OVERGROWTH_BYTES,
    OVERGROWTH_INODES,
    SETTLE_SECONDS,
    Judge,
    shown,
)
from supervisor.caps.disk_messages import Counted, Left
from supervisor.caps.disk_watch import Bounds

MIB = 2**20
LIMIT = 100 * MIB
FLOOR = 1000 * MIB
TOTAL = 10**12


class Stage:
    """A judge, a clock, and a disk."""

    def __init__(self, *tenants: str) -> None:
        self.judge = Judge(FLOOR)
        self.now = 100.0
        self.leave(10 * FLOOR)
        for tenant in tenants:
            self.judge.bound(tenant, Bounds(LIMIT, 1000), self.now)

    def count(self, tenant: str, size: int, inodes: int = 1, fault: str | None = None) -> None:
        """A count that has just begun and is over."""
        found = Counted(tenant=tenant, bytes=size, inodes=inodes, fault=fault)
        self.judge.count(found, self.now)

    def leave(self, size: int, total: int = TOTAL) -> None:
        self.judge.leave(Left(bytes=size, inodes=None, total_bytes=total), self.now)

    def refusal(self, tenant: str) -> str | None:
        refusal = self.judge.refusal(tenant)
        return None if refusal is None else refusal.code


def test_over_its_limit_it_may_not_write_and_below_it_again() -> None:
    stage = Stage("acme", "globex")
    assert stage.refusal("acme") is None, "nobody has counted it"
    stage.count("acme", LIMIT)
    assert stage.refusal("acme") is None
    stage.count("acme", LIMIT + 1)
    refusal = stage.judge.refusal("acme")
    assert refusal is not None
    assert refusal.code == "QUOTA_EXCEEDED"
    assert "take 100 MiB of the disk, and may take 100 MiB (limits.diskBytes)" in refusal.message
    error = refusal.error()
    assert error.details == {
        "limit": "diskBytes",
        "used": LIMIT + 1,
        "most": LIMIT,
        "retryAfterMs": 5000,
    }
    assert stage.refusal("globex") is None
    stage.count("acme", LIMIT)
    assert stage.refusal("acme") is None


def test_inodes_and_what_cannot_be_counted() -> None:
    stage = Stage("acme")
    stage.count("acme", 0, 1001)
    refusal = stage.judge.refusal("acme")
    assert refusal is not None
    assert "1001 files and directories or more, and may have 1000" in refusal.message
    assert refusal.details["limit"] == "diskInodes"
    stage.count("acme", 0, 5, fault="it is closed")
    refusal = stage.judge.refusal("acme")
    assert refusal is not None
    assert refusal.message.endswith("cannot be counted: it is closed")


def test_other_bounds_hold_at_once() -> None:
    stage = Stage("acme")
    stage.count("acme", LIMIT + 1)
    stage.judge.bound("acme", Bounds(None, None), stage.now)
    assert stage.refusal("acme") is None
    stage.judge.bound("acme", Bounds(MIB, None), stage.now)
    assert stage.refusal("acme") == "QUOTA_EXCEEDED"


@pytest.mark.parametrize("more", ["bytes", "inodes"])
def test_who_writes_on_is_found_out(more: str) -> None:
    stage = Stage("acme")
    stage.count("acme", LIMIT + 1)
    stage.now += SETTLE_SECONDS / 2
    stage.count("acme", LIMIT + 500 * MIB, 50_000)  # what was on its way when it was told
    stage.now += SETTLE_SECONDS
    stage.count("acme", LIMIT + 600 * MIB, 60_000)
    stage.now += 1
    stage.count("acme", LIMIT + 600 * MIB + OVERGROWTH_BYTES, 60_000 + OVERGROWTH_INODES)
    assert stage.judge.defiance("acme") is None, "what it needs to remove things"
    stage.now += 1
    if more == "bytes":
        stage.count("acme", LIMIT + 601 * MIB + OVERGROWTH_BYTES, 60_000)
        assert stage.judge.defiance("acme") == (
            "it wrote 33 MiB more to the disk after it had been told to stop"
        )
    else:
        stage.count("acme", LIMIT + 600 * MIB, 60_001 + OVERGROWTH_INODES)
        assert "1001 files" in (stage.judge.defiance("acme") or "")
    stage.judge.give_another_chance("acme", stage.now)
    assert stage.judge.defiance("acme") is None
    stage.now += SETTLE_SECONDS
    stage.count("acme", LIMIT + 600 * MIB)
    stage.count("acme", LIMIT + 900 * MIB)
    assert stage.judge.defiance("acme") is not None
    stage.count("acme", LIMIT)
    assert stage.judge.defiance("acme") is None


def test_a_count_that_began_before_it_was_told_proves_nothing() -> None:
    stage = Stage("acme")
    stage.count("acme", LIMIT + 1)
    stage.now += 10 * SETTLE_SECONDS
    old = Counted(tenant="acme", bytes=LIMIT + 1, inodes=1, age_seconds=10 * SETTLE_SECONDS)
    stage.judge.count(old, stage.now)
    stage.count("acme", LIMIT + 2 * OVERGROWTH_BYTES)
    assert stage.judge.defiance("acme") is None


def test_at_the_floor_those_stop_who_fill_the_disk() -> None:
    stage = Stage("fills", "lives", "full")
    for tenant in ("fills", "lives"):
        stage.count(tenant, MIB)
    stage.count("full", LIMIT + 1)
    stage.now += 1
    stage.count("fills", MIB + GROWING_BYTES)
    stage.count("lives", 2 * MIB)
    stage.leave(FLOOR)
    assert stage.refusal("fills") is None
    stage.leave(FLOOR - 1)
    refusal = stage.judge.refusal("fills")
    assert refusal is not None
    assert refusal.code == "UNAVAILABLE"
    assert "caps.disk_floor_bytes" in refusal.message
    assert stage.refusal("lives") is None
    assert stage.refusal("full") == "QUOTA_EXCEEDED", "its own limit is what it can do about"
    stage.leave(FLOOR + 1)
    assert stage.refusal("fills") == "UNAVAILABLE", "a little more has to be free first"
    stage.count("lives", 2 * MIB + GROWING_BYTES)
    assert stage.refusal("lives") == "UNAVAILABLE", "now it is the one"
    stage.leave(FLOOR * 9 // 8)
    assert stage.refusal("fills") is None
    assert stage.refusal("lives") is None


def test_below_half_of_the_floor_everybody_stops() -> None:
    stage = Stage("acme")
    stage.count("acme", MIB)
    stage.leave(FLOOR // 2)
    assert stage.refusal("acme") is None
    stage.leave(FLOOR // 2 - 1)
    assert stage.refusal("acme") == "UNAVAILABLE"
    stage.judge.bound("globex", Bounds(None, None), stage.now)
    assert stage.refusal("globex") == "UNAVAILABLE", "whoever comes later too"


def test_growth_is_forgotten() -> None:
    stage = Stage("acme")
    stage.count("acme", MIB)
    stage.count("acme", MIB + 2 * GROWING_BYTES)
    stage.now += 60
    stage.count("acme", MIB + 2 * GROWING_BYTES)
    stage.leave(FLOOR - 1)
    assert stage.refusal("acme") is None


def test_on_a_small_disk_the_floor_is_a_part_of_it() -> None:
    stage = Stage("acme")
    stage.count("acme", MIB)
    stage.leave(FLOOR // 10, total=FLOOR)
    assert stage.refusal("acme") is None
    stage.leave(FLOOR // 41, total=FLOOR)
    assert stage.refusal("acme") == "UNAVAILABLE"


def test_who_is_gone_has_nothing() -> None:
    stage = Stage("acme")
    stage.count("acme", LIMIT + 1)
    stage.judge.forget("acme")
    stage.count("acme", LIMIT + 1)
    assert stage.judge.refusal("acme") is None
    assert stage.judge.counted("acme") is None
    assert stage.judge.defiance("acme") is None


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (2**60, "1024 PiB")],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert shown(size) == text
