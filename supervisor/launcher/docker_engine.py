"""The engine `docker`: a sandbox is a container, started ahead, used once and thrown away."""

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from protocol import descriptors, launching
from protocol.errors import ErrorCode, GatewayError
from supervisor.caps import place
from supervisor.launcher import docker_container, docker_door, docker_stream
from supervisor.launcher.docker_client import Client, Facts, lacking
from supervisor.launcher.docker_container import Container
from supervisor.launcher.docker_door import DockerDoor
from supervisor.launcher.docker_etc import Etc
from supervisor.launcher.docker_job import DockerJob
from supervisor.launcher.docker_pool import Pool
from supervisor.launcher.docker_profile import GATEWAY_LABEL, LAUNCHER_LABEL, Given, Shape, shape_of
from supervisor.launcher.docker_sweep import sweep
from supervisor.launcher.door import OPEN_SECONDS
from supervisor.launcher.engine import Job, Launch, Size

ETC_FOLDER: Final = "docker-etc"
DOORS_FOLDER: Final = "docker-doors"
_LOOK_SECONDS: Final = 0.2
# Pressed for hours to leave a terminal: there is no way to have none, and the usual keys are used.
_DETACH_KEYS: Final = ",".join(["ctrl-@"] * 24)


class DockerEngine:
    """See `supervisor.launcher.engine.Engine`.

    Args:
        spec: What the supervisor said.
        log: Called with a line for the operator.
    """

    mode: Final[launching.Mode] = "docker"
    makes_cgroups: Final = True

    def __init__(self, spec: launching.LauncherSpec, log: Callable[[str], None]) -> None:
        self._spec: Final = spec
        self._log: Final = log
        self._client: Final = Client(spec.docker_host)
        self._facts: Facts | None = None
        self._connecting: Final = asyncio.Lock()
        self._etc: Final = Etc(Path(spec.state_root, ETC_FOLDER))
        self._launcher: Final = secrets.token_hex(8)
        self._given: Final = Given(
            labels={GATEWAY_LABEL: spec.gateway, LAUNCHER_LABEL: self._launcher},
            runtime=spec.docker_runtime,
            policy=spec.docker_policy,
        )
        self._doors: Final = Path(spec.state_root, DOORS_FOLDER)
        shutil.rmtree(self._doors, ignore_errors=True)
        self._started = 0
        self._pool: Final = Pool(self._make, self._throw_away, spec.warm)
        self._used: Final[set[Container]] = set()
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._keep(self._open())

    async def _open(self) -> None:
        """Remove what an earlier launcher has left; where no daemon is, nothing is left."""
        with contextlib.suppress(GatewayError):
            await self._connected()

    async def check(self) -> launching.Engine:
        """See `Engine`."""
        try:
            facts = await self._client.facts()
        except GatewayError as error:
            return launching.Engine(mode=self.mode, usable=False, detail=error.message)
        reason = lacking(facts, self._spec.docker_runtime)
        detail = reason or f"Docker {facts.version} is there"
        return launching.Engine(mode=self.mode, usable=not reason, detail=detail)

    async def start(self, launch: Launch) -> Job:
        """See `Engine`."""
        with contextlib.ExitStack() as ours:
            for descriptor in launch.stdio or ():
                ours.callback(os.close, descriptor)
            image = self._image(launch.image)
            facts = await self._connected()
            shape = shape_of(launch, image, _cgroup_parent(launch, facts))
            container = await self._pool.take(shape, launch.directory)
            self._used.add(container)
            try:
                job = await self._execute(launch, container, facts, ours)
            except BaseException:
                self._over(container)
                raise
            finally:
                self._pool.refill(shape)
        return job

    def _image(self, profile: str | None) -> str:
        images = self._spec.images
        profile = profile or launching.default_image(images)
        if profile is None or profile not in images:
            message = f"image: {profile} is not among {', '.join(images)}"
            raise GatewayError(ErrorCode.INVALID_REQUEST, message, field="image")
        return images[profile]

    async def _connected(self) -> Facts:
        """Give what the daemon is, which is asked once; the first time, sweep.

        Raises:
            GatewayError: UNAVAILABLE, it cannot be reached or cannot be used.
        """
        async with self._connecting:
            if self._facts is None:
                facts = await self._client.facts()
                reason = lacking(facts, self._spec.docker_runtime)
                if reason:
                    message = f"the Docker daemon at {self._client.host} cannot be used: {reason}"
                    raise GatewayError(ErrorCode.UNAVAILABLE, message)
                gateway = self._spec.gateway
                swept = await self._client.call(lambda api: sweep(api, gateway, self._launcher))
                if swept:
                    self._log(f"{swept} containers of an earlier launcher were removed")
                self._facts = facts
            return self._facts

    # Containers

    async def _make(self, shape: Shape, directory: int) -> Container:
        self._started += 1
        name = f"openclaw-{self._launcher}-{self._started}"
        try:
            etc = self._etc.of(shape.uid, shape.gid)
        except OSError as error:
            message = f"{error.filename} cannot be written: {error.strerror}"
            raise GatewayError(ErrorCode.UNAVAILABLE, message) from error
        given = self._given
        door = DockerDoor(self._doors) if shape.door else None
        try:
            return await self._client.call(
                lambda api: docker_container.create(api, name, shape, directory, etc, given, door)
            )
        except BaseException as error:
            if door is not None:
                door.close()
            if isinstance(error, GatewayError):
                self._facts = None  # the next one asks again what is there
            raise

    def _throw_away(self, container: Container) -> None:
        container.kill()
        self._keep(self._remove(container))

    async def _remove(self, container: Container) -> None:
        try:
            await self._client.call(lambda api: docker_container.remove(api, container.id))
        except GatewayError as error:
            # Nothing runs in it; the next launcher finds it by its label.
            self._log(f"container {container.id[:12]} was not removed: {error.message}")
        finally:
            container.close()

    def _over(self, container: Container) -> None:
        self._used.discard(container)
        self._throw_away(container)

    def _keep(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Programs

    async def _execute(
        self, launch: Launch, container: Container, facts: Facts, ours: contextlib.ExitStack
    ) -> Job:
        environment = [f"{name}={value}" for name, value in launch.env.items()]
        # A name without a value takes away what Docker adds.
        environment += sorted(container.added.difference(launch.env))
        tty = launch.terminal is not None
        made = await self._client.call(
            lambda api: api.exec_create(
                container.id,
                _argv(launch),
                stdin=True,
                tty=tty,
                environment=environment,
                workdir=launching.WORK,
                user=f"{launch.uid}:{launch.gid}",
                detach_keys=_DETACH_KEYS,
            )
        )
        exec_id: str = made["Id"]
        stream = await docker_stream.start(self._client.socket, facts.api, exec_id, terminal=tty)
        ours.pop_all()
        job = DockerJob(self._client, container, exec_id, stream, launch.stdio, self._over)
        try:
            if launch.door is not None and container.door is not None:
                await _hand_out(launch.door, container, container.door, job)
                container.door.close()  # nobody else comes by it
            if launch.terminal is not None:
                await self._size(job, launch.terminal)
        except BaseException:
            job.abandon()
            raise
        return job

    async def _size(self, job: DockerJob, size: Size) -> None:
        """Give a terminal its first size, which Docker takes when its program has started.

        What is typed comes after it: nothing is until this returns.
        """
        await job.begun()
        job.resize(size)
        await job.resized()

    # All of them

    def forget(self, tenant: str) -> None:
        """See `Engine`."""
        self._pool.forget(tenant)

    async def close(self) -> None:
        """See `Engine`."""
        for container in list(self._used):
            self._over(container)
        await self._pool.close()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._client.close()


async def _hand_out(given: int, container: Container, door: DockerDoor, job: DockerJob) -> None:
    """Pass on the listener that the first program in a container makes.

    Raises:
        GatewayError: UNAVAILABLE, it makes none.
    """
    making = asyncio.get_running_loop().create_task(door.listener(container.holds))
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            while not (await asyncio.wait([making], timeout=_LOOK_SECONDS))[0]:
                if (await job.look()).exit_code is not None:
                    raise docker_door.lacking("the image needs python3, in PATH")
    except TimeoutError:
        raise docker_door.lacking("its first program makes no listener") from None
    finally:
        making.cancel()
    listener = making.result()
    try:
        with socket.socket(fileno=os.dup(given)) as channel:
            descriptors.send(channel, b"listener", [listener])
    finally:
        os.close(listener)


def _argv(launch: Launch) -> list[str]:
    """Give what starts a program in its directory.

    That a tenant can make a link of, and a runtime that follows it while it still holds something
    of the machine's leads out (CVE-2024-21626). So a shell inside goes there.
    """
    before = () if launch.door is None else docker_door.PROGRAM
    if launch.cwd == launching.WORK:
        return [*before, *launch.argv]
    enter = 'cd -- "$0" || exit 127; unset PWD OLDPWD; exec "$@"'
    return ["/bin/sh", "-c", enter, launch.cwd, *before, *launch.argv]


def _cgroup_parent(launch: Launch, facts: Facts) -> str | None:
    """Give where Docker is to make a container's cgroup: in the tenant's.

    Where there is none, each sandbox's own limits hold alone. So they do where systemd makes
    cgroups for Docker: then it has to be a slice, which a tenant's is not.
    """
    if launch.tenant_cgroup is None:
        return None
    if facts.cgroup_driver == "systemd":
        return f"openclaw-{launch.tenant.replace('-', '_')}.slice"
    try:
        return place.name_in_tree(launch.tenant_cgroup)
    except (place.UnusableError, OSError):
        return None
