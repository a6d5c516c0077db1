import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest
import structlog

from supervisor import keeper
from supervisor.child import Exit
from supervisor.keeper import Keeper

DIED = Exit(1, None)


class Process:
    """Something that runs until it is told that it has ended."""

    def __init__(self) -> None:
        self.ended = False


class Kept:
    """A keeper, and what it starts: `refusals` of the next starts fail."""

    def __init__(self) -> None:
        self.started: list[Process] = []
        self.refusals = 0
        self.tries = 0
        self.changes = 0
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.tasks: list[asyncio.Task[None]] = []
        self.respawns: Counter[str] = Counter()
        self.keeper = Keeper(
            "process",
            self.start,
            self.changed,
            self.run,
            structlog.get_logger(),
            self.respawns,
        )

    async def start(self) -> Process:
        self.tries += 1
        await self.may_start.wait()
        if self.refusals:
            self.refusals -= 1
            raise TimeoutError
        self.started.append(Process())
        return self.started[-1]

    def changed(self) -> None:
        self.changes += 1

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    def die(self, process: Process) -> None:
        process.ended = True
        self.keeper.ended(process, DIED)


async def test_one_that_dies_is_replaced() -> None:
    kept = Kept()
    assert await kept.keeper.start() is None
    first = kept.keeper.present
    assert first is not None
    kept.die(first)
    assert kept.keeper.present is None
    second = await kept.keeper.get()
    assert second is not first
    assert kept.started == [first, second]
    assert kept.changes == 2
    assert kept.respawns == {"process": 1}


async def test_it_is_tried_until_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "RESPAWN_SECONDS_MIN", 0.001)
    kept = Kept()
    await kept.keeper.start()
    kept.refusals = 3
    kept.die(kept.started[0])
    await kept.keeper.get()
    assert kept.tries == 5


async def test_another_one_starts_beside_and_the_one_before_is_given_back() -> None:
    kept = Kept()
    await kept.keeper.start()
    first = kept.keeper.present
    kept.may_start.clear()
    swap = asyncio.create_task(kept.keeper.start())
    await asyncio.sleep(0)
    assert kept.keeper.present is first
    kept.may_start.set()
    assert await swap is first
    assert kept.keeper.present is kept.started[1]
    assert first is not None
    kept.die(first)  # it was told to: nobody replaces it
    assert kept.keeper.present is kept.started[1]
    assert kept.tasks == []
    assert not kept.respawns


async def test_one_that_does_not_start_leaves_the_one_before() -> None:
    kept = Kept()
    await kept.keeper.start()
    kept.refusals = 1
    with pytest.raises(TimeoutError):
        await kept.keeper.start()
    assert kept.keeper.present is kept.started[0]


async def test_a_swap_and_a_death_at_once_leave_one_and_only_one() -> None:
    kept = Kept()
    await kept.keeper.start()
    kept.may_start.clear()
    swap = asyncio.create_task(kept.keeper.start())
    await asyncio.sleep(0)
    kept.die(kept.started[0])
    kept.may_start.set()
    assert await swap is None
    await asyncio.gather(*kept.tasks)
    assert len(kept.started) == 2
    assert kept.keeper.present is kept.started[1]


async def test_nothing_is_started_after_the_end() -> None:
    kept = Kept()
    await kept.keeper.start()
    kept.keeper.close()
    kept.die(kept.started[0])
    assert kept.tasks == []
