"""The jail: an ordered list of steps that a process takes on itself, and cannot take back.

The order is that of Firecracker's jailer (its docs/jailer.md): what needs privileges first, then
the privileges, then what forbids the most. A worker takes the steps in the child of the zygote,
which was cloned into its namespaces: those of `AHEAD` before it knows its tenant, then those of
`OWN`. The front takes all on itself.

A step that fails ends the process before any code of its purpose has run.
"""

import contextlib
import errno
import functools
import os
import resource
import select
import signal
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NoReturn

import msgspec

from protocol import names
from supervisor.zygote import landlock, linux, roots, seccomp
from supervisor.zygote.spec import JailSpec, Order

EXIT_FAILED: Final = 3
EXIT_CONFIGURATION: Final = 78
# What another attempt may find otherwise; everything else is the system's or the operator's doing.
_TRANSIENT: Final = frozenset(
    (errno.EAGAIN, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)
)
# Landlock alone holds a worker where root can have no namespaces: from ABI 3 it governs truncation.
LANDLOCK_ALONE_ABI_MIN: Final = 3


class JailError(Exception):
    """A step of the jail failed.

    Attributes:
        step: The step's name.
        exit_code: What the process has to end with: 78 if the system or the configuration cannot
            do it, else 3.
    """

    def __init__(self, step: str, cause: Exception) -> None:
        super().__init__(f"jail: {step}: {cause}")
        self.step: Final = step
        gone = isinstance(cause, ProcessLookupError)
        transient = isinstance(cause, OSError) and cause.errno in _TRANSIENT
        self.exit_code: Final = EXIT_FAILED if gone or transient else EXIT_CONFIGURATION


@dataclass
class Confinement:
    """One process on its way into the jail.

    Attributes:
        spec: What it is confined to; a shape until `become`.
        supervisor: Its end of the link to the supervisor, at whose end it dies.
        keep: Other descriptors that stay open beside the standard streams.
        in_namespaces: It was cloned into its namespaces.
        caller: uid and gid before any namespace; root's are zero.
        tenants: What holds the tenants' directories, open until one of them has been.
        directory: The tenant's directory, open until it is the working directory.
    """

    spec: JailSpec
    supervisor: int
    keep: frozenset[int] = frozenset()
    in_namespaces: bool = False
    caller: tuple[int, int] = field(default_factory=lambda: (os.geteuid(), os.getegid()))
    tenants: int | None = None
    directory: int | None = None

    @property
    def as_root(self) -> bool:
        """Whether root confines, so that the process gets a uid of its own."""
        return self.caller[0] == 0

    def become(self, order: Order) -> None:
        """Take note of whose worker the process is to be."""
        self.spec = msgspec.structs.replace(
            self.spec, tenant=order.tenant, uid=order.uid, gid=order.gid
        )


def validate(process: Confinement) -> None:
    """Refuse paths that are not what they should be, and less than the minimum."""
    spec = process.spec
    if not spec.waived:
        if not process.as_root and not spec.namespaces:
            raise ValueError("tenants of one uid need namespaces")
        if not spec.policy:
            raise ValueError("there is no system call policy")
    _check_paths(spec.state_root, spec.readable)
    if spec.profile == "worker":
        process.tenants = _open_directory(f"{spec.state_root}/tenants")


def _open_directory(path: str, below: int | None = None) -> int:
    return linux.open_without_links(path, os.O_PATH | os.O_DIRECTORY, below)


@functools.lru_cache(maxsize=8)
def _check_paths(state_root: str, readable: tuple[str, ...]) -> None:
    for path in (state_root, *readable):
        if not os.path.isabs(path) or os.path.normpath(path) != path or "\0" in path:
            raise ValueError(f"not a plain absolute path: {path!r}")
    tenants = os.path.join(state_root, "tenants")
    for path in map(os.path.realpath, readable):
        if _is_within(state_root, path) or _is_within(path, tenants):
            raise ValueError(f"{path} would show every tenant the state directory {state_root}")


