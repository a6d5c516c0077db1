"""What this machine can give the jail: tried, not guessed, and held against the minimum.

Each protection is tried by a child process, as a kernel that has a feature may still refuse it to
this user or in this container.
"""

import errno
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Final

import msgspec

from supervisor.zygote import jail, landlock, linux, roots, seccomp

PROBE_SECONDS_MAX: Final = 5.0
_MESSAGE_BYTES_MAX: Final = 1024
_HELD: Final = b"held"


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What holds here.

    Attributes:
        root: Whether root asks, so that every tenant can have a uid of its own.
        landlock_abi: 0 where there is no Landlock.
        namespaces: Why a worker's namespaces and root cannot be had, None if they can.
        seccomp: Why system calls cannot be filtered, None if they can.
        identity: Why a uid of the tenant's own cannot be had, None if it can; as an ordinary user
            always None, as it is not wanted there.
    """

    root: bool
    landlock_abi: int
    namespaces: str | None
    seccomp: str | None
    identity: str | None


def probe(uid: int, gid: int) -> Probe:
    """Try every protection; the caller must have a single thread. Takes about 15 ms.

    Args:
        uid: A user that root is to become for a tenant; ignored for an ordinary user.
        gid: As `uid`.
    """
    root = os.geteuid() == 0
    if not root:
        uid, gid = os.geteuid(), os.getegid()
    flags = roots.namespace_flags("worker", root=root)

    def new_root() -> None:
        if not root:
            roots.map_ids(uid, gid)
        roots.build_root(roots.readable_paths())
        roots.change_root(None)

    def become() -> None:
        os.setgroups([])
        linux.drop_bounding_set()
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        linux.set_capabilities()

    return Probe(
        root=root,
        landlock_abi=landlock.abi(),
        namespaces=_why_not(new_root, flags),
        seccomp=_why_not(_filtered),
        identity=_why_not(become) if root else None,
    )


def _filtered() -> None:
    program = seccomp.compiled("worker")
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.load(seccomp.for_process(program, os.getpid()))
    try:
        socket.socket(socket.AF_UNIX).close()
    except PermissionError:
        return
    raise OSError(errno.ENOTSUP, "seccomp: a filter was loaded and refused nothing")


def _why_not(attempt: Callable[[], None], flags: int = 0) -> str | None:
    reader, writer = os.pipe()
    try:
        try:
            pid = linux.fork(flags)
        except OSError as error:
            return str(error)
        if pid == 0:
            _attempt(attempt, writer)
        os.close(writer)
        writer = -1
        return _verdict(pid, reader)
    finally:
        for descriptor in (reader, writer):
            if descriptor >= 0:
                os.close(descriptor)


def _attempt(attempt: Callable[[], None], writer: int) -> None:
    answer = _HELD
    try:
        attempt()
    except BaseException as error:  # noqa: BLE001 - the answer of a process that does nothing else
        answer = str(error).encode(errors="replace")[:_MESSAGE_BYTES_MAX] or b"failed"
    finally:
        os.write(writer, answer)
        os._exit(0)


def _verdict(pid: int, reader: int) -> str | None:
    answer = b""
    deadline = time.monotonic() + PROBE_SECONDS_MAX
    if select.select([reader], [], [], deadline - time.monotonic())[0]:
        answer = os.read(reader, _MESSAGE_BYTES_MAX)
    else:
        os.kill(pid, 9)
    os.waitpid(pid, 0)
    if answer == _HELD:
        return None
    return answer.decode(errors="replace") or "the probe died without an answer"


def missing_minimum(found: Probe) -> list[str]:
    """Name, a sentence each, what is missing under the least that keeps tenants apart.

    The least is, as root, a uid per tenant, seccomp and either a mount namespace or Landlock from
    ABI 3; as an ordinary user namespaces and seccomp. Empty if everything needed is there.
    """
    missing = []
    if found.seccomp is not None:
        missing.append(f"System calls cannot be filtered (seccomp): {found.seccomp}.")
    if found.identity is not None:
        missing.append(f"A tenant cannot be given a uid of its own: {found.identity}.")
    if found.namespaces is not None and not found.root:
        missing.append(
            "Namespaces, which separate tenants when the gateway is not run by root, "
            f"cannot be had: {found.namespaces}."
        )
    abi_min = jail.LANDLOCK_ALONE_ABI_MIN
    if found.namespaces is not None and found.root and found.landlock_abi < abi_min:
        missing.append(
            f"Neither a mount namespace can be had ({found.namespaces}) "
            f"nor Landlock ABI {abi_min} (here: {found.landlock_abi}) to stand in for it."
        )
    return missing
