"""One sandbox, from what a worker asks for to how it ended."""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

import msgspec

from protocol import egress, environment, launching, limits
from protocol.errors import ErrorCode, GatewayError
from protocol.moments import unix_ms
from supervisor.launcher.capped import Capped
from supervisor.launcher.door import Door
from supervisor.launcher.engine import Engine, Job, Launch, Outcome, Size
from supervisor.launcher.metered import Metered, Report
from supervisor.launcher.nurseries import Nurseries
from supervisor.launcher.outlets import Outlets
from supervisor.launcher.tenant import Sandbox, Tenant
from supervisor.launcher.terminals import Opened, Started
from supervisor.zygote import linux

_ID_BYTES: Final = 8
N = TypeVar("N", int, float)

Hand = Callable[[int, tuple[int, int, int]], None]
"""Gives a worker its ends of a sandbox's pipes: the number of the message, and write end of stdin,
read ends of stdout and stderr."""


def clamp(ceilings: launching.Ceilings, spec: launching.Spec) -> launching.Spec:
    """Bring what was asked for within what is allowed, and put the environment together.

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
    if spec.network is not None and spec.network not in ceilings.networks:
        raise _refusal("network", f"there is no network {spec.network}")
    network = {} if spec.network is None else environment.PROXIED
    env = {**environment.BASE, **network, **spec.env}
    size = sum(len(text.encode()) + 1 for text in (*spec.argv, *env, *env.values()))
    if size > limits.SANDBOX_ARGV_BYTES_MAX:
        raise _refusal(
            "argv", f"{size} bytes with env, more than {limits.SANDBOX_ARGV_BYTES_MAX}; use a file"
        )
    return msgspec.structs.replace(
        spec,
        env=env,
        wall_seconds=min(spec.wall_seconds, ceilings.wall_seconds),
        caps=_at_most(spec.caps, ceilings.sandbox),
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
        nurseries: Where sandboxes have their cgroups.
        report: Gets what each has used, at its end.
        outlets: Where those that have a network are made known.
    """

    def __init__(
        self,
        engines: Mapping[launching.Mode, Engine],
        nurseries: Nurseries,
        report: Report,
        outlets: Outlets,
    ) -> None:
        self._engines: Final = engines
        self._nurseries: Final = nurseries
        self._report: Final = report
        self._outlets: Final = outlets

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
            GatewayError: it cannot be had and nothing was started; or it was ended because the
                tenant may run nothing any more.
        """
        tenant.check()
        clamp(tenant.place.ceilings, asked)  # what is refused need not wait
        async with tenant.turn():
            began = time.monotonic()
            spec = clamp(tenant.place.ceilings, asked)
            started = await self.start(tenant, spec, _pipes(tenant.place, asked.stdio, hand))
            with listed(tenant, generation, "run", spec, started):
                outcome, timed_out = await _until_end(started.job, spec.wall_seconds)
            stopped = tenant.stopped.pop(started.sandbox_id, None)
        if stopped is not None:
            raise stopped
        return launching.Ran(
            sandbox_id=started.sandbox_id,
            mode=spec.mode,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            timed_out=timed_out,
            oom_killed=outcome.oom_killed,
            wall_ms=round((time.monotonic() - began) * 1000),
            cpu_ms=outcome.cpu_ms,
            peak_memory_bytes=outcome.peak_memory_bytes,
        )

    async def open(
        self, tenant: Tenant, generation: int, asked: launching.OpenTerminal, size: Size
    ) -> Opened:
        """Start a program with a terminal.

        Args:
            tenant: Whose.
            generation: Who asked.
            asked: What for; clamped here.
            size: Of the terminal.

        Raises:
            GatewayError: it cannot be had; nothing was started.
        """
        spec = clamp(tenant.place.ceilings, asked.spec)
        started = await self.start(tenant, spec, None, size)
        held = contextlib.ExitStack()
        held.enter_context(listed(tenant, generation, "terminal", spec, started))
        return Opened(started, held.close)

    async def start(
        self,
        tenant: Tenant,
        spec: launching.Spec,
        stdio: tuple[int, int, int] | None,
        terminal: Size | None = None,
    ) -> Started:
        """Start a sandbox within its tenant's limits, with pipes or with a terminal.

        Args:
            tenant: Whose.
            spec: What for, clamped.
            stdio: Inner ends of its pipes; taken over, also at an error.
            terminal: The size of its terminal.

        Raises:
            GatewayError: it cannot be had.
        """
        place, sandbox_id = tenant.place, secrets.token_hex(_ID_BYTES)
        door: Door | None = None
        with contextlib.ExitStack() as at_error, contextlib.ExitStack() as ours:
            for descriptor in stdio or ():
                at_error.callback(os.close, descriptor)
            tenant.check()
            engine = self._engines[spec.mode]
            if spec.network is not None:
                listener = egress.Listener(
                    tenant=place.tenant, sandbox_id=sandbox_id, profile=spec.network
                )
                door = ours.enter_context(Door(listener, self._outlets))
            directory = tenant.directories.open(spec.name)
            ours.callback(os.close, directory)
            nursery = None
            if place.cgroup is not None and not engine.makes_cgroups:
                nursery = await self._nurseries.take(place.cgroup, spec.caps)
                at_error.callback(self._nurseries.end, nursery)
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
                cgroup=None if nursery is None else nursery.group,
                tenant_cgroup=place.cgroup,
                stem=None if nursery is None else nursery.stem,
                stdio=stdio,
                terminal=terminal,
                door=None if door is None else door.theirs,
            )
            at_error.pop_all()
            try:
                job = await engine.start(launch)
            except BaseException:
                if nursery is not None:
                    self._nurseries.end(nursery)
                raise
            if nursery is not None:
                job = Capped(job, nursery, self._nurseries)
            job = Metered(job, launch, spec.mode, self._report)
            if door is not None:
                job = await door.opened(job)
        return Started(sandbox_id, job)

    def welcome(self, tenant: Tenant) -> None:
        """Clear away what a launcher before this one has left of a tenant's."""
        if tenant.place.cgroup is not None:
            with contextlib.suppress(OSError):  # what cannot be listed cannot be used either
                self._nurseries.sweep(tenant.place.cgroup)

    def forget(self, tenant: Tenant) -> None:
        """Give up what is kept ready for a tenant."""
        if tenant.place.cgroup is not None:
            self._nurseries.forget(tenant.place.cgroup)


