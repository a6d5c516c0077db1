"""Spares as the supervisor keeps them, made by a real zygote whose workers wait to be told."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from protocol import limits
from supervisor.child import FIRST_DESCRIPTOR
from supervisor.logs import open_log
from supervisor.newborn import Newborn
from supervisor.zygote import seccomp
from supervisor.zygote.main import command
from supervisor.zygote.spec import JailSpec, Limits
from supervisor.zygote_process import ZygoteProcess
from tests.attack import harness

Body = Callable[[ZygoteProcess], Coroutine[Any, Any, None]]


@pytest.fixture
def state(state_dir: Path) -> Path:
    harness.make_state(state_dir, "acme", "globex")
    return state_dir


def with_zygote(state: Path, shape: JailSpec | None, body: Body) -> None:
    """Run `body` with a zygote that keeps spares of a shape."""

    async def run() -> None:
        isolated, _, *arguments = command(FIRST_DESCRIPTOR)[1:]
        program = [isolated, str(harness.ATTACKER), *arguments, "{}"]
        policy, log = seccomp.compiled("zygote"), open_log(state / "gateway.log")
        zygote = ZygoteProcess(program, policy, lambda *_: None, log, shape)
        await zygote.start()
        try:
            async with asyncio.timeout(harness.DEADLINE_SECONDS):
                await body(zygote)
        finally:
            await zygote.stop()

    asyncio.run(run())


async def all_wait(zygote: ZygoteProcess) -> list[Newborn]:
    """The spares, when as many have been made as there should be, or one has failed."""
    assert zygote.spares._refilling is not None
    await zygote.spares._refilling
    return list(zygote.spares.waiting)


async def spawn(zygote: ZygoteProcess, state: Path, jail: JailSpec) -> int:
    """Have a worker made, see it serve, end it; gives its pid."""
    newborn = await zygote.spawn(jail, harness.order(state, "wait_to_be_told"))
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(newborn.ready, ready.set_result, None)
    await ready
    asyncio.get_running_loop().remove_reader(newborn.ready)
    newborn.kill()
    await newborn.child.wait()
    newborn.close()
    return newborn.child.pid


def test_what_is_spawned_is_the_oldest_spare(state: Path) -> None:
    jail = harness.worker_spec(state, "acme")

    async def body(zygote: ZygoteProcess) -> None:
        spares = await all_wait(zygote)
        assert len(spares) == limits.SPARES
        assert await spawn(zygote, state, jail) == spares[0].child.pid
        globex = harness.worker_spec(state, "globex")
        assert await spawn(zygote, state, globex) == spares[1].child.pid

    with_zygote(state, jail.shape, body)


def test_another_shape_is_made_for_the_request(state: Path) -> None:
    jail = harness.worker_spec(state, "acme")
    other = harness.worker_spec(state, "acme", limits=Limits(open_files=100))

    async def body(zygote: ZygoteProcess) -> None:
        spares = {spare.child.pid for spare in await all_wait(zygote)}
        assert await spawn(zygote, state, other) not in spares
        assert {spare.child.pid for spare in zygote.spares.waiting} == spares

    with_zygote(state, jail.shape, body)


def test_without_a_shape_there_are_none(state: Path) -> None:
    async def body(zygote: ZygoteProcess) -> None:
        await spawn(zygote, state, harness.worker_spec(state, "acme"))
        assert not zygote.spares.waiting

    with_zygote(state, None, body)


def test_one_that_is_retired_still_answers_who_waits_for_a_spare_that_hangs(state: Path) -> None:
    jail = harness.worker_spec(state, "acme")

    async def body(zygote: ZygoteProcess) -> None:
        spares = {spare.child.pid for spare in await all_wait(zygote)}
        zygote.spares.waiting[0].child.signal(signal.SIGSTOP)
        spawning = asyncio.create_task(spawn(zygote, state, jail))
        await asyncio.sleep(0)  # it has been told, and does not answer
        retiring = asyncio.create_task(zygote.retire())
        assert await spawning not in spares
        await retiring

    with_zygote(state, jail.shape, body)


def test_spares_that_cannot_live_are_not_made_again_and_again(state: Path) -> None:
    jail = harness.worker_spec(state, "acme", readable=("/usr", "/openclaw-missing"))

    async def body(zygote: ZygoteProcess) -> None:
        assert await all_wait(zygote) == []
        newborn = await zygote.spawn(jail, b"")
        assert (await newborn.child.wait()).code == 78
        newborn.close()

    with_zygote(state, jail.shape, body)
    lines = (state / "gateway.log").read_text().splitlines()
    # One at the start, one after the spawn.
    assert 1 <= sum("a spare died" in line for line in lines) <= 2


def test_a_zygote_that_is_stopped_leaves_no_spare(state: Path) -> None:
    jail = harness.worker_spec(state, "acme")
    spares: list[Newborn] = []

    async def body(zygote: ZygoteProcess) -> None:
        spares.extend(await all_wait(zygote))

    with_zygote(state, jail.shape, body)
    assert len(spares) == limits.SPARES
    assert all(spare.child.ended for spare in spares)
