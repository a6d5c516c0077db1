"""The process that counts what tenants have on the disk, away from whoever must not wait.

Started as `python -m supervisor.caps.disk <link> <directory> <uid>`: the descriptor of its end of
the link to the supervisor, the directory of the tenants' directories, and as whom to run (as root;
else its own uid). It reads names and sizes and no file's contents. It ends with 0 when its link
does.
"""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Generator, Sequence
from typing import Final

import msgspec

from protocol import aio, frames
from protocol.link import LIVENESS
from supervisor.caps.disk_messages import Counted, Floor, Forgotten, Left, Watched
from supervisor.caps.disk_unlinked import Unlinked
from supervisor.caps.disk_walk import Use, Walk
from supervisor.caps.disk_watch import TICK_SECONDS, Bounds, Free, Watch
from supervisor.zygote import linux
from supervisor.zygote.title import set_title

TITLE: Final = "openclaw: disk"
COUNTS_AT_ONCE: Final = 4
"""They take turns, so that a small tenant never waits for the end of a large one."""
STEPS_SECONDS: Final = 0.05
"""After so much counting the supervisor is heard again."""
TELL_SECONDS: Final = 1.0
LOOK_SHARE: Final = 0.1
"""The part of the time in which processes may be looked through."""
OPEN_FILES: Final = 8192
EXIT_USAGE: Final = 78


class _Count:
    """A count that is being made."""

    def __init__(self, walk: Walk, now: float) -> None:
        self.walk: Final = walk
        self.steps: Final = walk.steps()
        self.began_at: Final = now
        self.seconds = 0.0


