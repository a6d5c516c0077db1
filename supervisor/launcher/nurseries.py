"""Cgroups that are ready for a tenant's next sandbox, each with a stem in it.

Moving a process into a cgroup takes the kernel milliseconds, as long as all of bwrap; what is
forked in one is born there. So where a cgroup can be used again (version 1, whose peak of memory
can be started anew) a stem is moved into it once, and stays for a while for the tenant's next runs.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from protocol import launching
from protocol.errors import ErrorCode, GatewayError
from supervisor.caps.group import Group, Usage
from supervisor.caps.place import reopen
from supervisor.launcher.stem import Stem

IDLE_SECONDS: Final = 30.0
IDLE_MAX: Final = 64
_ID_BYTES: Final = 6
_PREFIX: Final = "sandbox-"


@dataclass(eq=False)
class Nursery:
    """One cgroup.

    Attributes:
        tenant: The cgroup that it lies in.
        group: It itself.
        caps: What is allowed in it, without its stem.
        stem: What forks in it; None where it is used once.
        pid: The stem's.
        cpu_seconds: What has been used in it until the present sandbox.
        oom_kills: As `cpu_seconds`.
        expiry: Removes it when nobody needs it for a while.
    """

    tenant: str
    group: Group
    caps: launching.Caps
    stem: Stem | None = None
    pid: int = 0
    cpu_seconds: float = 0.0
    oom_kills: int = 0
    expiry: asyncio.TimerHandle | None = None

    def limit(self, caps: launching.Caps) -> None:
        """Set what is allowed in it beside its stem.

        Raises:
            OSError: the system refuses.
        """
        pids = None if caps.pids is None or self.stem is None else caps.pids + 1
        self.group.limit(caps if pids is None else msgspec.structs.replace(caps, pids=pids))
        self.caps = caps

    def used(self) -> Usage:
        """Give what the present sandbox has used; the next one begins from here.

        Raises:
            OSError: it is gone.
        """
        now = self.group.usage()
        before = self.cpu_seconds, self.oom_kills
        self.cpu_seconds, self.oom_kills = now.cpu_seconds, now.oom_kills
        return now._replace(
            cpu_seconds=max(0.0, now.cpu_seconds - before[0]), oom_kills=now.oom_kills - before[1]
        )


@dataclass
class Nurseries:
    """Those of all tenants.

    Attributes:
        trunk: The stem that others are forked from.
    """

    trunk: Stem
    _idle: dict[str, list[Nursery]] = field(default_factory=dict)
    _ending: set["asyncio.Task[None]"] = field(default_factory=set)

    async def take(self, tenant: str, caps: launching.Caps) -> Nursery:
        """Give one with these limits, for one sandbox; `give_back` or `end` it.

        Args:
            tenant: The tenant's cgroup.
            caps: What the sandbox may have.

        Raises:
            GatewayError: UNAVAILABLE, it cannot be made: nothing may run without its limits.
        """
        while found := self._pop(tenant):
            if found.stem is None or found.stem.closed:
                self.end(found)
                continue
            try:
                if found.caps != caps:
                    found.limit(caps)
                found.group.restart_peak()
            except OSError:  # there is more in use than what is allowed now, or it is gone
                self.end(found)
            else:
                return found
        making = asyncio.get_running_loop().create_task(self._make(tenant, caps))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._end_unwanted)
            raise

    def _end_unwanted(self, making: "asyncio.Task[Nursery]") -> None:
        if not making.cancelled() and making.exception() is None:
            self.end(making.result())

    async def _make(self, tenant: str, caps: launching.Caps) -> Nursery:
        made: Nursery | None = None
        try:
            group = reopen(tenant).child(f"{_PREFIX}{secrets.token_hex(_ID_BYTES)}")
            made = Nursery(tenant, group, caps)
            group.unite()
            if group.restart_peak():
                made.pid, made.stem = await self.trunk.branch(group.path)
            made.limit(caps)
        except (GatewayError, OSError) as error:
            if made is not None:
                self.end(made)
            if isinstance(error, GatewayError):
                raise
            message = f"the sandbox's limits cannot be set: {error.strerror}"
            raise GatewayError(ErrorCode.UNAVAILABLE, message) from error
        return made

    def _pop(self, tenant: str) -> Nursery | None:
        kept = self._idle.get(tenant)
        if not kept:
            return None
        found = kept.pop()
        if not kept:
            del self._idle[tenant]
        if found.expiry is not None:
            found.expiry.cancel()
            found.expiry = None
        return found

    def give_back(self, nursery: Nursery, *, clean: bool) -> None:
        """Keep one for the tenant's next sandbox, if it can be used again.

        Args:
            nursery: From `take`.
            clean: Whether nothing but its stem is in it.
        """
        count = sum(map(len, self._idle.values()))
        stem = nursery.stem
        if not clean or stem is None or stem.closed or count >= IDLE_MAX:
            self.end(nursery)
            return
        self._idle.setdefault(nursery.tenant, []).append(nursery)
        loop = asyncio.get_running_loop()
        nursery.expiry = loop.call_later(IDLE_SECONDS, self._expire, nursery)

    def _expire(self, nursery: Nursery) -> None:
        kept = self._idle[nursery.tenant]
        kept.remove(nursery)
        if not kept:
            del self._idle[nursery.tenant]
        self.end(nursery)

    def forget(self, tenant: str) -> None:
        """End those that wait for a tenant."""
        while found := self._pop(tenant):
            self.end(found)

    def sweep(self, tenant: str) -> None:
        """End and remove, soon, what an earlier launcher has left below a tenant's cgroup."""
        left = [group for group in reopen(tenant).children() if group.name.startswith(_PREFIX)]
        for group in left:
            self._run(asyncio.to_thread(_remove, group, 0))

    def end(self, nursery: Nursery) -> None:
        """End what is left in one and remove it, soon: the kernel may take a while."""
        if nursery.stem is not None:
            nursery.stem.close()
        self._run(asyncio.to_thread(_remove, nursery.group, nursery.pid))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _remove(group: Group, pid: int) -> None:
    # The tenant's cgroup goes with the tenant, whatever is left below it.
    with contextlib.suppress(OSError):
        group.kill()
    if pid:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        group.remove()
