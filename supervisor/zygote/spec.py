"""What a process is confined to, and the messages between supervisor, zygote and newborn."""

from typing import Final

import msgspec

from supervisor.zygote.seccomp import Profile


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Resource limits (getrlimit(2)); the hard limit in force bounds each. Core dumps are off.

    Attributes:
        open_files: Descriptors.
        threads: Everything that runs under the process's uid, in its user namespace if it has one
            of its own.
        file_bytes: The longest file it can write.
        locked_bytes: Memory that is never swapped.
        data_bytes: Memory of its own that can be written to: heap, stacks of threads, private
            mappings. It counts once it is asked for, used or not.
        mapped_bytes: Address space beyond that: libraries, files, memory that is shared.
    """

    open_files: int = 1024
    threads: int = 512
    file_bytes: int = 4 * 1024**3
    locked_bytes: int = 64 * 1024
    data_bytes: int = 1024**3
    mapped_bytes: int = 2 * 1024**3


class JailSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything the jail has to know about one process.

    Attributes:
        profile: `worker` (has a tenant and its directory) or `front` (has neither).
        tenant: The tenant's id; empty for the front, and in a `shape`.
        state_root: Absolute path, free of symbolic links. The tenant's directory is
            `tenants/<tenant>` below it, owned by `uid`, mode 0700; nothing else of it is visible.
        uid: The user to become: never 0; the caller's own unless root calls.
        gid: The group to become, as `uid`.
        namespaces: False only where root cannot have any; then Landlock has to stand in for them.
        readable: Absolute paths of what may be read, `roots.readable_paths()` and what the
            process needs beside that.
        policy: The system call policy, `seccomp.compiled(profile)`.
        limits: Resource limits.
        waived: The operator has written that tenants need not be kept apart: what this system
            cannot give is left out (no namespaces, no Landlock, an empty policy) instead of ending
            the process.
    """

    profile: Profile
    state_root: str
    uid: int
    gid: int
    namespaces: bool
    readable: tuple[str, ...]
    policy: bytes
    tenant: str = ""
    limits: Limits = Limits()
    waived: bool = False

    @property
    def directory(self) -> str:
        """The tenant's directory as everybody outside the jail names it."""
        return f"{self.state_root}/tenants/{self.tenant}"

    @property
    def shape(self) -> "JailSpec":
        """The same without what is one tenant's: all that a newborn and the zygote may know."""
        return msgspec.structs.replace(self, tenant="", uid=NOBODY_YET, gid=NOBODY_YET)


NOBODY_YET: Final = -1
"""Stands for uid and gid in a shape; no process can become it."""


class Start(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """First message to the zygote.

    `policy` is what it and its children may call, `seccomp.compiled("zygote")`; empty where the
    system cannot filter calls and the operator has waived that.
    """

    policy: bytes


class Spawn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for a newborn. The message carries `SPAWN_DESCRIPTORS`, in that order.

    `jail` is a shape: the newborn takes the steps that need no tenant, and waits for its `Order`.
    """

    request: int
    jail: JailSpec


SPAWN_DESCRIPTORS: Final = ("supervisor", "channel", "ready", "stderr")


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """First message on a newborn's descriptor channel: whose worker it becomes.

    `entry` is handed to the worker's own code as it is.
    """

    tenant: str
    uid: int
    gid: int
    entry: bytes


ENTRANCES_MAX: Final = 8
"""How many files an order may come with, each of which the process writes `MYSELF` to."""
MYSELF: Final = b"0"
"""By which a cgroup of version 1 knows the thread that writes it to `tasks`."""
WAITING: Final = b"waiting"
"""What a newborn sends on its descriptor channel before it waits for its order."""
TOLD: Final = b"told"
"""What it sends when it has read it."""


class Spawned(msgspec.Struct, frozen=True, tag="spawned"):
    """A newborn runs, as a child of the supervisor; it may still fail."""

    request: int
    pid: int


class SpawnFailed(msgspec.Struct, frozen=True, tag="failed"):
    """No process was made."""

    request: int
    reason: str


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """Sent once, unasked: everything is imported, and requests are answered from here on."""


Reply = Serving | Spawned | SpawnFailed