class Guard:
    """Counts, and tells; a `LinkHandler`.

    Args:
        tenants: The directory of the tenants' directories.
        privileged: See `Walk`.
    """

    def __init__(self, tenants: str, *, privileged: bool) -> None:
        self._tenants: Final = tenants
        self._privileged: Final = privileged
        self._watch: Final = Watch(0)
        self._unlinked: Final = Unlinked(tenants)
        self._nameless: dict[str, int] = {}
        self._look: Generator[None, None, dict[str, int]] | None = None
        self._look_began_at = self._look_at = 0.0
        self._looked_changes = -1
        self._walked: Final[dict[str, Use]] = {}
        self._counts: Final[dict[str, _Count]] = {}
        self._told_at = 0.0
        self._told: Free | None = None
        self._changed: Final = asyncio.Event()
        self.closed: Final = asyncio.Event()
        self.end: aio.LinkEnd

    async def run(self) -> None:
        """Count until the link ends."""
        while not self.closed.is_set():
            self._look_at_disk(time.monotonic())
            until = time.monotonic() + STEPS_SECONDS
            while (self._counts or self._look) and time.monotonic() < until:
                self._step()
            self._begin(time.monotonic())
            if self._counts or self._look:
                await asyncio.sleep(0)
            else:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    wait = TELL_SECONDS if self._watch.is_idle else TICK_SECONDS
                    async with asyncio.timeout(wait):
                        await self._changed.wait()

    def _look_at_disk(self, now: float) -> None:
        status = os.statvfs(self._tenants)
        free = Free(
            status.f_bavail * status.f_frsize,
            status.f_favail if status.f_files else None,
            status.f_blocks * status.f_frsize,
        )
        self._watch.note_free(free)
        low = free.bytes < 2 * self._watch.floor_bytes
        if free != self._told and (low or now - self._told_at >= TELL_SECONDS):
            self._told, self._told_at = free, now
            self._tell("left", Left(bytes=free[0], inodes=free[1], total_bytes=free[2]))

    def _begin(self, now: float) -> None:
        for tenant in self._watch.due(now)[: COUNTS_AT_ONCE - len(self._counts)]:
            inodes_max = self._watch.bounds(tenant).inodes
            walk = Walk(f"{self._tenants}/{tenant}", inodes_max, privileged=self._privileged)
            self._watch.begin(tenant)
            self._counts[tenant] = _Count(walk, now)
        is_due = now >= self._look_at and self._watch.changes != self._looked_changes
        if is_due and self._look is None and not self._watch.is_idle:
            self._look, self._look_began_at = self._unlinked.look(), now
            self._looked_changes = self._watch.changes

    def _step(self) -> None:
        """Take one step of each count, and look at one more process."""
        if self._look is not None:
            try:
                next(self._look)
            except StopIteration as end:
                self._look = None
                self._end_look(end.value)
        for tenant, count in list(self._counts.items()):
            began = time.monotonic()
            try:
                is_over = next(count.steps, self) is self
                use = count.walk.use
            except OSError as error:  # descriptors are scarce, or the disk is broken
                is_over, use = True, Use(0, 0, f"it cannot be counted: {error.strerror}")
            count.seconds += time.monotonic() - began
            if is_over:
                del self._counts[tenant]
                self._finish(tenant, count, use)

    def _finish(self, tenant: str, count: _Count, use: Use) -> None:
        now = time.monotonic()
        self._walked[tenant] = use
        self._watch.end(tenant, self._whole(tenant), count.seconds, now)
        self._tell_use(tenant, now - count.began_at)

    def _end_look(self, found: dict[str, int]) -> None:
        now = time.monotonic()
        self._look_at = now + (now - self._look_began_at) / LOOK_SHARE
        before, self._nameless = self._nameless, found
        for tenant in before.keys() | found.keys():
            if before.get(tenant, 0) != found.get(tenant, 0) and tenant in self._walked:
                self._watch.correct(tenant, self._whole(tenant))
                self._tell_use(tenant, now - self._look_began_at)

    def _whole(self, tenant: str) -> Use:
        use = self._walked[tenant]
        return use._replace(bytes=use.bytes + self._nameless.get(tenant, 0))

    def _tell_use(self, tenant: str, age_seconds: float) -> None:
        use = self._whole(tenant)
        counted = Counted(
            tenant=tenant,
            bytes=use.bytes,
            inodes=use.inodes,
            unlinked_bytes=self._nameless.get(tenant, 0),
            fault=use.fault,
            age_seconds=age_seconds,
        )
        self._tell("counted", counted)

    def _tell(self, topic: str, message: msgspec.Struct) -> None:
        if not self.end.closed:
            self.end.link.send(frames.Event(topic, msgspec.json.encode(message)))
            self.end.flush()

    # protocol.aio.LinkHandler

    def on_call(self, end: aio.LinkEnd, call: frames.Call) -> None:
        """See `LinkHandler`. The link takes no calls."""

    def on_cancel(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. As `on_call`."""

    def on_credit(self, end: aio.LinkEnd, call_id: int) -> None:
        """See `LinkHandler`. As `on_call`."""

    def on_notice(self, end: aio.LinkEnd, frame: frames.Frame) -> None:
        """See `LinkHandler`."""
        match frame:
            case frames.Event("watch", body):
                wanted = msgspec.json.decode(body, type=Watched)
                self._watch.add(wanted.tenant, Bounds(wanted.bytes_max, wanted.inodes_max))
            case frames.Event("forget", body):
                tenant = msgspec.json.decode(body, type=Forgotten).tenant
                self._watch.remove(tenant)
                self._stop(tenant)
            case frames.Event("floor", body):
                self._watch.floor_bytes = msgspec.json.decode(body, type=Floor).bytes
                self._told = None
        self._changed.set()

    def _stop(self, tenant: str) -> None:
        self._walked.pop(tenant, None)
        count = self._counts.pop(tenant, None)
        if count is not None:
            count.steps.close()

    def on_closed(self, end: aio.LinkEnd, reason: Exception | None) -> None:
        """See `LinkHandler`."""
        self.closed.set()
        self._changed.set()


def confine(uid: int) -> bool:
    """Keep no right but that to look; says whether what is closed to its owner can be looked at.

    Args:
        uid: As whom to run; the caller's own where it may not choose.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    privileged = False
    if os.geteuid() == 0:
        held = linux.permitted_capabilities()
        # Containers often have only the one that is more.
        reads = next((one for one in _READERS if one in held), None)
        keep = frozenset({linux.CAP_SYS_PTRACE} & held) | ({reads} if reads is not None else set())
        privileged = reads is not None
        linux.drop_bounding_set(keep)
        linux.prctl(linux.PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        linux.set_capabilities(keep)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    return privileged


_READERS: Final = (linux.CAP_DAC_READ_SEARCH, linux.CAP_DAC_OVERRIDE)


async def _serve(link: socket.socket, tenants: str, *, privileged: bool) -> int:
    guard = Guard(tenants, privileged=privileged)
    guard.end = await aio.attach(link, LIVENESS | {frames.Event}, guard)
    await guard.run()
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run to the end of the link; gives the exit code.

    Args:
        arguments: See the module.
    """
    set_title(TITLE)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        descriptor, tenants, uid = int(arguments[0]), arguments[1], int(arguments[2])
    except (ValueError, IndexError):
        os.write(2, b"usage: python -m supervisor.caps.disk <link descriptor> <directory> <uid>\n")
        return EXIT_USAGE
    privileged = confine(uid)
    return asyncio.run(_serve(socket.socket(fileno=descriptor), tenants, privileged=privileged))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