def _is_within(path: str, directory: str) -> bool:
    return os.path.commonpath((path, directory)) == directory


def close_descriptors(process: Confinement) -> None:
    """Close whatever else was inherited."""
    kept = {0, 1, 2, process.supervisor, *process.keep}
    if process.tenants is not None:
        kept.add(process.tenants)
    first = 0
    for descriptor in sorted(kept):
        if first < descriptor:
            linux.close_range(first, descriptor - 1)
        first = descriptor + 1
    linux.close_range(first, 2**31 - 1)


def new_session(_process: Confinement) -> None:
    """Leave the terminal and the process group."""
    if os.getsid(0) != os.getpid():
        os.setsid()


def limit_resources(process: Confinement) -> None:
    """Set umask and resource limits."""
    os.umask(0o077)
    limits = process.spec.limits
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NICE, 0),
        (resource.RLIMIT_RTPRIO, 0),
        (resource.RLIMIT_MEMLOCK, limits.locked_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NPROC, limits.threads),
        (resource.RLIMIT_DATA, limits.data_bytes),
        # What RLIMIT_DATA does not count (shared mappings, those that grow down) is in here.
        (resource.RLIMIT_AS, limits.data_bytes + limits.mapped_bytes),
    ):
        hard = resource.getrlimit(kind)[1]
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bounded, bounded))


def enter_namespaces(process: Confinement) -> None:
    """Enter the namespaces, if not cloned into them; map the user's ids in a user namespace."""
    spec = process.spec
    if not spec.namespaces:
        return
    if not process.in_namespaces:
        linux.unshare(roots.namespace_flags(spec.profile, root=process.as_root))
    if not process.as_root:
        roots.map_ids(*process.caller)


def build_root(process: Confinement) -> None:
    """Put a root together that holds what is readable, and nothing of any tenant."""
    if process.spec.namespaces:
        roots.build_root(process.spec.readable)


def open_directory(process: Confinement) -> None:
    """Refuse ids that are not what they should be; open the tenant's directory."""
    spec = process.spec
    if process.as_root and not spec.waived and (spec.uid <= 0 or spec.gid <= 0):
        raise ValueError(f"cannot become uid {spec.uid}, gid {spec.gid}")
    if not process.as_root and (spec.uid, spec.gid) != process.caller:
        raise ValueError(f"only root can become uid {spec.uid}, gid {spec.gid}")
    if spec.profile == "front":
        return
    if not names.is_tenant_id(spec.tenant):
        raise ValueError(f"not a tenant id: {spec.tenant!r}")
    if process.tenants is None:
        raise FileNotFoundError(errno.ENOENT, "the tenants' directories have not been found")
    try:
        process.directory = _open_directory(spec.tenant, process.tenants)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({spec.directory})") from error
    os.close(process.tenants)
    process.tenants = None


def change_root(process: Confinement) -> None:
    """Leave the file system for that root, with the tenant's directory in it."""
    if process.spec.namespaces:
        roots.change_root(process.directory)


def drop_identity(process: Confinement) -> None:
    """Give up groups, the bounding set, the gid and the uid."""
    spec = process.spec
    if process.as_root:
        os.setgroups([])
    if process.as_root or spec.namespaces:
        linux.drop_bounding_set()
    os.setresgid(spec.gid, spec.gid, spec.gid)
    os.setresuid(spec.uid, spec.uid, spec.uid)
    if os.getresuid() != (spec.uid,) * 3 or os.getresgid() != (spec.gid,) * 3:
        raise PermissionError(errno.EPERM, "uid or gid did not change")


def drop_capabilities(_process: Confinement) -> None:
    """Give up every capability; in a user namespace of one's own a change of uid keeps them."""
    linux.set_capabilities()


