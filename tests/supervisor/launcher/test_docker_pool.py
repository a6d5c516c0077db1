"""Containers made ahead, those that were left behind, those whose directory was swapped."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from protocol import limits
from protocol.errors import ErrorCode, GatewayError
from supervisor.launcher import docker_client, docker_container
from supervisor.launcher.docker_client import Api
from supervisor.launcher.docker_profile import GATEWAY_LABEL, TENANT_LABEL, Given, shape_of
from tests.conftest import make_state_dir, remove_tree
from tests.supervisor.launcher.docker_runs import Sandboxes

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def api(dockerd: str) -> Iterator[Api]:
    made = docker_client.connect(dockerd)
    yield made
    made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def sandboxes(dockerd: str, docker_image: str) -> AsyncIterator[Sandboxes]:
    state_dir = make_state_dir()
    made = Sandboxes(state_dir, dockerd, {"base": docker_image})
    yield made
    await made.engine.close()
    remove_tree(state_dir)


def containers(api: Api, sandboxes: Sandboxes) -> list[dict[str, Any]]:
    label = f"{GATEWAY_LABEL}={sandboxes.root.name}"
    found: list[dict[str, Any]] = api.containers(all=True, filters={"label": label})
    return found


async def settled(sandboxes: Sandboxes, ready: int) -> None:
    """Wait until so many are ready and the used ones are gone."""
    engine = sandboxes.engine
    async with asyncio.timeout(30):
        while tasks := [*engine._tasks, *engine._pool._tasks]:
            await asyncio.wait(tasks)
    assert engine._pool.ready == ready


async def test_one_is_made_ready_after_a_use_and_is_used_next(
    sandboxes: Sandboxes, api: Api
) -> None:
    assert containers(api, sandboxes) == []
    await sandboxes.shell("true")
    await settled(sandboxes, ready=1)
    (waiting,) = containers(api, sandboxes)
    assert waiting["Labels"][TENANT_LABEL] == "acme"
    said = await sandboxes.shell("cat /proc/sys/kernel/hostname; grep -c . /proc/self/cgroup")
    assert said.outcome.exit_code == 0
    await settled(sandboxes, ready=1)
    (other,) = containers(api, sandboxes)
    assert other["Id"] != waiting["Id"]


async def test_what_was_made_ready_and_has_died_is_not_used(sandboxes: Sandboxes, api: Api) -> None:
    await sandboxes.shell("true")
    await settled(sandboxes, ready=1)
    api.kill(containers(api, sandboxes)[0]["Id"])
    assert (await sandboxes.shell("echo on")).out == b"on\n"


async def test_nobody_gets_a_neighbours(sandboxes: Sandboxes, api: Api) -> None:
    await sandboxes.shell("echo acme >/work/who")
    await settled(sandboxes, ready=1)
    said = await sandboxes.shell("cat /work/who; echo globex >/work/who", tenant="globex")
    assert said.out == b""
    await settled(sandboxes, ready=2)
    sandboxes.engine.forget("acme")
    await settled(sandboxes, ready=1)
    assert [each["Labels"][TENANT_LABEL] for each in containers(api, sandboxes)] == ["globex"]


async def test_a_tenant_has_few_kinds_ready(sandboxes: Sandboxes) -> None:
    for number in range(limits.DOCKER_SHAPES_PER_TENANT_MAX + 1):
        await sandboxes.shell("true", name=f"n{number}")
    await settled(sandboxes, ready=limits.DOCKER_SHAPES_PER_TENANT_MAX)


async def test_they_are_given_up_in_the_end(sandboxes: Sandboxes, api: Api) -> None:
    await sandboxes.shell("true")
    await settled(sandboxes, ready=1)
    (shelf,) = sandboxes.engine._pool._shelves.values()
    assert shelf.idle is not None
    left = shelf.idle.when() - asyncio.get_running_loop().time()
    assert 0 < left <= limits.DOCKER_IDLE_SECONDS
    shelf.idle._run()
    await settled(sandboxes, ready=0)
    assert containers(api, sandboxes) == []


async def test_many_at_once(sandboxes: Sandboxes) -> None:
    said = await asyncio.gather(
        *(sandboxes.shell(f"echo {number}", name=f"n{number % 2}") for number in range(6))
    )
    assert [each.out for each in said] == [f"{number}\n".encode() for number in range(6)]


async def test_another_directory_of_the_same_name(sandboxes: Sandboxes) -> None:
    await sandboxes.shell("echo old >/work/file")
    await settled(sandboxes, ready=1)
    sandboxes.directory().rename(sandboxes.directory().with_name("away"))
    said = await sandboxes.shell("ls /work; echo new >/work/file")
    assert said.out == b""
    assert (sandboxes.directory() / "file").read_text() == "new\n"
    assert (sandboxes.directory("away") / "file").read_text() == "old\n"


async def test_a_cancelled_start_leaves_nothing(sandboxes: Sandboxes, api: Api) -> None:
    starting = asyncio.create_task(sandboxes.shell("true"))
    await asyncio.wait(sandboxes.engine._tasks)
    await asyncio.sleep(0)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    await settled(sandboxes, ready=1)
    assert len(containers(api, sandboxes)) == 1


# What an earlier launcher has left


async def test_sweep(
    sandboxes: Sandboxes, api: Api, dockerd: str, docker_image: str, state_dir: Path
) -> None:
    earlier = Sandboxes(
        state_dir, dockerd, {"base": docker_image}, gateway=sandboxes.root.name, warm=0
    )
    other = Sandboxes(state_dir, dockerd, {"base": docker_image}, gateway="other", warm=0)
    left = [await each.begin("/bin/sleep", "60") for each in (earlier, other)]
    assert len(containers(api, sandboxes)) == 1
    later = Sandboxes(state_dir, dockerd, {"base": docker_image}, gateway=sandboxes.root.name)
    await settled(later, ready=0)
    assert containers(api, sandboxes) == []
    assert later.log == ["1 containers of an earlier launcher were removed"]
    async with asyncio.timeout(20):
        assert (await left[0][0].wait()).signal == 9
    assert other.engine._used  # it belongs to another gateway
    for each in (other, earlier, later):
        await each.engine.close()
    for job, pipes in left:
        job.close()
        for descriptor in pipes:
            os.close(descriptor)


# The directory


class SwappedAtStart:
    """The daemon, and a tenant who swaps the directory after it was looked up, before the mount."""

    def __init__(self, api: Api, swap: Callable[[], None]) -> None:
        self._api = api
        self._swap = swap

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def start(self, container: str) -> None:
        self._swap()
        self._api.start(container)


@pytest.mark.parametrize("kind", ["link", "directory", "nothing", "file"])
async def test_a_directory_swapped_before_it_is_mounted(
    sandboxes: Sandboxes, api: Api, docker_image: str, kind: str
) -> None:
    mine, secret = sandboxes.directory(), sandboxes.root / "secret"
    secret.mkdir()

    def swap() -> None:
        mine.rename(mine.with_name("away"))
        if kind == "link":
            mine.symlink_to(secret)
        elif kind == "directory":
            secret.rename(mine)
        elif kind == "file":
            mine.write_text("")

    launch = sandboxes.launch("true")
    shape = shape_of(launch, docker_image, None)
    given = Given({GATEWAY_LABEL: sandboxes.root.name}, None, "")
    with pytest.raises(GatewayError, match="sandbox/main was moved") as refused:
        docker_container.create(
            SwappedAtStart(api, swap), "openclaw-swapped", shape, launch.directory, {}, given
        )
    assert refused.value.code is ErrorCode.CONFLICT
    assert containers(api, sandboxes) == []
    os.close(launch.directory)


def swap_until(over: threading.Event, mine: Path, secret: Path) -> None:
    away = mine.with_name("away")
    while not over.is_set():
        mine.rename(away)
        mine.symlink_to(secret)
        over.wait(0.003)
        mine.unlink()
        away.rename(mine)
        over.wait(0.003)


async def test_a_directory_that_is_swapped_all_the_time(sandboxes: Sandboxes) -> None:
    secret, mine = sandboxes.root / "secret", sandboxes.directory()
    secret.mkdir()
    (secret / "secret").touch()
    (mine / "mine").touch()
    directory = sandboxes.open()
    over = threading.Event()
    swapping = threading.Thread(target=swap_until, args=(over, mine, secret))
    swapping.start()
    try:
        seen = [await listing(sandboxes, directory) for _ in range(8)]
    finally:
        over.set()
        swapping.join()
    assert set(seen) <= {"mine", "moved"}
    assert await listing(sandboxes, directory) == "mine"
    os.close(directory)


async def listing(sandboxes: Sandboxes, directory: int) -> str:
    try:
        said = await sandboxes.run("/bin/ls", "/work", directory=directory)
    except GatewayError as error:
        return "moved" if error.code is ErrorCode.CONFLICT else error.message
    return said.out.decode().strip()


# What cannot be had


async def test_no_daemon(state_dir: Path) -> None:
    host = f"unix://{state_dir}/nobody.sock"
    sandboxes = Sandboxes(state_dir, host, {"base": f"sha256:{'0' * 64}"})
    with pytest.raises(GatewayError, match=f"no Docker daemon answers at {host}") as refused:
        await sandboxes.shell("true")
    assert refused.value.code is ErrorCode.UNAVAILABLE
    found = await sandboxes.engine.check()
    assert not found.usable
    assert "No such file or directory" in found.detail
    await sandboxes.engine.close()


async def test_an_image_that_is_not_there(dockerd: str, state_dir: Path) -> None:
    image = f"sha256:{'0' * 64}"
    sandboxes = Sandboxes(state_dir, dockerd, {"base": image})
    with pytest.raises(GatewayError, match="openclaw sandbox image build") as refused:
        await sandboxes.shell("true")
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert image in refused.value.message
    await sandboxes.engine.close()


async def test_a_runtime_that_is_not_there(
    dockerd: str, docker_image: str, state_dir: Path
) -> None:
    sandboxes = Sandboxes(state_dir, dockerd, {"base": docker_image}, docker_runtime="runsc")
    with pytest.raises(GatewayError, match=r"no runtime runsc .* only .*runc") as refused:
        await sandboxes.shell("true")
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert "runsc" in (await sandboxes.engine.check()).detail
    await sandboxes.engine.close()
