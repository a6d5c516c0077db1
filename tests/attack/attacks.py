"""What somebody who owns a confined process would try.

An attack's act returns when it worked and raises OSError when it was refused; so a clean report has
an error name behind every attack. `Target` names what belongs to others.

Each attack names the steps of the jail that stop it, each of them alone: what is stopped in a
configuration is worked out from the steps in force there, and `test_matrix.py` holds it against
what happens.
"""

# ruff: noqa: PTH101, PTH102, PTH104, PTH108, PTH208, PTH211 - calls as an attacker makes them

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
from typing import NamedTuple

from supervisor.zygote import linux
from tests.attack import acts
from tests.attack.acts import Target

UID = "drop_identity"
NAMESPACES = "enter_namespaces"
ROOT = "change_root"
LANDLOCK = "restrict_files"
SECCOMP = "filter_system_calls"
CAPABILITIES = "drop_capabilities"
NOT_DUMPABLE = "forbid_dumps"
LIMITS = "limit_resources"
# Not a step: the zygote leaves the caller's network before it forks.
ZYGOTE = "shed_privileges"

Act = Callable[[Target], object]


class Attack(NamedTuple):
    """One attempt.

    Attributes:
        act: What is tried.
        stopped_by: Steps of the jail, each of which stops it alone.
        varies: What happens without them is for the machine's settings to say (sysctls, modules).
    """

    act: Act
    stopped_by: frozenset[str]
    varies: bool = False


def attack(act: Act, *stopped_by: str, varies: bool = False) -> Attack:
    return Attack(act, frozenset(stopped_by), varies)


