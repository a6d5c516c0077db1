"""Docker's API, called in threads: the SDK blocks, and so may the daemon.

Whatever goes wrong becomes a typed error that says what to do; the SDK's own never leave this
module. Reference: https://docs.docker.com/engine/api/v1.41/.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeVar

import docker
import docker.errors
import requests

from protocol.errors import ErrorCode, GatewayError

SECONDS_MAX: Final = 30
"""How long the daemon may take for one answer."""
_THREADS: Final = 16
_Result = TypeVar("_Result")
Api = Any
"""A `docker.APIClient`; what its methods take and give has no types."""


class Facts(NamedTuple):
    """What a daemon says of itself.

    Attributes:
        version: Its own.
        api: The version of its API that we speak, `1.41`.
        cgroup_driver: `cgroupfs`, `systemd` or `none`.
        runtimes: Those it can start containers with.
        security: What it restricts itself with, as `name=seccomp`.
    """

    version: str
    api: str
    cgroup_driver: str
    runtimes: frozenset[str]
    security: tuple[str, ...]


@contextlib.contextmanager
def explained(host: str) -> Iterator[None]:
    """Turn what the SDK raises in the block into a typed error.

    Raises:
        GatewayError: UNAVAILABLE, naming the daemon's address and what it said.
    """
    try:
        yield
    except docker.errors.APIError as error:
        said = error.explanation or str(error)
        raise GatewayError(ErrorCode.UNAVAILABLE, f"Docker refused: {said}") from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise _silent(host, type(error).__name__) from error


def _silent(host: str, reason: str) -> GatewayError:
    message = (
        f"no Docker daemon answers at {host}: {reason}; "
        "start one, or name another in sandbox.docker.host"
    )
    return GatewayError(ErrorCode.UNAVAILABLE, message)


def connect(host: str) -> Api:
    """Connect to a daemon, agreeing on the version of its API; blocks.

    Raises:
        GatewayError: UNAVAILABLE, it cannot be reached.
    """
    try:  # the SDK would wrap the reason several times, and leave a socket open
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(SECONDS_MAX)
            sock.connect(host.removeprefix("unix://"))
    except OSError as error:
        raise _silent(host, error.strerror or str(error)) from error
    with explained(host):
        return docker.APIClient(base_url=host, version="auto", timeout=SECONDS_MAX)


def _facts(api: Api) -> Facts:
    info: dict[str, Any] = api.info()
    return Facts(
        version=info.get("ServerVersion", ""),
        api=api.api_version,
        cgroup_driver=info.get("CgroupDriver", "none"),
        runtimes=frozenset(info.get("Runtimes") or ()),
        security=tuple(info.get("SecurityOptions") or ()),
    )


def lacking(facts: Facts, runtime: str | None) -> str:
    """Say what keeps a daemon from being used; empty if nothing does."""
    if runtime is not None and runtime not in facts.runtimes:
        known = ", ".join(sorted(facts.runtimes))
        return f"it has no runtime {runtime} (sandbox.docker.runtime), only {known}"
    if any("name=rootless" in option for option in facts.security):
        return "it is a rootless one, in which a tenant's uid is another"
    if not any("name=seccomp" in option for option in facts.security):
        return "it cannot restrict system calls"
    if facts.cgroup_driver == "none":
        return "it cannot limit what containers use"
    return ""


def _has(api: Api, image: str) -> bool:
    try:
        api.inspect_image(image)
    except docker.errors.ImageNotFound:
        return False
    return True


def look(host: str, runtime: str | None, images: Mapping[str, str]) -> tuple[bool, str]:
    """Say whether sandboxes could be had of a daemon now, and what it is or lacks; blocks."""
    try:
        api = connect(host)
        try:
            with explained(host):
                facts = _facts(api)
                missing = [name for name, image in images.items() if not _has(api, image)]
        finally:
            api.close()
    except GatewayError as error:
        return False, error.message
    reason = lacking(facts, runtime)
    if missing:
        reason = f"it has no image {', '.join(missing)}; openclaw sandbox image build makes one"
    return not reason, reason or f"Docker {facts.version}"


class Client:
    """A daemon.

    Args:
        host: Where it listens, `unix://…`.
    """

    def __init__(self, host: str) -> None:
        self.host: Final = host
        self.socket: Final = host.removeprefix("unix://")
        self._threads: Final = ThreadPoolExecutor(_THREADS, "docker")
        self._api: Api | None = None
        self._connecting: Final = threading.Lock()

    async def call(self, what: Callable[[Api], _Result]) -> _Result:
        """Have a thread ask the daemon.

        Raises:
            GatewayError: UNAVAILABLE, it cannot be reached or has refused.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, what)

    def _ask(self, what: Callable[[Api], _Result]) -> _Result:
        with self._connecting:
            if self._api is None:
                self._api = connect(self.host)
        with explained(self.host):
            return what(self._api)

    async def facts(self) -> Facts:
        """Ask a daemon what it is.

        Raises:
            GatewayError: UNAVAILABLE, it cannot be reached.
        """
        return await self.call(_facts)

    def close(self) -> None:
        """Let go of the daemon; what is being asked is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._api is not None:
            self._api.close()
