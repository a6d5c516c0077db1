"""The system calls that the jail needs and Python has no function for, by ctypes.

Each wrapper raises `OSError` whose text begins with the name of the call that failed. Numbers and
structures are those of the kernel's UAPI headers (asm/unistd.h, linux/mount.h, linux/openat2.h,
linux/capability.h, linux/prctl.h, linux/sched.h). Landlock and seccomp have modules of their own.
"""

import contextlib
import ctypes
import errno
import os
import platform
from collections.abc import Iterator
from typing import Final

MACHINE: Final = platform.machine()

# (x86_64, aarch64); calls added since Linux 5.1 have one number everywhere.
_NUMBERS: Final = {
    "clone": (56, 220),
    "capset": (126, 91),
    "pivot_root": (155, 41),
    "seccomp": (317, 277),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "close_range": (436, 436),
    "openat2": (437, 437),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
_COLUMNS: Final = {"x86_64": 0, "aarch64": 1}

CLONE_PARENT: Final = 0x00008000
CLONE_NEWNS: Final = 0x00020000
CLONE_CHILD_CLEARTID: Final = 0x00200000
CLONE_CHILD_SETTID: Final = 0x01000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
SIGCHLD: Final = 17

PR_SET_PDEATHSIG: Final = 1
PR_GET_DUMPABLE: Final = 3
PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_NO_NEW_PRIVS: Final = 39
PR_GET_TID_ADDRESS: Final = 40
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

CAP_DAC_OVERRIDE: Final = 1
CAP_DAC_READ_SEARCH: Final = 2
CAP_KILL: Final = 5
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAP_SETPCAP: Final = 8
CAP_SYS_PTRACE: Final = 19
CAP_SYS_ADMIN: Final = 21
CAP_SYS_RESOURCE: Final = 24
_CAPABILITIES_MAX: Final = 64
_CAPABILITY_VERSION_3: Final = 0x20080522

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8
MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
MS_SLAVE: Final = 0x80000
MNT_DETACH: Final = 0x2

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

_libc: Final = ctypes.CDLL(None, use_errno=True)
# Keeps the GIL: between PyOS_BeforeFork and its counterpart nothing of Python's may run.
_libc_with_gil: Final = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc_with_gil.syscall.restype = ctypes.c_long
_prctl: Final = _libc.prctl
_prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
_before_fork: Final = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_child: Final = ctypes.pythonapi.PyOS_AfterFork_Child
_after_fork_parent: Final = ctypes.pythonapi.PyOS_AfterFork_Parent
for _function in (_before_fork, _after_fork_child, _after_fork_parent):
    _function.restype = None
    _function.argtypes = ()


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityWord(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def number(name: str) -> int:
    """Give the number of a system call on this machine.

    Raises:
        OSError: ENOSYS, on a machine whose numbers are not known here.
    """
    column = _COLUMNS.get(MACHINE)
    if column is None:
        raise OSError(errno.ENOSYS, f"{name}: unknown machine type {MACHINE}")
    return _NUMBERS[name][column]


def _failure(name: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{name}: {os.strerror(code)}")


_Argument = int | bytes | ctypes.Array[ctypes.c_char] | ctypes.Structure | None


def _converted(argument: _Argument) -> object:
    # `syscall` is variadic: a bare int would be passed as 32 bits with garbage above.
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    return argument


def call(name: str, *arguments: _Argument) -> int:
    """Make a system call by its name in the table above; structures go by reference.

    Raises:
        OSError: as the kernel says, beginning with `name`.
    """
    result: int = _libc.syscall(ctypes.c_long(number(name)), *map(_converted, arguments))
    if result < 0:
        raise _failure(name)
    return result


def fork(flags: int = 0) -> int:
    """Fork as `os.fork` does, with `clone` flags: 0 in the child, its pid in the parent.

    The caller must be single-threaded: glibc's own fork handlers do not run.

    Raises:
        OSError: as clone(2) says.
    """
    # glibc keeps the thread's id in its own block, and recursive locks compare it; its address is
    # the one registered for CLONE_CHILD_CLEARTID. Kernels without checkpoint/restore don't tell.
    tid_address = ctypes.c_void_p()
    told = _prctl(PR_GET_TID_ADDRESS, ctypes.addressof(tid_address), 0, 0, 0) == 0
    address = (tid_address.value or 0) if told else 0
    flags |= SIGCHLD | (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID if address else 0)
    stack, parent_tid, tls, child_tid = 0, 0, 0, address
    tail = (child_tid, tls) if MACHINE == "x86_64" else (tls, child_tid)
    words = [ctypes.c_long(value) for value in (number("clone"), flags, stack, parent_tid, *tail)]
    _before_fork()
    pid: int = _libc_with_gil.syscall(*words)
    if pid == 0:
        _after_fork_child()
        return 0
    code = ctypes.get_errno()
    _after_fork_parent()
    if pid < 0:
        raise OSError(code, f"clone: {os.strerror(code)}")
    return pid


def unshare(flags: int) -> None:
    """Move this process into new namespaces, named by `CLONE_NEW*` bits."""
    if _libc.unshare(ctypes.c_int(flags)) != 0:
        raise _failure("unshare")


def keep_freed_memory(size: int) -> None:
    """Have malloc keep up to `size` bytes that are free at its end (mallopt(3), glibc only).

    Blocks of up to an eighth of that come from there too, instead of being mapped each time.
    """
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, size)
        mallopt(_M_MMAP_THRESHOLD, size // 8)


def prctl(option: int, *arguments: int) -> int:
    """Make a process control call; arguments not given are zero, as newer options demand."""
    result: int = _prctl(option, *(*arguments, 0, 0, 0, 0)[:4])
    if result < 0:
        raise _failure(f"prctl({option})")
    return result


def close_range(first: int, last: int) -> None:
    """Close every descriptor from `first` to `last`, both included."""
    call("close_range", first, last, 0)


def drop_bounding_set(keep: frozenset[int] = frozenset()) -> None:
    """Take every capability but `keep` out of the bounding set, and all from the ambient set."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(_CAPABILITIES_MAX):
        held = _prctl(PR_CAPBSET_READ, capability, 0, 0, 0)
        if held < 0:
            return  # the kernel's last capability is behind us
        if held and capability not in keep:
            prctl(PR_CAPBSET_DROP, capability)


def set_capabilities(keep: frozenset[int] = frozenset()) -> None:
    """Make `keep` the effective and permitted capabilities; the inheritable set becomes empty."""
    words = (_CapabilityWord * 2)()
    for capability in keep:
        words[capability // 32].effective |= 1 << capability % 32
        words[capability // 32].permitted |= 1 << capability % 32
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    if _libc.capset(ctypes.byref(header), words) != 0:
        raise _failure("capset")


def permitted_capabilities() -> frozenset[int]:
    """Give the capabilities that this process may have."""
    words = (_CapabilityWord * 2)()
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    if _libc.capget(ctypes.byref(header), words) != 0:
        raise _failure("capget")
    bits = words[0].permitted | words[1].permitted << 32
    return frozenset(number for number in range(_CAPABILITIES_MAX) if bits >> number & 1)


def open_without_links(path: str, flags: int, below: int | None = None) -> int:
    """Open a path none of whose components may be a symbolic link.

    Args:
        path: Absolute; relative and never leaving it if there is a `below`.
        flags: As of open(2).
        below: An open directory.

    Raises:
        OSError: ELOOP where a link is, EXDEV where it leaves `below`, else as openat2(2) says.
    """
    resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    if below is not None:
        resolve |= RESOLVE_BENEATH
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    directory = AT_FDCWD if below is None else below
    return call("openat2", directory, os.fsencode(path), how, ctypes.sizeof(how))


@contextlib.contextmanager
def file_rights_of(uid: int, gid: int) -> Iterator[None]:
    """Have this thread's file accesses in the block be those of another user (setfsuid(2)).

    What it makes is that user's, and what that user may not, it may not. The caller is root with
    `CAP_SETUID` and `CAP_SETGID` and has no other groups, or is that user. Nothing else may run in
    this thread within the block.

    Raises:
        OSError: the kernel refused.
    """
    before = _libc.setfsuid(-1), _libc.setfsgid(-1)
    try:
        _libc.setfsgid(gid)
        _libc.setfsuid(uid)
        if (_libc.setfsuid(-1), _libc.setfsgid(-1)) != (uid, gid):
            raise PermissionError(errno.EPERM, f"setfsuid: cannot be uid {uid}, gid {gid}")
        yield
    finally:
        _libc.setfsuid(before[0])
        _libc.setfsgid(before[1])


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Make a mount, or with the fitting `MS_*` bits change one."""
    strings = [os.fsencode(text) for text in (source, target, kind)]
    if _libc.mount(*strings, ctypes.c_ulong(flags), os.fsencode(options)) != 0:
        raise _failure(f"mount {target}")


def detach(target: str) -> None:
    """Take a mount and everything below it out of this namespace."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH) != 0:
        raise _failure(f"umount2 {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root and put the old one at `put_old`."""
    call("pivot_root", os.fsencode(new_root), os.fsencode(put_old))


def clone_tree(source: str | int) -> int:
    """Give a detached copy of the mount at `source`, a path or an open directory, as a descriptor.

    Everything mounted below comes along.
    """
    directory, path = (source, b"") if isinstance(source, int) else (AT_FDCWD, os.fsencode(source))
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE
    try:
        return call("open_tree", directory, path, flags | (0 if path else AT_EMPTY_PATH))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({source})") from error


def set_mount_attributes(directory: int, path: str, attributes: int) -> None:
    """Give `MOUNT_ATTR_*` bits to a mount and everything mounted below it.

    No mount or unmount elsewhere reaches them from then on.

    An empty path means the mount that `directory` is, as `clone_tree` gave it.
    """
    wanted = _MountAttributes(attributes, propagation=MS_PRIVATE)
    flags = AT_RECURSIVE | (0 if path else AT_EMPTY_PATH)
    call("mount_setattr", directory, os.fsencode(path), flags, wanted, ctypes.sizeof(wanted))


def attach_tree(tree: int, target: str) -> None:
    """Mount what `clone_tree` gave at `target`, and close its descriptor."""
    try:
        call("move_mount", tree, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)
