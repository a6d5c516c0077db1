"""What this machine can give the jail: tried, not guessed, and held against the minimum.

Each protection is tried by a child process, as a kernel that has a feature may still refuse it to
this user or in this container.
"""

import errno
import os
import resource
import select
import socket
import time
from collections.abc import Callable
from typing import Final

import msgspec

from supervisor.zygote import jail, landlock, linux, roots, seccomp
from supervisor.zygote.spec import JailSpec

PROBE_SECONDS_MAX: Final = 5.0
_MESSAGE_BYTES_MAX: Final = 1024
_HELD: Final = b"held"
# They need neither root nor namespaces, and no file.
_PLAIN: Final = (
    jail.new_session,
    jail.limit_resources,
    jail.drop_capabilities,
    jail.enter_directory,
    jail.die_with_supervisor,
    jail.forbid_dumps,
    jail.forbid_new_privileges,
)


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What holds here.

    Attributes:
        root: Whether root asks, so that every tenant can have a uid of its own.
        landlock_abi: 0 where there is no Landlock.
        namespaces: Why a worker's namespaces and root cannot be had, None if they can.
        seccomp: Why system calls cannot be filtered, None if they can.
        identity: Why a uid of the tenant's own cannot be had, None if it can; as an ordinary user
            always None, as it is not wanted there.
        step: Which of the steps that need none of these cannot be taken, by its name and why.
    """

    root: bool
    landlock_abi: int
    namespaces: str | None
    seccomp: str | None
    identity: str | None
    step: str | None = None


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
        step=_why_not(_take_plain_steps),
    )


def _take_plain_steps() -> None:
    ours, theirs = socket.socketpair()
    # To `validate` and `close_descriptors` these calls may be missing, in an old kernel.
    directory = linux.open_without_links("/", os.O_PATH | os.O_DIRECTORY)
    linux.close_range(directory, directory)
    spec = JailSpec(
        profile="front",
        state_root="/",
        uid=os.geteuid(),
        gid=os.getegid(),
        namespaces=False,
        readable=(),
        policy=b"",
    )
    process = jail.Confinement(spec, supervisor=theirs.fileno())
    for step in _PLAIN:
        try:
            step(process)
        except OSError as error:
            raise OSError(error.errno, f"{step.__name__}: {error.strerror}") from error
    held = {
        jail.new_session: os.getsid(0) == os.getpid(),
        jail.limit_resources: resource.getrlimit(resource.RLIMIT_CORE) == (0, 0),
        jail.drop_capabilities: not linux.permitted_capabilities(),
        jail.forbid_dumps: linux.prctl(linux.PR_GET_DUMPABLE) == 0,
        jail.forbid_new_privileges: linux.prctl(linux.PR_GET_NO_NEW_PRIVS) == 1,
    }
    idle = [step.__name__ for step, holds in held.items() if not holds]
    if idle:
        raise OSError(errno.ENOTSUP, f"{', '.join(idle)}: taken, and nothing changed")
    ours.close()


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
