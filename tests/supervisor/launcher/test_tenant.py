"""Whose turn it is among the runs of one tenant."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protocol import launching
from protocol.errors import ErrorCode, GatewayError
from supervisor.config import SandboxSection
from supervisor.launcher.directory import Directories
from supervisor.launcher.tenant import Tenant
from supervisor.sandboxes import place

SECTION = SandboxSection(concurrent=2, queued=3)


@pytest.fixture
async def tenant(state_dir: Path) -> AsyncIterator[Tenant]:
    (state_dir / "tenants" / "acme").mkdir(parents=True)
    told = place(SECTION, "acme", 1, None)
    directories = Directories(str(state_dir), "acme", told.uid, told.gid)
    yield Tenant(told, directories, lambda _: None)
    directories.close()


class Turns:
    """Runs that go on until they are told not to."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.began: list[str] = []
        self._over: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, *names: str) -> None:
        for name in names:
            self._over[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._run(name))
        await self.settle()

    async def _run(self, name: str) -> None:
        async with self.tenant.turn():
            self.began.append(name)
            await self._over[name].wait()

    async def end(self, *names: str) -> None:
        for name in names:
            self._over[name].set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def test_who_came_first_is_first(tenant: Tenant) -> None:
    turns = Turns(tenant)
    await turns.start("a", "b", "c", "d", "e")
    assert (turns.began, tenant.queued) == (["a", "b"], 3)
    await turns.end("b")
    assert turns.began == ["a", "b", "c"]
    await turns.start("f")  # behind those that wait, though one of two is just free
    await turns.end("a", "c", "d", "e", "f")
    assert turns.began == ["a", "b", "c", "d", "e", "f"]
    assert tenant.queued == 0


async def test_over_those_that_may_wait_one_is_refused(tenant: Tenant) -> None:
    turns = Turns(tenant)
    await turns.start("a", "b", "c", "d", "e", "f")
    with pytest.raises(GatewayError) as refused:
        await turns.tasks["f"]
    assert refused.value.code is ErrorCode.RATE_LIMITED
    await turns.end("a", "b", "c", "d", "e")


async def test_who_goes_away_while_waiting_leaves_no_gap(tenant: Tenant) -> None:
    turns = Turns(tenant)
    await turns.start("a", "b", "c", "d")
    turns.tasks["c"].cancel()
    await turns.end("a")
    assert turns.began == ["a", "b", "d"]
    await turns.start("e")
    await turns.end("b", "d", "e")
    assert turns.began[-1] == "e"


async def test_who_goes_away_as_its_turn_comes_passes_it_on(tenant: Tenant) -> None:
    turns = Turns(tenant)
    await turns.start("a", "b", "c", "d")
    turns._over["a"].set()
    await asyncio.sleep(0)  # `a` gives its turn to `c`, which has not run yet
    await asyncio.sleep(0)
    turns.tasks["c"].cancel()
    await turns.settle()
    assert "d" in turns.began
    await turns.end("b", "d")
    assert tenant.queued == 0
    await turns.start("x", "y")
    assert turns.began[-2:] == ["x", "y"]
    await turns.end("x", "y")


async def test_fewer_at_a_time_holds_from_then_on(tenant: Tenant) -> None:
    turns = Turns(tenant)
    await turns.start("a", "b", "c")
    tenant.place = place(SandboxSection(concurrent=1), "acme", 2, None)
    await turns.end("a")
    assert turns.began == ["a", "b"]
    await turns.end("b")
    assert turns.began == ["a", "b", "c"]
    await turns.end("c")


def test_a_place_says_what_the_configuration_does() -> None:
    told = place(SECTION, "acme", 1, 70000)
    assert (told.uid, told.gid, told.ceilings.concurrent, told.ceilings.queued) == (
        *(70000, 70000),
        *(2, 3),
    )
    assert told.ceilings.sandbox == launching.Caps(memory_bytes=512 * 2**20, cpus=1.0, pids=128)