@contextlib.contextmanager
def listed(
    tenant: Tenant,
    generation: int,
    kind: launching.Kind,
    spec: launching.Spec,
    started: Started,
) -> Iterator[None]:
    """Have a sandbox be among those that run, and let go of it at the end."""
    shown = launching.Running(
        sandbox_id=started.sandbox_id,
        kind=kind,
        name=spec.name,
        mode=spec.mode,
        argv=spec.argv,
        started_at_ms=unix_ms(),
        generation=generation,
        caps=spec.caps,
    )
    with tenant.listed(Sandbox(shown, started.job.kill)):
        try:
            yield
        finally:
            started.job.close()


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


def _pipes(place: launching.Place, number: int, hand: Hand) -> tuple[int, int, int]:
    """Make the pipes of a sandbox, hand out the outer ends and give the inner ones.

    They are the tenant's, or it could not open them by name (/dev/stderr).

    Raises:
        GatewayError: nobody takes them, or there are no descriptors left.
    """
    with contextlib.ExitStack() as inside, contextlib.ExitStack() as outside:
        pairs = []
        try:
            for _ in range(3):
                with linux.file_rights_of(place.uid, place.gid):
                    pairs.append(os.pipe())
                inside.callback(os.close, pairs[-1][0 if len(pairs) == 1 else 1])
                outside.callback(os.close, pairs[-1][1 if len(pairs) == 1 else 0])
        except OSError as error:
            message = f"no sandbox can be started now: {error.strerror}"
            raise GatewayError(ErrorCode.UNAVAILABLE, message) from error
        stdin, stdout, stderr = pairs
        for descriptor in (stdin[1], stdout[0], stderr[0]):
            os.set_blocking(descriptor, False)
        hand(number, (stdin[1], stdout[0], stderr[0]))
        inside.pop_all()
        return stdin[0], stdout[1], stderr[1]