NEIGHBOURS_FILES: dict[str, Attack] = {
    name: attack(act, UID, ROOT, *more)
    for name, act, more in (
        (
            "open the neighbour's file",
            lambda t: acts.read_some(f"{t.neighbour}/secret"),
            (LANDLOCK,),
        ),
        ("write the neighbour's file", lambda t: acts.append(f"{t.neighbour}/secret"), (LANDLOCK,)),
        (
            "make a file at the neighbour's",
            lambda t: acts.append(f"{t.neighbour}/new"),
            (LANDLOCK,),
        ),
        ("list the neighbour's directory", lambda t: os.listdir(t.neighbour), (LANDLOCK,)),
        ("stat the neighbour's file", lambda t: acts.exists(f"{t.neighbour}/secret"), ()),
        ("enter the neighbour's directory", lambda t: os.chdir(t.neighbour), ()),
        ("chmod the neighbour's directory", lambda t: os.chmod(t.neighbour, 0o777), (SECCOMP,)),
        (
            "chmod the neighbour's file",
            lambda t: os.chmod(f"{t.neighbour}/secret", 0o666),
            (SECCOMP,),
        ),
        (
            "chown the neighbour's file",
            lambda t: os.chown(f"{t.neighbour}/secret", -1, -1),
            (SECCOMP,),
        ),
        ("touch the neighbour's file", lambda t: os.utime(f"{t.neighbour}/secret"), (SECCOMP,)),
        (
            "truncate the neighbour's file",
            lambda t: os.truncate(f"{t.neighbour}/secret", 0),
            (LANDLOCK, SECCOMP),
        ),
        ("unlink the neighbour's file", lambda t: os.unlink(f"{t.neighbour}/secret"), (LANDLOCK,)),
        (
            "rename the neighbour's file",
            lambda t: os.rename(f"{t.neighbour}/secret", f"{t.neighbour}/moved"),
            (LANDLOCK,),
        ),
        (
            "link the neighbour's file",
            lambda t: os.link(f"{t.neighbour}/secret", "stolen"),
            (LANDLOCK, SECCOMP),
        ),
        (
            "tag the neighbour's file",
            lambda t: os.setxattr(f"{t.neighbour}/secret", "user.x", b"x"),
            (SECCOMP,),
        ),
        (
            "read the neighbour's tags",
            lambda t: os.listxattr(f"{t.neighbour}/secret"),
            (SECCOMP,),
        ),
        (
            "climb to the neighbour",
            lambda t: acts.read_some(f"../{Path(t.neighbour).name}/secret"),
            (LANDLOCK,),
        ),
    )
} | {
    # Where permissions allow it a name can be looked up; nothing can be opened.
    "stat the neighbour's directory": attack(lambda t: acts.exists(t.neighbour), ROOT),
}
GATEWAYS_FILES: dict[str, Attack] = {
    "list the tenants": attack(lambda t: os.listdir(f"{t.state_root}/tenants"), ROOT, LANDLOCK),
    "list the state root": attack(lambda t: os.listdir(t.state_root), ROOT, LANDLOCK),
    **{
        f"{verb} {name}": attack(
            lambda t, act=act, name=name: act(f"{t.state_root}/{name}"),  # type: ignore[misc]
            UID,
            ROOT,
            LANDLOCK,
        )
        for name in ("registry.sqlite", "admin.key", "config.yaml")
        for verb, act in (("read", acts.read_some), ("write", acts.append))
    },
    "chmod the state root": attack(lambda t: os.chmod(t.state_root, 0o777), UID, ROOT, SECCOMP),
    "chmod the admin key": attack(
        lambda t: os.chmod(f"{t.state_root}/admin.key", 0o644), UID, ROOT, SECCOMP
    ),
}
PROC: dict[str, Attack] = {
    # A root without /proc; and with one, not being dumpable.
    "open own environ": attack(
        lambda _: acts.read_some("/proc/self/environ"), ROOT, LANDLOCK, NOT_DUMPABLE
    ),
    "open own memory": attack(
        lambda _: acts.read_some("/proc/self/mem"), ROOT, LANDLOCK, NOT_DUMPABLE
    ),
    "open the parents' environ": attack(acts.environ_of_parents, UID, ROOT, LANDLOCK),
    "open init's status": attack(lambda _: acts.read_some("/proc/1/status"), ROOT, LANDLOCK),
    "open the neighbour's status": attack(
        lambda t: acts.read_some(f"/proc/{t.neighbour_pid}/status"), ROOT, LANDLOCK
    ),
    "open the neighbour's memory": attack(
        lambda t: acts.read_some(f"/proc/{t.neighbour_pid}/mem"), UID, ROOT, LANDLOCK, NOT_DUMPABLE
    ),
    "open the neighbour's root": attack(
        lambda t: os.listdir(f"/proc/{t.neighbour_pid}/root"), UID, ROOT, LANDLOCK, NOT_DUMPABLE
    ),
    "list processes": attack(lambda _: os.listdir("/proc"), ROOT, LANDLOCK),
}
SYSTEM_FILES: dict[str, Attack] = {
    "open /etc/shadow": attack(lambda _: acts.read_some("/etc/shadow"), UID, ROOT, LANDLOCK),
    "open /etc/passwd": attack(lambda _: acts.read_some("/etc/passwd"), ROOT, LANDLOCK),
    "open /dev/null": attack(lambda _: acts.read_some("/dev/null"), ROOT, LANDLOCK),
    "open a disk": attack(lambda _: acts.read_some("/dev/vda"), UID, ROOT, LANDLOCK),
    "list /": attack(lambda _: os.listdir("/"), LANDLOCK),
    "list what lies beside the state root": attack(acts.find_the_state_root, ROOT, LANDLOCK),
    "write to /tmp": attack(lambda _: acts.make("/tmp/openclaw-attack"), ROOT, LANDLOCK),
    "write to /usr": attack(lambda _: acts.make("/usr/openclaw-attack"), UID, ROOT, LANDLOCK),
    "write to Python": attack(lambda _: acts.append(os.__file__), UID, ROOT, LANDLOCK),
    "make a directory in /": attack(lambda _: os.mkdir("/openclaw-attack"), UID, ROOT, LANDLOCK),
}
EXECUTION: dict[str, Attack] = {
    "exec": attack(lambda _: os.execv(acts.PROGRAM, ["true"]), SECCOMP, LANDLOCK),
    "exec by descriptor": attack(
        lambda _: os.execve(os.open(acts.PROGRAM, os.O_RDONLY), ["true"], {}), SECCOMP, LANDLOCK
    ),
    "execveat": attack(
        lambda _: acts.raw("execveat", -100, acts.PROGRAM.encode() + b"\0", 0, 0, 0),
        SECCOMP,
        LANDLOCK,
    ),
    "spawn": attack(lambda _: os.posix_spawn(acts.PROGRAM, ["true"], {}), SECCOMP, LANDLOCK),
    "subprocess": attack(lambda _: subprocess.run([acts.PROGRAM], check=True), SECCOMP, LANDLOCK),
    "fork": attack(lambda _: acts.fork(), SECCOMP),
    "raw clone": attack(lambda _: acts.raw_fork("clone", int(signal.SIGCHLD)), SECCOMP),
    "raw clone into a user namespace": attack(
        lambda _: acts.raw_fork("clone", linux.CLONE_NEWUSER | int(signal.SIGCHLD)),
        SECCOMP,
        varies=True,
    ),
    "thread flag with a namespace": attack(
        lambda _: acts.raw_fork("clone", 0x10000 | linux.CLONE_NEWNS), SECCOMP, varies=True
    ),
    "clone3": attack(lambda _: acts.raw_fork("clone3", b"\0" * 88, 88), SECCOMP),
}
SOCKETS: dict[str, Attack] = {
    "a socket of any family": attack(acts.any_socket, SECCOMP),
    "socket unix": attack(lambda _: acts.make_socket(socket.AF_UNIX), SECCOMP),
    "socket inet": attack(lambda _: acts.make_socket(socket.AF_INET), SECCOMP),
    "socket netlink": attack(
        lambda _: acts.make_socket(socket.AF_NETLINK, socket.SOCK_DGRAM), SECCOMP
    ),
    "socket packet": attack(
        lambda _: acts.make_socket(socket.AF_PACKET, socket.SOCK_DGRAM), SECCOMP, CAPABILITIES
    ),
    "connect to the gateway": attack(acts.reach_the_gateway, NAMESPACES, ZYGOTE, SECCOMP),
    "socketpair of datagrams": attack(
        lambda _: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM), SECCOMP
    ),
    "socketpair of TIPC": attack(
        lambda _: socket.socketpair(30, socket.SOCK_STREAM), SECCOMP, varies=True
    ),
    # It is connected: no step is needed for that, and seccomp refuses before the kernel looks.
    "bind an inherited socket": attack(acts.bind, SECCOMP, varies=True),
    "connect an inherited socket": attack(acts.connect, SECCOMP, varies=True),
    "a process descriptor of the peer": attack(acts.peer_descriptor, SECCOMP, varies=True),
}
PROCESSES: dict[str, Attack] = (
    {
        name: attack(act, UID, NAMESPACES, SECCOMP)
        for name, act in {
            "see the neighbour by kill 0": lambda t: os.kill(t.neighbour_pid, 0),
            "see the gateway by kill 0": lambda _: os.kill(os.getppid() or 2, 0),
            "kill the neighbour": lambda t: os.kill(t.neighbour_pid, signal.SIGKILL),
            "tgkill the neighbour": lambda t: acts.raw(
                "tgkill", t.neighbour_pid, t.neighbour_pid, 9
            ),
            "tkill the neighbour": lambda t: acts.raw("tkill", t.neighbour_pid, 9),
            "queue a signal": lambda t: acts.raw(
                "rt_sigqueueinfo", t.neighbour_pid, 9, (9).to_bytes(8, "little") + b"\xff" * 120
            ),
            "signal by descriptor": lambda t: acts.raw(
                "pidfd_send_signal", acts.raw("pidfd_open", t.neighbour_pid, 0), 9, 0, 0
            ),
            "take the neighbour's descriptor": lambda t: acts.raw(
                "pidfd_getfd", acts.raw("pidfd_open", t.neighbour_pid, 0), 0, 0
            ),
            "ptrace the neighbour": lambda t: acts.raw("ptrace", 0x4206, t.neighbour_pid),
            "compare the neighbour's files": lambda t: acts.raw(
                "kcmp", t.neighbour_pid, os.getpid(), 2
            ),
            "read the neighbour's memory": lambda t: acts.raw(
                "process_vm_readv", t.neighbour_pid, acts.VECTOR, 1, acts.VECTOR, 1, 0
            ),
            "write the neighbour's memory": lambda t: acts.raw(
                "process_vm_writev", t.neighbour_pid, acts.VECTOR, 1, acts.VECTOR, 1, 0
            ),
            "renice the neighbour": lambda t: os.setpriority(os.PRIO_PROCESS, t.neighbour_pid, 19),
            "pin the neighbour": lambda t: os.sched_setaffinity(t.neighbour_pid, {0}),
            "schedule the neighbour": lambda t: os.sched_setscheduler(
                t.neighbour_pid, os.SCHED_IDLE, os.sched_param(0)
            ),
            "slow the neighbour's disk": lambda t: acts.raw(
                "ioprio_set", 1, t.neighbour_pid, 3 << 13
            ),
            "limit the neighbour": lambda t: resource.prlimit(
                t.neighbour_pid, resource.RLIMIT_NOFILE, (0, 0)
            ),
            "see the neighbour's limits": lambda t: resource.prlimit(
                t.neighbour_pid, resource.RLIMIT_NOFILE
            ),
        }.items()
    }
    | {
        # What everybody may know of a process that he can name.
        name: attack(act, NAMESPACES, SECCOMP)
        for name, act in {
            "pidfd_open": lambda t: os.pidfd_open(t.neighbour_pid),
            "look at the neighbour's priority": lambda t: os.getpriority(
                os.PRIO_PROCESS, t.neighbour_pid
            ),
            "see the neighbour's processors": lambda t: os.sched_getaffinity(t.neighbour_pid),
            "see the neighbour's scheduling": lambda t: os.sched_getscheduler(t.neighbour_pid),
            "see the neighbour's session": lambda t: os.getsid(t.neighbour_pid),
            "see the neighbour's group": lambda t: os.getpgid(t.neighbour_pid),
            "kill everybody": lambda _: os.kill(-1, 0),
        }.items()
    }
    | {
        "kill the group": attack(lambda _: os.kill(0, 0), SECCOMP),
        "ptrace me": attack(lambda _: acts.raw("ptrace", 0), SECCOMP, varies=True),
    }
)
KERNEL: dict[str, Attack] = {
    # With no capability, only a user namespace can be had, and then everything in it.
    "unshare user": attack(lambda _: linux.unshare(linux.CLONE_NEWUSER), SECCOMP, varies=True),
    **{
        name: attack(act, SECCOMP, CAPABILITIES)
        for name, act in {
            "unshare mount": lambda _: linux.unshare(linux.CLONE_NEWNS),
            "unshare pid": lambda _: linux.unshare(linux.CLONE_NEWPID),
            "unshare net": lambda _: linux.unshare(linux.CLONE_NEWNET),
            "mount": lambda _: linux.mount("none", ".", "tmpfs", 0),
            "unmount": lambda _: linux.detach("."),
            "chroot": lambda _: os.chroot("."),
            "pivot_root": lambda _: linux.pivot_root(".", "."),
            "open_tree": lambda _: linux.clone_tree("."),
            "fsopen": lambda _: acts.raw("fsopen", b"tmpfs\0", 0),
            "fspick": lambda _: acts.raw("fspick", -100, b".\0", 0),
            "remount": lambda _: linux.set_mount_attributes(linux.AT_FDCWD, ".", 0),
            "open_by_handle_at": lambda _: acts.raw(
                "open_by_handle_at", linux.AT_FDCWD, acts.HANDLE, 0
            ),
            "set hostname": lambda _: socket.sethostname("attack"),
            "swapon": lambda _: acts.raw("swapon", b"own\0", 0),
            "load a module": lambda _: acts.raw("init_module", b"\0", 0, b"\0"),
            "load a kernel": lambda _: acts.raw("kexec_load", 0, 0, 0, 0),
            "clear the kernel's log": lambda _: acts.raw("syslog", 5, 0, 0),
            "process accounting": lambda _: acts.raw("acct", 0),
            "set the clock": lambda _: acts.raw("clock_settime", 0, b"\xff" * 16),
            "ports": lambda _: acts.raw("iopl", 3),
            "become root": lambda _: os.setuid(0),
            "raise a limit": lambda _: resource.setrlimit(resource.RLIMIT_NOFILE, (2**19, 2**19)),
        }.items()
    },
    **{
        name: attack(act, SECCOMP)
        for name, act in {
            "umask": lambda _: acts.raw("umask", 0o77),
            "keyctl": lambda _: acts.raw("keyctl", 0, -3, 1),
            "add_key": lambda _: acts.raw("add_key", b"user\0", b"x\0", b"x", 1, -3),
            "memfd_create": lambda _: os.memfd_create("attack"),
            "landlock": lambda _: acts.raw("landlock_create_ruleset", 0, 0, 1),
            "personality": lambda _: acts.raw("personality", 0x0040000),
            "inotify": lambda _: acts.raw("inotify_init1", 0),
            "shared memory": acts.shared_memory,
            "message queue": acts.message_queue,
            "semaphores": acts.semaphores,
            "become dumpable": lambda _: linux.prctl(linux.PR_SET_DUMPABLE, 1),
            "outlive the supervisor": lambda _: linux.prctl(linux.PR_SET_PDEATHSIG, 0),
            "read capabilities": lambda _: linux.permitted_capabilities(),
            "whiteout": lambda _: acts.raw("renameat2", -100, b"own\0", -100, b"gone\0", 4),
            "own signals from a file": lambda _: fcntl.fcntl(3, fcntl.F_SETOWN, os.getpid()),
        }.items()
    },
    **{
        name: attack(act, SECCOMP, varies=True)
        for name, act in {
            "setns": lambda _: acts.raw("setns", 3, 0),
            "move_mount": lambda _: acts.raw("move_mount", -100, b".\0", -100, b".\0", 0),
            "statmount": lambda _: acts.raw_number(457),
            "listmount": lambda _: acts.raw_number(458),
            "request_key": lambda _: acts.raw("request_key", b"user\0", b"x\0"),
            "bpf": lambda _: acts.raw("bpf", 0, b"\0" * 128, 128),
            "io_uring_setup": lambda _: acts.raw("io_uring_setup", 8, b"\0" * 128),
            "perf_event_open": lambda _: acts.raw("perf_event_open", b"\0" * 128, 0, -1, -1, 0),
            "userfaultfd": lambda _: acts.raw("userfaultfd", 1),
            "seccomp": lambda _: acts.raw("seccomp", 2, 0, b"\0\0\0\0"),
            "fanotify": lambda _: acts.raw("fanotify_init", 0x200, 0),
            "mq_open": lambda _: acts.raw("mq_open", b"attack\0", 0o101, 0o600, 0),
            "syslog": lambda _: acts.raw("syslog", 3, b"\0" * 64, 64),
            "push into a terminal": lambda _: fcntl.ioctl(0, 0x5412, b"x"),
            "unknown system call": lambda _: acts.raw_number(1000),
        }.items()
    },
}
OWN_DIRECTORY: dict[str, Attack] = {
    "symlink": attack(lambda _: os.symlink("/etc/shadow", "link"), SECCOMP, LANDLOCK),
    "hard link": attack(lambda _: os.link("own", "hard"), SECCOMP),
    "fifo": attack(lambda _: os.mkfifo("fifo"), SECCOMP, LANDLOCK),
    "device": attack(
        lambda _: os.mknod("device", 0o600 | 0o020000, os.makedev(1, 3)),
        SECCOMP,
        LANDLOCK,
        CAPABILITIES,
    ),
    "open the directory up": attack(lambda _: os.chmod(".", 0o777), SECCOMP),
    "set-id file": attack(lambda _: os.chmod("own", 0o4755), SECCOMP),
    "give away": attack(lambda _: os.chown("own", 0, 0), SECCOMP, CAPABILITIES),
    "extended attribute": attack(lambda _: os.setxattr("own", "user.x", b"x"), SECCOMP),
    "past the size limit": attack(lambda _: posix.truncate("own", 1 << 50), SECCOMP, LIMITS),
}
GREED: dict[str, Attack] = {
    "swallow memory": attack(acts.swallow_memory, LIMITS),
    "swallow shared memory": attack(acts.swallow_shared_memory, LIMITS),
}
ALL: dict[str, Attack] = {
    **NEIGHBOURS_FILES,
    **GATEWAYS_FILES,
    **PROC,
    **SYSTEM_FILES,
    **EXECUTION,
    **SOCKETS,
    **PROCESSES,
    **KERNEL,
    **OWN_DIRECTORY,
    **GREED,
}


def attempt(name: str, target: Target) -> str:
    """Make one attack: the name of the error that refused it, or what it got."""
    try:
        got = ALL[name].act(target)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except ValueError as error:
        # The resource module's way to say EPERM.
        return "EPERM" if "not allowed" in str(error) else f"worked? {error!r}"
    return f"worked: {got!r}"[:200]