def enter_directory(process: Confinement) -> None:
    """Make the tenant's directory the working directory; it must be the tenant's own."""
    spec = process.spec
    if spec.profile == "front":
        os.chdir("/")
        return
    if process.directory is None:
        raise FileNotFoundError(errno.ENOENT, "the tenant's directory has not been opened")
    opened = os.fstat(process.directory)
    try:
        os.chdir(roots.TENANT_DIRECTORY if spec.namespaces else spec.directory)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({spec.directory})") from error
    if not os.path.samestat(opened, os.stat(".")):
        raise PermissionError(errno.EPERM, f"{spec.directory} was swapped")
    if opened.st_uid != spec.uid or stat.S_IMODE(opened.st_mode) & 0o077:
        raise PermissionError(
            errno.EPERM, f"{spec.directory} is not private to uid {spec.uid} (mode 0700)"
        )
    os.close(process.directory)
    process.directory = None


def die_with_supervisor(process: Confinement) -> None:
    """Ask for SIGKILL at the supervisor's end, and see that it has not come already."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    # In a pid namespace there is no parent to ask for; a dead supervisor's link has hung up.
    poll = select.poll()
    poll.register(process.supervisor, select.POLLHUP | select.POLLERR)
    if poll.poll(0):
        raise ProcessLookupError(errno.ESRCH, "the supervisor is gone")


def forbid_dumps(_process: Confinement) -> None:
    """Close /proc/<pid> and ptrace to processes of the same uid; no core dumps."""
    linux.prctl(linux.PR_SET_DUMPABLE, 0)


def forbid_new_privileges(_process: Confinement) -> None:
    """Make set-id bits and file capabilities mean nothing."""
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


def restrict_files(process: Confinement) -> None:
    """Restrict what may be opened, by Landlock, where the kernel has it."""
    version = landlock.abi()
    needed = not process.spec.namespaces and not process.spec.waived
    if needed and version < LANDLOCK_ALONE_ABI_MIN:
        raise OSError(
            errno.ENOSYS,
            f"without namespaces Landlock ABI {LANDLOCK_ALONE_ABI_MIN} is needed, not {version}",
        )
    if version:
        writable = (".",) if process.spec.profile == "worker" else ()
        landlock.restrict(version, process.spec.readable, writable)


def filter_system_calls(process: Confinement) -> None:
    """Leave only the system calls of the policy."""
    if not process.spec.policy and process.spec.waived:
        return
    seccomp.load(seccomp.for_process(process.spec.policy, os.getpid()))


Step = Callable[[Confinement], None]
AHEAD: tuple[Step, ...] = (
    validate,
    close_descriptors,
    new_session,
    limit_resources,
    enter_namespaces,
    build_root,
    die_with_supervisor,
    forbid_dumps,
)
"""What depends on no tenant."""
OWN: tuple[Step, ...] = (
    open_directory,
    change_root,
    drop_identity,
    drop_capabilities,
    enter_directory,
    die_with_supervisor,  # once more, as the next: a change of uid has undone both
    forbid_dumps,
    forbid_new_privileges,
    restrict_files,
    filter_system_calls,
)
"""What is left when the tenant is known."""


def prepare(spec: JailSpec) -> None:
    """Work out in the zygote what its children then find in memory; their steps report errors."""
    with contextlib.suppress(OSError, ValueError):
        _check_paths(spec.state_root, spec.readable)
        if spec.namespaces:
            roots.plan(spec.readable)
            seccomp.for_process(spec.policy, 1)


def confine(process: Confinement, steps: Iterable[Step]) -> None:
    """Take these steps, in order. After a failure the process must not go on.

    Raises:
        JailError: naming the step.
    """
    for step in steps:
        try:
            step(process)
        except Exception as error:
            raise JailError(step.__name__, error) from error


def confine_or_exit(process: Confinement, steps: Iterable[Step]) -> None:
    """Take these steps; at a failure write one line to standard error and end the process."""
    try:
        confine(process, steps)
    except JailError as error:
        _end(error)


def _end(error: JailError) -> NoReturn:
    line = "".join(char if char.isprintable() else "?" for char in str(error))
    os.write(2, f"openclaw: {line}\n".encode(errors="replace"))
    os._exit(error.exit_code)
