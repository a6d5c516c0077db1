"""What somebody who owns a confined process would try.

An attack returns when it worked and raises OSError when it was refused; so a clean report has an
error name behind every attack. `Target` names what belongs to others.
"""

# ruff: noqa: PTH101, PTH102, PTH108, PTH116, PTH123, PTH208, PTH211 - calls as an attacker makes them

import ctypes
import errno
import fcntl
import os
import posix
import resource
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pyseccomp

from supervisor.zygote import linux

Attack = Callable[["Target"], object]

FAMILIES = {
    "unix": 1,
    "inet": 2,
    "inet6": 10,
    "netlink": 16,
    "packet": 17,
    "bluetooth": 31,
    "alg": 38,
    "vsock": 40,
}
NAMESPACES = {
    "user": linux.CLONE_NEWUSER,
    "mount": linux.CLONE_NEWNS,
    "pid": linux.CLONE_NEWPID,
    "net": linux.CLONE_NEWNET,
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Target(msgspec.Struct, frozen=True):
    """`neighbour` is another tenant's directory with a file `secret`; the pid is its worker's."""

    state_root: str
    neighbour: str
    neighbour_pid: int


def raw(name: str, *arguments: int | bytes) -> int:
    """A system call by its name, past the C library."""
    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    assert number >= 0, name
    return raw_number(number, *arguments)


def raw_number(number: int, *arguments: int | bytes) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    words += [ctypes.c_long(0)] * (6 - len(words))
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _open(path: str) -> object:
    with open(path, "rb") as file:
        return file.read(16)


def _exists(path: str) -> object:
    return os.stat(path)


def _append(path: str) -> object:
    with open(path, "ab") as file:
        return file.write(b"x")


def _fork() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid


def _raw_fork(name: str, *arguments: int | bytes) -> int:
    pid = raw(name, *arguments)
    if pid == 0:
        os._exit(0)
    return pid


def _socket(family: int) -> object:
    return socket.socket(family, socket.SOCK_DGRAM if family in (16, 17) else socket.SOCK_STREAM)


def _bind(_: Target) -> None:
    with socket.socket(fileno=os.dup(3)) as link:
        link.bind("\0openclaw-attack")


def _connect(_: Target) -> None:
    with socket.socket(fileno=os.dup(3)) as link:
        link.connect("\0openclaw-attack")


def _peer_descriptor() -> object:
    with socket.socket(fileno=os.dup(3)) as link:
        return link.getsockopt(socket.SOL_SOCKET, 77)


def _see_by_signal_zero(target: Target) -> None:
    os.kill(target.neighbour_pid, 0)


NEIGHBOURS_FILES: dict[str, Attack] = {
    "open the neighbour's file": lambda t: _open(f"{t.neighbour}/secret"),
    "write the neighbour's file": lambda t: _append(f"{t.neighbour}/secret"),
    "make a file at the neighbour's": lambda t: _append(f"{t.neighbour}/new"),
    "list the neighbour's directory": lambda t: os.listdir(t.neighbour),
    "stat the neighbour's file": lambda t: _exists(f"{t.neighbour}/secret"),
    "stat the neighbour's directory": lambda t: _exists(t.neighbour),
    "enter the neighbour's directory": lambda t: os.chdir(t.neighbour),
    "chmod the neighbour's directory": lambda t: os.chmod(t.neighbour, 0o777),
    "chmod the neighbour's file": lambda t: os.chmod(f"{t.neighbour}/secret", 0o666),
    "touch the neighbour's file": lambda t: os.utime(f"{t.neighbour}/secret"),
    "truncate the neighbour's file": lambda t: os.truncate(f"{t.neighbour}/secret", 0),
    "unlink the neighbour's file": lambda t: os.unlink(f"{t.neighbour}/secret"),
    "tag the neighbour's file": lambda t: os.setxattr(f"{t.neighbour}/secret", "user.x", b"x"),
    "climb to the neighbour": lambda t: _open(f"../{Path(t.neighbour).name}/secret"),
}
GATEWAYS_FILES: dict[str, Attack] = {
    "list the tenants": lambda t: os.listdir(f"{t.state_root}/tenants"),
    "list the state root": lambda t: os.listdir(t.state_root),
    "open the registry": lambda t: _open(f"{t.state_root}/registry.sqlite"),
    "write the registry": lambda t: _append(f"{t.state_root}/registry.sqlite"),
    "open the admin key": lambda t: _open(f"{t.state_root}/admin.key"),
    "open the configuration": lambda t: _open(f"{t.state_root}/config.yaml"),
}
SYSTEM_FILES: dict[str, Attack] = {
    "open /etc/shadow": lambda _: _open("/etc/shadow"),
    "open /etc/passwd": lambda _: _open("/etc/passwd"),
    "open own environ": lambda _: _open("/proc/self/environ"),
    "open own memory": lambda _: _open("/proc/self/mem"),
    "open init's status": lambda _: _open("/proc/1/status"),
    "open the neighbour's status": lambda t: _open(f"/proc/{t.neighbour_pid}/status"),
    "open the neighbour's memory": lambda t: _open(f"/proc/{t.neighbour_pid}/mem"),
    "list processes": lambda _: os.listdir("/proc"),
    "open /dev/null": lambda _: _open("/dev/null"),
    "open a disk": lambda _: _open("/dev/vda"),
    "list /": lambda _: os.listdir("/"),
    "list /tmp": lambda _: os.listdir("/tmp"),
    "list /home": lambda _: os.listdir("/home"),
    "write to /tmp": lambda _: _append("/tmp/openclaw-attack"),
    "write to /usr": lambda _: _append("/usr/openclaw-attack"),
    "write to Python": lambda _: _append(os.__file__),
    "make a directory in /": lambda _: os.mkdir("/openclaw-attack"),
}
EXECUTION: dict[str, Attack] = {
    "exec": lambda _: os.execv("/usr/bin/true", ["true"]),
    "exec by descriptor": lambda _: os.execve(os.open("/usr/bin/true", os.O_RDONLY), ["true"], {}),
    "spawn": lambda _: os.posix_spawn("/usr/bin/true", ["true"], {}),
    "subprocess": lambda _: subprocess.run(["/usr/bin/true"], check=False),
    "fork": lambda _: _fork(),
    "raw clone": lambda _: _raw_fork("clone", int(signal.SIGCHLD)),
    "raw clone into a user namespace": lambda _: _raw_fork(
        "clone", linux.CLONE_NEWUSER | int(signal.SIGCHLD)
    ),
    "thread flag with a namespace": lambda _: _raw_fork("clone", 0x10000 | linux.CLONE_NEWNS),
    "clone3": lambda _: _raw_fork("clone3", b"\0" * 88, 88),
}
SOCKETS: dict[str, Attack] = {
    **{
        f"socket {name}": (lambda _, family=family: _socket(family))  # type: ignore[misc]
        for name, family in FAMILIES.items()
    },
    "socketpair of datagrams": lambda _: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
    "socketpair of TIPC": lambda _: socket.socketpair(30, socket.SOCK_STREAM),
    "bind an inherited socket": _bind,
    "connect an inherited socket": _connect,
}
PROCESSES: dict[str, Attack] = {
    "see the neighbour by kill 0": _see_by_signal_zero,
    "see the gateway by kill 0": lambda _: os.kill(os.getppid() or 2, 0),
    "kill the neighbour": lambda t: os.kill(t.neighbour_pid, signal.SIGKILL),
    "kill everybody": lambda _: os.kill(-1, 0),
    "kill the group": lambda _: os.kill(0, 0),
    "tgkill the neighbour": lambda t: raw("tgkill", t.neighbour_pid, t.neighbour_pid, 9),
    "tkill the neighbour": lambda t: raw("tkill", t.neighbour_pid, 9),
    "queue a signal": lambda t: raw("rt_sigqueueinfo", t.neighbour_pid, 9, b"\0" * 128),
    "pidfd_open": lambda t: os.pidfd_open(t.neighbour_pid),
    "ptrace the neighbour": lambda t: raw("ptrace", 0x4206, t.neighbour_pid),
    "ptrace me": lambda _: raw("ptrace", 0),
    "read the neighbour's memory": lambda t: raw("process_vm_readv", t.neighbour_pid),
    "renice the neighbour": lambda t: os.setpriority(os.PRIO_PROCESS, t.neighbour_pid, 19),
    "look at the neighbour's priority": lambda t: os.getpriority(os.PRIO_PROCESS, t.neighbour_pid),
    "pin the neighbour": lambda t: os.sched_setaffinity(t.neighbour_pid, {0}),
    "see the neighbour's processors": lambda t: os.sched_getaffinity(t.neighbour_pid),
    "limit the neighbour": lambda t: resource.prlimit(
        t.neighbour_pid, resource.RLIMIT_NOFILE, (0, 0)
    ),
    "see the neighbour's session": lambda t: os.getsid(t.neighbour_pid),
}
KERNEL: dict[str, Attack] = {
    **{
        f"unshare {name}": (lambda _, flag=flag: linux.unshare(flag))  # type: ignore[misc]
        for name, flag in NAMESPACES.items()
    },
    "setns": lambda _: raw("setns", 3, 0),
    "mount": lambda _: linux.mount("none", "/tenant", "tmpfs", 0),
    "unmount": lambda _: linux.detach("/tenant"),
    "chroot": lambda _: os.chroot("/tenant"),
    "pivot_root": lambda _: linux.pivot_root(".", "."),
    "open_tree": lambda _: linux.clone_tree("/"),
    "fsopen": lambda _: raw("fsopen", b"tmpfs\0", 0),
    "remount": lambda _: linux.set_mount_attributes(linux.AT_FDCWD, "/", 0),
    "open_by_handle_at": lambda _: raw("open_by_handle_at", linux.AT_FDCWD, b"\0" * 128, 0),
    "keyctl": lambda _: raw("keyctl", 0, -3, 1),
    "add_key": lambda _: raw("add_key", b"user\0", b"x\0", b"x", 1, -3),
    "request_key": lambda _: raw("request_key", b"user\0", b"x\0"),
    "bpf": lambda _: raw("bpf", 0, b"\0" * 128, 128),
    "io_uring_setup": lambda _: raw("io_uring_setup", 8, b"\0" * 128),
    "perf_event_open": lambda _: raw("perf_event_open", b"\0" * 128, 0, -1, -1, 0),
    "userfaultfd": lambda _: raw("userfaultfd", 1),
    "memfd_create": lambda _: os.memfd_create("attack"),
    "seccomp": lambda _: raw("seccomp", 2, 0, b"\0\0\0\0"),
    "landlock": lambda _: raw("landlock_create_ruleset", 0, 0, 1),
    "personality": lambda _: raw("personality", 0x0040000),
    "inotify": lambda _: raw("inotify_init1", 0),
    "fanotify": lambda _: raw("fanotify_init", 0, 0),
    "shared memory": lambda _: raw("shmget", 0, 4096, 0o1600),
    "message queue": lambda _: raw("msgget", 0, 0o1600),
    "syslog": lambda _: raw("syslog", 3, b"\0" * 64, 64),
    "set hostname": lambda _: socket.sethostname("attack"),
    "become root": lambda _: os.setuid(0),
    "become dumpable": lambda _: linux.prctl(linux.PR_SET_DUMPABLE, 1),
    "outlive the supervisor": lambda _: linux.prctl(linux.PR_SET_PDEATHSIG, 0),
    "raise a limit": lambda _: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    "read capabilities": lambda _: linux.permitted_capabilities(),
    "a descriptor of the supervisor": lambda _: _peer_descriptor(),
    "whiteout": lambda _: raw("renameat2", -100, b"own\0", -100, b"gone\0", 4),
    "push into a terminal": lambda _: fcntl.ioctl(0, 0x5412, b"x"),
    "own signals from a file": lambda _: fcntl.fcntl(3, fcntl.F_SETOWN, 1),
    "unknown system call": lambda _: raw_number(1000),
}
OWN_DIRECTORY: dict[str, Attack] = {
    "symlink": lambda _: os.symlink("/etc/shadow", "link"),
    "hard link": lambda _: os.link("own", "hard"),
    "fifo": lambda _: os.mkfifo("fifo"),
    "device": lambda _: os.mknod("device", 0o600 | 0o020000, os.makedev(1, 3)),
    "open the directory up": lambda _: os.chmod(".", 0o777),
    "set-id file": lambda _: os.chmod("own", 0o4755),
    "give away": lambda _: os.chown("own", 0, 0),
    "extended attribute": lambda _: os.setxattr("own", "user.x", b"x"),
    "past the size limit": lambda _: posix.truncate("own", 1 << 50),
}
BY_SECCOMP_ALONE = {**EXECUTION, **SOCKETS, **PROCESSES, **KERNEL, **OWN_DIRECTORY}
ALL: dict[str, Attack] = {
    **NEIGHBOURS_FILES,
    **GATEWAYS_FILES,
    **SYSTEM_FILES,
    **BY_SECCOMP_ALONE,
}


def attempt(attack: Attack, target: Target) -> str:
    """Run one attack: the name of the error that refused it, or what it got."""
    try:
        got = attack(target)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except ValueError as error:
        # The resource module's way to say EPERM.
        return "EPERM" if "not allowed" in str(error) else f"worked? {error!r}"
    return f"worked: {got!r}"[:200]
