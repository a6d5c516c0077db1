"""The system calls that a confined process may make: one policy as data, compiled once.

An allow-list. What is refused on purpose answers EPERM; a number that is in no list answers
ENOSYS, so that a C library which tries something newer falls back. A call in another ABI of the
machine (32 bits, x32) kills the process: nothing honest makes one.

The policy is compiled by libseccomp in the process that starts the others and handed on as bytes;
the confined process loads those with one system call and needs no library.
"""

import ctypes
import errno
import fcntl
import functools
import os
import socket
import struct
import termios
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from supervisor.zygote import linux

if TYPE_CHECKING:
    from types import ModuleType

    import pyseccomp

Profile = Literal["worker", "front"]
Policy = Literal["worker", "front", "zygote"]


class Condition(NamedTuple):
    """What an argument must be: its 64 bits, under the mask if there is one."""

    argument: int
    value: int
    mask: int | None = None
    differs: bool = False


class Rule(NamedTuple):
    """A call and the conditions that must all hold for the rule to apply."""

    call: str
    conditions: tuple[Condition, ...] = ()


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Stands for the process's own id until `for_process` puts that in; no process can have this one,
# as the kernel's ids end at 2^22.
SELF: Final = 0x7FFF_FFF1

_CLONE_THREAD: Final = 0x0001_0000
# Bits of clone's flags that a thread never has: namespaces, ptrace, vfork, pidfd, parent.
_CLONE_FORBIDDEN: Final = 0x7E02_0000 | 0x0080_0000 | 0x0000_F000
_SOCKET_FLAGS: Final = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
_RENAME_FLAGS: Final = 0b011  # NOREPLACE, EXCHANGE
_INT: Final = 0xFFFF_FFFF
_PR_SET_NAME: Final = 15
_PR_GET_NAME: Final = 16
_TCGETS2: Final = 0x802C_542A

_MEMORY_AND_THREADS: Final = _words("""
    brk mmap munmap mprotect mremap madvise msync membarrier
    futex set_robust_list rseq sched_yield exit exit_group restart_syscall
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait sigaltstack
    gettid getpid getppid getuid geteuid getgid getegid
    getcpu getrandom getrusage getrlimit uname sysinfo times
    nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time
""")
_INPUT_AND_OUTPUT: Final = _words("""
    read write readv writev close close_range dup dup2 dup3 pipe2
    poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2
    recvfrom recvmsg sendto sendmsg shutdown getsockname getpeername
""")
_FILES_TO_READ: Final = _words("""
    open openat openat2 stat lstat fstat newfstatat statx access faccessat faccessat2
    readlink readlinkat getdents64 getcwd chdir fchdir lseek pread64 preadv preadv2 fadvise64
""")
_FILES_TO_WRITE: Final = _words("""
    pwrite64 pwritev pwritev2 ftruncate fallocate fsync fdatasync sync_file_range flock
    mkdir mkdirat rmdir unlink unlinkat rename renameat
""")
_CONNECTIONS_TO_SERVE: Final = ("accept4", "listen", "sendfile")

# What the zygote needs beyond its workers, which come from it and take the steps of the jail under
# its filter: forking into namespaces and those steps. Their own filter then adds the conditions.
_FORKING: Final = _words("clone kill tgkill wait4 waitid prctl")
_JAILING: Final = _words("""
    setsid getsid umask prlimit64 sched_getaffinity
    unshare mount umount2 pivot_root open_tree move_mount mount_setattr symlink symlinkat
    setgroups setresuid setresgid getresuid getresgid capset capget
    landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp
""")

_FCNTL_READ: Final = (
    fcntl.F_DUPFD,
    fcntl.F_DUPFD_CLOEXEC,
    fcntl.F_GETFD,
    fcntl.F_SETFD,
    fcntl.F_GETFL,
    fcntl.F_SETFL,
)
_FCNTL_LOCKS: Final = (
    fcntl.F_GETLK,
    fcntl.F_SETLK,
    fcntl.F_SETLKW,
    fcntl.F_OFD_GETLK,
    fcntl.F_OFD_SETLK,
    fcntl.F_OFD_SETLKW,
)
_IOCTLS: Final = (
    termios.FIONREAD,
    termios.FIONBIO,
    termios.FIOCLEX,
    termios.FIONCLEX,
    termios.TCGETS,
    _TCGETS2,
)
# Not SO_PEERPIDFD: it hands out a descriptor of the process at the other end.
_SOCKET_FACTS: Final = tuple(
    (socket.SOL_SOCKET, option)
    for option in (
        socket.SO_TYPE,
        socket.SO_ERROR,
        socket.SO_DOMAIN,
        socket.SO_PROTOCOL,
        socket.SO_ACCEPTCONN,
    )
)
_SOCKET_BUFFERS: Final = (
    (socket.SOL_SOCKET, socket.SO_SNDBUF),
    (socket.SOL_SOCKET, socket.SO_RCVBUF),
)
_CONNECTION_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.SOL_SOCKET, socket.SO_LINGER),
    (socket.SOL_SOCKET, socket.SO_REUSEADDR),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
)

