"""One sandbox, from what a worker asks for to how it ended."""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

from protocol import environment, launching, limits
from protocol.errors import ErrorCode, GatewayError
from supervisor.launcher.engine import Engine, Job, Launch, Outcome, Size
from supervisor.launcher.tenant import Sandbox, Tenant

_ID_BYTES: Final = 8
N = TypeVar("N", int, float)

Hand = Callable[[int, tuple[int, int, int]], None]
"""Gives a worker its ends of a sandbox's pipes: the number of the message, and write end of stdin,
read ends of stdout and stderr."""


def new_id() -> str:
    """Give a sandbox a name of its own."""
    return secrets.token_hex(_ID_BYTES)


def clamp(ceilings: launching.Ceilings, spec: launching.Spec) -> launching.Spec:
    """Bring what was asked for within what is allowed.

    Raises:
        GatewayError: INVALID_REQUEST, it asks for what cannot be had in part.
    """
    if spec.mode not in ceilings.modes:
        raise _refusal("sandbox", f"{spec.mode} is not allowed; {', '.join(ceilings.modes)} is")
    if spec.image is not None and spec.image not in ceilings.images:
        raise _refusal("image", f"there is no image {spec.image}")
    environment.check_variables(spec.env)
    environment.check_directory(spec.cwd)
    if any("\0" in argument for argument in spec.argv):
        raise _refusal("argv", "must not contain NUL")
    size = sum(len(text.encode()) + 1 for text in (*spec.argv, *spec.env, *spec.env.values()))
    if size > limits.SANDBOX_ARGV_BYTES_MAX:
        raise _refusal(
            "argv", f"{size} bytes with env, more than {limits.SANDBOX_ARGV_BYTES_MAX}; use a file"
        )
    return launching.Spec(
        argv=spec.argv,
        env={**environment.BASE, **spec.env},
        cwd=spec.cwd,
        name=spec.name,
        mode=spec.mode,
        image=spec.image,
        wall_seconds=min(spec.wall_seconds, ceilings.wall_seconds),
        caps=_at_most(spec.caps, ceilings.sandbox),
        stdio=spec.stdio,
    )


def _at_most(asked: launching.Caps, ceiling: launching.Caps) -> launching.Caps:
    return launching.Caps(
        memory_bytes=_lower(asked.memory_bytes, ceiling.memory_bytes),
        cpus=_lower(asked.cpus, ceiling.cpus),
        pids=_lower(asked.pids, ceiling.pids),
    )


def _lower(asked: N | None, ceiling: N | None) -> N | None:
    return ceiling if asked is None else asked if ceiling is None else min(asked, ceiling)


def _refusal(field: str, reason: str) -> GatewayError:
    return GatewayError(ErrorCode.INVALID_REQUEST, f"{field}: {reason}", field=field)


class Runs:
    """Runs one sandbox after another, for all tenants.

    Args:
        engines: By mode.
    """

    def __init__(self, engines: Mapping[launching.Mode, Engine]) -> None:
        self._engines: Final = engines

    async def run(
        self, tenant: Tenant, generation: int, asked: launching.Spec, hand: Hand
    ) -> launching.Ran:
        """Run a program to its end; at a cancellation it ends at once.

        Args:
            tenant: Whose.
            generation: Who asked.
            asked: What for; clamped here.
            hand: Gets the outer ends of its pipes when it starts.

        Raises:
            GatewayError: it cannot be had; nothing was started.
        """
        clamp(tenant.place.ceilings, asked)  # what is refused need not wait
        async with tenant.turn():
            spec = clamp(tenant.place.ceilings, asked)
            sandbox_id = new_id()
            with _pipes(lambda outside: hand(asked.stdio, outside)) as inside:
                started = time.monotonic()
                job = await self.start(tenant, sandbox_id, spec, inside)
            with self._listed(tenant, generation, "run", sandbox_id, spec, job):
                outcome, timed_out = await _until_end(job, spec.wall_seconds)
        return launching.Ran(
            sandbox_id=sandbox_id,
            mode=spec.mode,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            timed_out=timed_out,
            oom_killed=outcome.oom_killed,
            wall_ms=round((time.monotonic() - started) * 1000),
            cpu_ms=outcome.cpu_ms,
            peak_memory_bytes=outcome.peak_memory_bytes,
        )

    async def start(
        self,
        tenant: Tenant,
        sandbox_id: str,
        spec: launching.Spec,
        stdio: tuple[int, int, int] | None,
        terminal: Size | None = None,
    ) -> Job:
        """Start a sandbox within its tenant's limits, with pipes or with a terminal.

        Args:
            tenant: Whose.
            sandbox_id: Its name, from `new_id`.
            spec: What for, clamped.
            stdio: Inner ends of its pipes; taken over, also at an error.
            terminal: The size of its terminal.

        Raises:
            GatewayError: it cannot be had.
        """
        place = tenant.place
        with contextlib.ExitStack() as unused:
            for descriptor in stdio or ():
                unused.callback(os.close, descriptor)
            directory = tenant.directories.open(spec.name)
            try:
                launch = Launch(
                    sandbox_id=sandbox_id,
                    tenant=place.tenant,
                    uid=place.uid,
                    gid=place.gid,
                    argv=spec.argv,
                    env=spec.env,
                    cwd=spec.cwd,
                    name=spec.name,
                    directory=directory,
                    image=spec.image,
                    caps=spec.caps,
                    file_bytes=place.ceilings.file_bytes,
                    cgroup=None,
                    stdio=stdio,
                    terminal=terminal,
                )
                unused.pop_all()
                return await self._engines[spec.mode].start(launch)
            finally:
                os.close(directory)

    @contextlib.contextmanager
    def _listed(
        self,
        tenant: Tenant,
        generation: int,
        kind: launching.Kind,
        sandbox_id: str,
        spec: launching.Spec,
        job: Job,
    ) -> Iterator[None]:
        shown = launching.Running(
            sandbox_id=sandbox_id,
            kind=kind,
            name=spec.name,
            mode=spec.mode,
            argv=spec.argv,
            started_at_ms=time.time_ns() // 1_000_000,
            generation=generation,
            caps=spec.caps,
        )
        tenant.running[sandbox_id] = Sandbox(shown, job.kill)
        try:
            yield
        finally:
            del tenant.running[sandbox_id]
            job.close()


async def _until_end(job: Job, seconds: float) -> tuple[Outcome, bool]:
    """Wait for the end, at the latest the one that we make; say whether that was time's doing."""
    waiting = asyncio.get_running_loop().create_task(job.wait())
    timed_out = False
    try:
        done, _ = await asyncio.wait([waiting], timeout=seconds)
        timed_out = not done
    finally:
        if not waiting.done():
            job.kill()
            await _settled(waiting)
    return waiting.result(), timed_out


async def _settled(task: "asyncio.Task[Outcome]") -> None:
    """Wait for a task's end, whatever is done to whoever waits."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])


@contextlib.contextmanager
def _pipes(hand: Callable[[tuple[int, int, int]], None]) -> Iterator[tuple[int, int, int]]:
    """Make the pipes of a sandbox; the block owns the inner ends, the others are handed out."""
    stdin, stdout, stderr = (os.pipe() for _ in range(3))
    outside = (stdin[1], stdout[0], stderr[0])
    try:
        for descriptor in outside:
            os.set_blocking(descriptor, False)
        hand(outside)
    except BaseException:
        for descriptor in (stdin[0], stdout[1], stderr[1]):
            os.close(descriptor)
        raise
    finally:
        for descriptor in outside:
            os.close(descriptor)
    yield (stdin[0], stdout[1], stderr[1])
