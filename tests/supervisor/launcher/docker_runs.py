"""Sandboxes of the Docker engine, run without a gateway around it."""

import asyncio
import os
from pathlib import Path
from typing import Any, NamedTuple

from protocol import launching
from protocol.environment import BASE
from supervisor.launcher import policy
from supervisor.launcher.docker_engine import DockerEngine
from supervisor.launcher.engine import Job, Launch, Outcome, Size

SECONDS = 30.0
UID = 1_900_000_123 if os.geteuid() == 0 else os.geteuid()
GID = UID if os.geteuid() == 0 else os.getegid()
CAPS = launching.Caps(memory_bytes=128 * 2**20, cpus=1.0, pids=64)


class Said(NamedTuple):
    outcome: Outcome
    out: bytes
    err: bytes


class Sandboxes:
    """An engine, and a tenant's directories below a state root."""

    def __init__(self, state_dir: Path, host: str, images: dict[str, str], **spec: Any) -> None:
        self.log: list[str] = []
        self.root = state_dir
        self.images = images
        told = launching.LauncherSpec(
            state_root=str(state_dir),
            docker_host=host,
            images=images,
            **{
                "policy": b"",
                "own_policy": b"",
                "stem_policy": b"",
                "docker_policy": policy.docker_profile(),
                "docker_runtime": None,
                "warm": 1,
                "gateway": state_dir.name,
                **spec,
            },
        )
        self.engine = DockerEngine(told, self.log.append)

    def directory(self, name: str = "main", tenant: str = "acme") -> Path:
        path = self.root / "tenants" / tenant / "sandbox" / name
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, UID, GID)
        return path

    def open(self, name: str = "main", tenant: str = "acme") -> int:
        return os.open(self.directory(name, tenant), os.O_PATH | os.O_DIRECTORY)

    def launch(self, *argv: str, tenant: str = "acme", name: str = "main", **given: Any) -> Launch:
        """Give what the engine is asked for; its directory is the caller's to close."""
        directory = given.pop("directory", None)
        if directory is None:
            directory = self.open(name, tenant)
        values: dict[str, Any] = {
            "sandbox_id": "0123456789abcdef",
            "uid": UID,
            "gid": GID,
            "env": dict(BASE),
            "cwd": "/work",
            "image": None,
            "caps": CAPS,
            "file_bytes": 2**20,
            "cgroup": None,
            "tenant_cgroup": None,
            "stem": None,
            "stdio": None,
            "terminal": None,
        }
        values |= given
        return Launch(tenant=tenant, name=name, argv=argv, directory=directory, **values)

    async def start(self, *argv: str, **given: Any) -> Job:
        launch = self.launch(*argv, **given)
        try:
            return await self.engine.start(launch)
        finally:
            if "directory" not in given:
                os.close(launch.directory)

    async def begin(self, *argv: str, **given: Any) -> tuple[Job, tuple[int, int, int]]:
        """Start something with pipes; gives our ends of them."""
        pipes = [os.pipe() for _ in range(3)]
        ours = (pipes[0][1], pipes[1][0], pipes[2][0])
        try:
            job = await self.start(*argv, stdio=(pipes[0][0], pipes[1][1], pipes[2][1]), **given)
        except BaseException:
            for descriptor in ours:
                os.close(descriptor)
            raise
        return job, ours

    async def run(self, *argv: str, stdin: bytes = b"", **given: Any) -> Said:
        """Run something to its end."""
        job, (to, out, err) = await self.begin(*argv, **given)
        async with asyncio.timeout(SECONDS):
            _, said, complained, outcome = await asyncio.gather(
                asyncio.to_thread(_write, to, stdin),
                asyncio.to_thread(_read, out),
                asyncio.to_thread(_read, err),
                job.wait(),
            )
        job.close()
        return Said(outcome, said, complained)

    async def shell(self, script: str, **given: Any) -> Said:
        return await self.run("/bin/sh", "-c", script, **given)

    async def terminal(self, *argv: str, size: Size, **given: Any) -> Job:
        return await self.start(*argv, terminal=size, **given)


def _write(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb") as file:
        try:
            file.write(data)
        except BrokenPipeError:
            return


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()
