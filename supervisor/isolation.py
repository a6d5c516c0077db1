"""What keeps the processes apart on this machine, and how each of them is jailed.

The gateway refuses to start below the minimum, unless the operator has written `isolation: {mode:
none}` into `config.yaml`; then it says so in its banner, in its log and at `/readyz`.
"""

import functools
import os
from pathlib import Path
from typing import Final, NamedTuple

from supervisor.config import IsolationSection
from supervisor.zygote import probe, roots, seccomp
from supervisor.zygote.spec import JailSpec, Limits

FRONT_LIMITS: Final = Limits(open_files=16384, data_bytes=4 * 2**30)
SWITCHED_OFF: Final = "isolation is off: tenants are not kept apart (isolation.mode: none)"


class BelowMinimumError(Exception):
    """Tenants could not be kept apart here; the message names what is missing."""


class Report(NamedTuple):
    """What holds here, and what of the minimum does not."""

    section: IsolationSection
    found: probe.Probe
    missing: tuple[str, ...]

    def summary(self) -> str:
        """Say it in one line, for the banner."""
        if self.missing:
            return f"{SWITCHED_OFF}; {' '.join(self.missing)}"
        held = ["uid per tenant"] if self.found.root else []
        held += ["namespaces"] if self.found.namespaces is None else []
        held += [f"Landlock ABI {self.found.landlock_abi}"] if self.found.landlock_abi else []
        return f"isolation: {', '.join([*held, 'seccomp'])}"

    def notices(self) -> tuple[str, ...]:
        """Give what everybody who looks after the gateway has to know."""
        return (SWITCHED_OFF,) if self.missing else ()

    def worker_jail(
        self, state_root: Path, tenant: str, uid: int | None, memory_bytes: int
    ) -> JailSpec:
        """Give the jail of a tenant's worker; without a uid of its own it has the gateway's."""
        limits = Limits(data_bytes=memory_bytes)
        return self._jail("worker", state_root, uid, limits, tenant=tenant)

    @property
    def front_uid(self) -> int | None:
        """The front's uid: as root the first of the range, else the gateway's own (None)."""
        return self.section.uid_first if self.found.root else None

    @property
    def disk_uid(self) -> int:
        """Of the process that counts: as root the one after the front's, else the gateway's own."""
        return self.section.uid_first + 1 if self.found.root else os.geteuid()

    @property
    def egress_uid(self) -> int | None:
        """Egress's uid: as root the third of the range, else the gateway's own (None)."""
        return self.section.uid_first + 2 if self.found.root else None

    def front_jail(self, state_root: Path, *readable: Path) -> JailSpec:
        """Give the jail of the front, which may read `readable` beside the libraries."""
        return self._jail("front", state_root, self.front_uid, FRONT_LIMITS, readable)

    def zygote_policy(self) -> bytes:
        """Give the system calls of the zygote; empty where they cannot be filtered."""
        return b"" if self.found.seccomp else seccomp.compiled("zygote")

    def _jail(
        self,
        profile: seccomp.Profile,
        state_root: Path,
        uid: int | None,
        limits: Limits,
        readable: tuple[Path, ...] = (),
        tenant: str = "",
    ) -> JailSpec:
        own = (os.geteuid(), os.getegid()) if uid is None else (uid, uid)
        return JailSpec(
            profile=profile,
            state_root=str(state_root),
            uid=own[0],
            gid=own[1],
            namespaces=self.found.namespaces is None,
            readable=(*_readable(), *map(str, readable)),
            policy=b"" if self.found.seccomp else seccomp.compiled(profile),
            tenant=tenant,
            limits=limits,
            waived=bool(self.missing),
        )


@functools.cache
def _readable() -> tuple[str, ...]:
    return roots.readable_paths()


def look(section: IsolationSection) -> Report:
    """See what holds here, without a judgement; the caller must have a single thread."""
    found = probe.probe(section.uid_first, section.uid_first)
    return Report(section, found, tuple(probe.missing_minimum(found)))


def examine(section: IsolationSection) -> Report:
    """See what holds here; the caller must have a single thread.

    Raises:
        BelowMinimumError: it is below the minimum, and the configuration does not allow that.
    """
    report = look(section)
    if report.found.identity is not None:
        raise BelowMinimumError(
            f"A tenant cannot be given a uid of its own: {report.found.identity}. "
            "Run the gateway as an ordinary user instead."
        )
    if report.missing and section.mode != "none":
        raise BelowMinimumError(
            f"tenants cannot be kept apart here. {' '.join(report.missing)} "
            "To run without, write isolation: {mode: none} into config.yaml."
        )
    return report
