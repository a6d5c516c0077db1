"""A container that does nothing yet, and is known to have the right directory at /work.

A daemon mounts a *path*, which the tenant may have renamed, swapped or linked elsewhere meanwhile
(a runtime cannot mount our descriptor: it belongs to another mount namespace). So what it has
mounted is compared with the descriptor before anything of the tenant's runs in there; from then on
no name counts any more. Nothing but the image's own init has run by then.
"""

import asyncio
import contextlib
import os
import select
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import docker.errors

from protocol import launching
from protocol.errors import ErrorCode, GatewayError
from supervisor.caps import place
from supervisor.caps.group import Group, Usage
from supervisor.launcher.docker_client import Api
from supervisor.launcher.docker_door import DockerDoor
from supervisor.launcher.docker_profile import Given, Shape, configuration
from supervisor.launcher.readable import readable
from supervisor.zygote import linux

_NOTHING: Final = Usage(0, None, 0.0, 0, 0)
# What Docker adds to the environment of whatever is started in a container.
_ADDED: Final = ("HOSTNAME", "PATH", "TERM")
_EXECUTED_SECONDS: Final = 5.0
_PROGRAMS_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.002


class Container:
    """A container that runs.

    Args:
        container_id: Docker's name for it.
        pid: Its first process: when that has ended nothing runs in it.
        pidfd: The same; taken over.
        idle: The process that its first one waits for.
        added: Variables that Docker would give what is started in it.
        group: Its cgroup; None where it cannot be read.
        door: Where its listener is handed out, if it has one; taken over.
    """

    def __init__(
        self,
        container_id: str,
        pid: int,
        pidfd: int,
        idle: int,
        added: frozenset[str],
        group: Group | None,
        door: DockerDoor | None = None,
    ) -> None:
        self.door: Final = door
        self.id: Final = container_id
        self.pid: Final = pid
        self.added: Final = added
        self._idle: Final = idle
        self._pidfd: Final = pidfd
        self._group: Final = group
        self._before: Final = self._usage()
        self._last = self._before
        self._killed = False
        self._ending: asyncio.Task[None] | None = None

    @property
    def runs(self) -> bool:
        """Whether it does."""
        return not select.select([self._pidfd], [], [], 0)[0]

    def kill(self) -> None:
        """End everything in it at once, and take note of what it has used: its cgroup goes too."""
        if self._killed:
            return
        self._killed = True
        self._last = self._usage()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def end_programs(self) -> bool:
        """End what was started in it, all of it; says whether that could be done.

        What programs leave behind becomes its first process's, and so does what those leave.
        """
        deadline = time.monotonic() + _PROGRAMS_SECONDS
        while left := _children(self.pid) - {self._idle}:
            if time.monotonic() > deadline:
                return False
            for pid in left:
                self._end(pid)
            await asyncio.sleep(_LOOK_SECONDS)
        return True

    def _end(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                if self.holds(pid):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)

    async def ended(self) -> None:
        """Wait until nothing runs in it; several may."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(readable(self._pidfd))
        await asyncio.shield(self._ending)

    def used(self) -> Usage:
        """Give what it had used when it was killed, since it was made."""
        return self._last._replace(
            cpu_seconds=self._last.cpu_seconds - self._before.cpu_seconds,
            oom_kills=self._last.oom_kills - self._before.oom_kills,
        )

    def _usage(self) -> Usage:
        try:
            return _NOTHING if self._group is None else self._group.usage()
        except OSError:
            return _NOTHING

    def holds(self, pid: int) -> bool:
        """Whether a process is in it."""
        return _is_in(pid, self.id)

    def close(self) -> None:
        """Let go of it; nothing runs in it."""
        if self.door is not None:
            self.door.close()
        os.close(self._pidfd)


def create(
    api: Api,
    name: str,
    shape: Shape,
    directory: int,
    etc: Mapping[str, str],
    given: Given,
    door: DockerDoor | None = None,
) -> Container:
    """Make a container and start it; blocks.

    Args:
        api: The daemon.
        name: The container's.
        shape: What it is.
        directory: What is to be at /work, open.
        etc: See `configuration`.
        given: See `configuration`.
        door: Its door, if it has one; taken over with the container that is given.

    Raises:
        GatewayError: CONFLICT, the directory was moved meanwhile; UNAVAILABLE, the image is not
            there, or the container cannot be looked into.
        docker.errors.APIError: the daemon refuses.
    """
    source = str(Path(f"/proc/self/fd/{directory}").readlink())
    wanted = configuration(shape, source, etc, given, None if door is None else str(door.path))
    try:
        container_id: str = api.create_container_from_config(wanted, name)["Id"]
    except docker.errors.ImageNotFound as error:
        message = (
            f"Docker has no image {shape.image}; make one with openclaw sandbox image build, "
            "and name it in sandbox.docker.images"
        )
        raise GatewayError(ErrorCode.UNAVAILABLE, message, field="image") from error
    except docker.errors.APIError as error:
        raise _moved(shape, error) from error
    try:
        api.start(container_id)
        return _checked(api.inspect_container(container_id), directory, shape, door)
    except docker.errors.APIError as error:
        remove(api, container_id)
        raise _moved(shape, error) from error
    except BaseException:
        remove(api, container_id)
        raise


def _moved(shape: Shape, error: docker.errors.APIError) -> Exception:
    said = error.explanation or ""
    if "bind source path does not exist" in said or f'to rootfs at "{launching.WORK}"' in said:
        return _conflict(shape)
    return error


def _conflict(shape: Shape) -> GatewayError:
    message = f"sandbox/{shape.name} was moved while it was mounted"
    return GatewayError(ErrorCode.CONFLICT, message, field="name")


def _checked(
    found: dict[str, Any], directory: int, shape: Shape, door: DockerDoor | None
) -> Container:
    container_id, pid = found["Id"], found["State"]["Pid"]
    try:
        pidfd = os.pidfd_open(pid) if pid else -1
    except ProcessLookupError:
        pidfd = -1
    if pidfd < 0:
        message = f"the container ended at once: {found['State'].get('Error') or 'no reason given'}"
        raise GatewayError(ErrorCode.UNAVAILABLE, f"{message}; its image needs /bin/sleep")
    try:
        _check_mount(pid, container_id, directory, shape)
        idle = _only_child(pid)
        given = (variable.partition("=")[0] for variable in found["Config"].get("Env") or ())
        added = frozenset({*given, *_ADDED})
        return Container(container_id, pid, pidfd, idle, added, place.of(pid), door)
    except OSError as error:
        os.close(pidfd)
        message = f"what is mounted in the container cannot be looked at: {error.strerror}"
        raise GatewayError(ErrorCode.UNAVAILABLE, message) from error
    except BaseException:
        os.close(pidfd)
        raise


def _check_mount(pid: int, container_id: str, directory: int, shape: Shape) -> None:
    mounted = _look(pid, shape)
    wanted = os.fstat(directory)
    if not _is_in(pid, container_id):
        message = f"the container's first process cannot be found as {pid} on this machine"
        raise GatewayError(ErrorCode.UNAVAILABLE, message)
    if (mounted.st_dev, mounted.st_ino) != (wanted.st_dev, wanted.st_ino):
        raise _conflict(shape)


def _look(pid: int, shape: Shape) -> os.stat_result:
    """Look at /work as a process sees it, with the rights of its user: root's we have given up.

    Until it has executed its own program, a moment after Docker says so, nobody may.
    """
    deadline = time.monotonic() + _EXECUTED_SECONDS
    while True:
        try:
            with linux.file_rights_of(shape.uid, shape.gid):
                return Path(f"/proc/{pid}/root{launching.WORK}").lstat()
        except PermissionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_SECONDS)


def _children(pid: int) -> set[int]:
    """Give a process's children (proc_pid_task(5)); none if it has ended."""
    try:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):
        return set()


def _only_child(pid: int) -> int:
    """Wait until a container's first process has started the one it waits for; gives that."""
    deadline = time.monotonic() + _EXECUTED_SECONDS
    while not (found := _children(pid)):
        if time.monotonic() > deadline:
            message = "the container does not start; its image needs /bin/sleep"
            raise GatewayError(ErrorCode.UNAVAILABLE, message)
        time.sleep(_LOOK_SECONDS)
    return found.pop()


def _is_in(pid: int, container_id: str) -> bool:
    try:
        return container_id in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


def remove(api: Api, container: str) -> None:
    """Remove a container, whatever it does, with its volumes; one that is not there is well."""
    try:
        api.remove_container(container, v=True, force=True)
    except docker.errors.NotFound:
        return
    except docker.errors.APIError as error:
        if "already in progress" not in (error.explanation or ""):
            raise