_REFUSED_ALWAYS: Final = _words("""
    execve execveat fork vfork ptrace process_vm_readv process_vm_writev process_madvise
    process_mrelease kcmp tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_getfd
    pidfd_send_signal wait4 waitid
    socket connect bind accept
    unshare setns mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount
    fspick mount_setattr name_to_handle_at open_by_handle_at fanotify_init fanotify_mark
    inotify_init inotify_init1 inotify_add_watch swapon swapoff quotactl quotactl_fd
    link linkat symlink symlinkat mknod mknodat chmod fchmod fchmodat chown fchown lchown fchownat
    utime utimes utimensat futimesat setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr
    listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr truncate creat umask
    statfs fstatfs
    setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups setsid setpgid
    capset capget personality seccomp landlock_create_ruleset landlock_add_rule
    landlock_restrict_self
    add_key request_key keyctl bpf perf_event_open userfaultfd io_uring_setup io_uring_enter
    io_uring_register io_setup io_submit memfd_create memfd_secret
    shmget shmat shmctl shmdt semget semop semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink
    setpriority getpriority setrlimit sched_setaffinity sched_setparam sched_setscheduler
    sched_setattr ioprio_set ioprio_get set_mempolicy mbind migrate_pages move_pages mlock mlock2
    mlockall alarm setitimer timer_create vmsplice splice tee copy_file_range
    reboot kexec_load kexec_file_load init_module finit_module delete_module syslog acct
    sethostname setdomainname settimeofday clock_settime clock_adjtime adjtimex iopl ioperm
    modify_ldt lookup_dcookie nfsservctl vhangup pkey_alloc pkey_mprotect pkey_free
""")


def _by_argument(call: str, argument: int, values: tuple[int, ...]) -> list[Rule]:
    return [Rule(call, (Condition(argument, value),)) for value in values]


def _threads_and_signals() -> list[Rule]:
    thread_only = Condition(0, _CLONE_THREAD, _CLONE_THREAD | _CLONE_FORBIDDEN)
    return [
        Rule("clone", (thread_only,)),
        Rule("kill", (Condition(0, SELF),)),
        Rule("tgkill", (Condition(0, SELF),)),
        # Reading one's own limits and processors: what glibc and thread pools do.
        Rule("prlimit64", (Condition(0, 0), Condition(2, 0))),
        *_by_argument("sched_getaffinity", 0, (0, SELF)),
        *_by_argument("prctl", 0, (_PR_SET_NAME, _PR_GET_NAME)),
        *_by_argument("ioctl", 1, _IOCTLS),
    ]


def _socket_pairs() -> list[Rule]:
    # Not SOCK_DGRAM: sendmsg on one of those reaches any bound socket, connected or not.
    return [
        Rule(
            "socketpair",
            (
                Condition(0, socket.AF_UNIX),
                Condition(1, kind, _INT & ~_SOCKET_FLAGS),
            ),
        )
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
    ]


def _socket_options(options: tuple[tuple[int, int], ...]) -> list[Rule]:
    return [
        Rule(call, (Condition(1, level), Condition(2, option)))
        for call, known in (("setsockopt", options), ("getsockopt", options + _SOCKET_FACTS))
        for level, option in known
    ]


def allowed(policy: Policy) -> list[Rule]:
    """Give every rule of a policy. A call that is in no rule is refused."""
    if policy == "zygote":
        freely = (*_FORKING, *_JAILING)
        worker = [rule for rule in allowed("worker") if rule.call not in freely]
        return [*worker, *(Rule(call) for call in freely)]
    rules = [Rule(call) for call in (*_MEMORY_AND_THREADS, *_INPUT_AND_OUTPUT, *_FILES_TO_READ)]
    rules += [*_threads_and_signals(), *_socket_pairs()]
    if policy == "worker":
        rules += [Rule(call) for call in _FILES_TO_WRITE]
        # Not RENAME_WHITEOUT: it leaves a device behind.
        rules.append(Rule("renameat2", (Condition(4, 0, _INT & ~_RENAME_FLAGS),)))
        rules += _by_argument("fcntl", 1, _FCNTL_READ + _FCNTL_LOCKS)
        rules += _socket_options(_SOCKET_BUFFERS)
    else:
        rules += [Rule(call) for call in _CONNECTIONS_TO_SERVE]
        rules += _by_argument("fcntl", 1, _FCNTL_READ)
        rules += _socket_options(_SOCKET_BUFFERS + _CONNECTION_OPTIONS)
    return rules


