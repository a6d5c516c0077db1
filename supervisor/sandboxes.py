"""What the launcher is told of the configuration."""

import functools
import os
from pathlib import Path
from typing import Final

from protocol import launching
from supervisor.config import SandboxSection
from supervisor.launcher import confinement, policy


def launcher_spec(
    section: SandboxSection, state_root: Path, *, filtered: bool
) -> launching.LauncherSpec:
    """Give what a launcher is told first.

    Args:
        section: The configuration's.
        state_root: Absolute, free of symbolic links.
        filtered: Whether system calls can be filtered here.
    """
    return launching.LauncherSpec(
        state_root=str(state_root),
        policy=policy.compiled() if filtered else b"",
        own_policy=_of_launcher() if filtered else b"",
        stem_policy=_of_stem() if filtered else b"",
        docker_policy=policy.docker_profile() if filtered and section.docker.images else "",
        docker_host=section.docker.host,
        docker_runtime=section.docker.runtime,
        images=section.docker.images,
        warm=section.docker.warm,
        gateway=str(state_root),
    )


_of_launcher: Final = functools.cache(confinement.launcher_policy)
_of_stem: Final = functools.cache(confinement.stem_policy)


def place(
    section: SandboxSection, tenant: str, generation: int, uid: int | None
) -> launching.Place:
    """Give what the launcher is told of a worker.

    Args:
        section: The configuration's.
        tenant: Whose worker it is.
        generation: Which.
        uid: The tenant's; None is the gateway's own.
    """
    own = (os.geteuid(), os.getegid()) if uid is None else (uid, uid)
    return launching.Place(
        tenant=tenant,
        generation=generation,
        uid=own[0],
        gid=own[1],
        ceilings=ceilings(section),
    )


def ceilings(section: SandboxSection) -> launching.Ceilings:
    """Give what an operator allows the sandboxes of a tenant."""
    return launching.Ceilings(
        modes=section.allowed,
        default_mode=section.mode,
        images=tuple(sorted(section.docker.images)),
        sandbox=launching.Caps(
            memory_bytes=section.memory_bytes, cpus=section.cpus, pids=section.pids
        ),
        wall_seconds=section.wall_seconds,
        concurrent=section.concurrent,
        queued=section.queued,
        terminals=section.terminals,
        terminal_idle_seconds=section.terminal_idle_seconds,
        file_bytes=section.file_bytes,
        networks=tuple(sorted(section.network)),
    )