def refused(policy: Policy) -> list[Rule]:
    """Give the rules that answer EPERM; what neither list names answers ENOSYS."""
    rules = allowed(policy)
    named = {rule.call for rule in rules}
    freely = {rule.call for rule in rules if not rule.conditions}
    partly = [
        Rule("clone", (Condition(0, 0, _CLONE_THREAD),)),
        Rule("kill", (Condition(0, SELF, differs=True),)),
        Rule("tgkill", (Condition(0, SELF, differs=True),)),
        Rule("prlimit64", (Condition(0, 0, differs=True),)),
        Rule("socketpair", (Condition(0, socket.AF_UNIX, differs=True),)),
    ]
    return [
        *(Rule(call) for call in _REFUSED_ALWAYS if call not in named),
        *(rule for rule in partly if rule.call not in freely),
    ]


@functools.cache
def compiled(policy: Policy) -> bytes:
    """Compile a policy to a BPF program, in which the process's own id is still `SELF`.

    Raises:
        OSError: libseccomp is missing or refused a rule.
    """
    return assemble(
        otherwise=errno.ENOSYS, passing=allowed(policy), failing={errno.EPERM: refused(policy)}
    )


def assemble(
    *, otherwise: int, passing: Iterable[Rule], failing: Mapping[int, Iterable[Rule]]
) -> bytes:
    """Compile rules to a BPF program: `passing` calls are made, others answer an error number.

    Raises:
        OSError: libseccomp is missing or refused a rule.
    """
    library = libseccomp()
    filters = library.SyscallFilter(library.ERRNO(otherwise))
    filters.set_attr(library.Attr.ACT_BADARCH, library.KILL_PROCESS)
    filters.set_attr(library.Attr.CTL_OPTIMIZE, 2)  # a binary tree, not 200 compares in a row
    answers = [(library.ERRNO(error), rules) for error, rules in failing.items()]
    for action, rules in [(library.ALLOW, passing), *answers]:
        for rule in rules:
            call_number = library.resolve_syscall(library.Arch.NATIVE, rule.call)
            if call_number >= 0:  # below: a call of another machine, or newer than this library
                arguments = [_argument(condition) for condition in rule.conditions]
                filters.add_rule_exactly(action, call_number, *arguments)
    with os.fdopen(os.memfd_create("policy"), "r+b") as file:
        filters.export_bpf(file)
        file.seek(0)
        return file.read()


def libseccomp() -> "ModuleType":
    """Give the library's module.

    Raises:
        OSError: ENOSYS, it is missing.
    """
    try:
        # Imported late: it runs ldconfig to find its library, and confined processes need neither.
        import pyseccomp  # noqa: PLC0415
    except (ImportError, RuntimeError) as error:
        raise OSError(errno.ENOSYS, f"libseccomp: {error}") from error
    module: ModuleType = pyseccomp
    return module


def _argument(condition: Condition) -> "pyseccomp.Arg":
    import pyseccomp  # noqa: PLC0415 - see `libseccomp`

    if condition.mask is not None:
        return pyseccomp.Arg(
            condition.argument, pyseccomp.MASKED_EQ, condition.mask, condition.value
        )
    operator = pyseccomp.NE if condition.differs else pyseccomp.EQ
    return pyseccomp.Arg(condition.argument, operator, condition.value)


_INSTRUCTION: Final = struct.Struct("=HBBI")  # code, jump if true, jump if false, constant
_JUMP_IF_EQUAL: Final = 0x15


@functools.lru_cache(maxsize=8)
def for_process(program: bytes, pid: int) -> bytes:
    """Give a compiled program in which `pid` (in its own pid namespace) is the process itself.

    Cached: workers all have process id 1.

    Raises:
        OSError: EINVAL, it is no whole number of instructions.
    """
    if not program or len(program) % _INSTRUCTION.size:
        raise OSError(errno.EINVAL, "seccomp: an empty or torn program")
    return b"".join(
        _INSTRUCTION.pack(code, yes, no, pid if (code, k) == (_JUMP_IF_EQUAL, SELF) else k)
        for code, yes, no, k in _INSTRUCTION.iter_unpack(program)
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


_SET_MODE_FILTER: Final = 1


def load(program: bytes) -> None:
    """Put this thread under a program, for ever; needs `no_new_privs`.

    Raises:
        OSError: the kernel has no seccomp filters, or the program is none.
    """
    length = len(program) // _INSTRUCTION.size
    linux.call("seccomp", _SET_MODE_FILTER, 0, _Program(length, program))
