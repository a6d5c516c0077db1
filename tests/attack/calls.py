"""The system calls that are not refused, by name: a call more in the policy has to be written here.

Written by hand and not taken from `supervisor/zygote/seccomp.py` and
`supervisor/launcher/policy.py`, so that neither grows unseen.
"""

from collections.abc import Callable, Iterator
from itertools import product


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


EVERYBODYS = _words("""
    brk mmap munmap mprotect mremap madvise msync membarrier futex set_robust_list rseq sched_yield
    exit exit_group restart_syscall rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending
    rt_sigtimedwait sigaltstack gettid getpid getppid getuid geteuid getgid getegid getcpu getrandom
    getrusage getrlimit uname sysinfo times nanosleep clock_nanosleep clock_gettime clock_getres
    gettimeofday time
    read write readv writev close close_range dup dup2 dup3 pipe2 poll ppoll select pselect6
    epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2 recvfrom recvmsg sendto
    sendmsg shutdown getsockname getpeername
    open openat openat2 stat lstat fstat newfstatat statx access faccessat faccessat2 readlink
    readlinkat getdents64 getcwd chdir fchdir lseek pread64 preadv preadv2 fadvise64
""")
WORKERS = EVERYBODYS | _words("""
    pwrite64 pwritev pwritev2 ftruncate fallocate fsync fdatasync sync_file_range flock mkdir
    mkdirat rmdir unlink unlinkat rename renameat
""")
FRONTS = EVERYBODYS | {"accept4", "listen", "sendfile"}

SELF = "self"
"""Stands for the process's own id."""
# Calls of which an argument decides: which one, and its values that pass, of all that are tried.
WORKERS_ARGUMENTS: dict[str, tuple[int, tuple[int | str, ...]]] = {
    "clone": (0, (0x10000,)),  # CLONE_THREAD
    "kill": (0, (SELF,)),
    "tgkill": (0, (SELF,)),
    "prlimit64": (0, (0,)),
    "sched_getaffinity": (0, (0, SELF)),
    "prctl": (0, (15, 16)),  # PR_SET_NAME, PR_GET_NAME
    "ioctl": (1, (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)),  # TCGETS, FIONREAD, FIONBIO, FIO*CLEX
    "fcntl": (1, (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030)),  # descriptors, flags and locks
    "socketpair": (0, ()),  # of type 0
    "setsockopt": (1, ()),  # of option 0
    "getsockopt": (1, ()),
    "renameat2": (4, (0, 1, 2, 3)),
}
FRONTS_ARGUMENTS = {
    **{call: tried for call, tried in WORKERS_ARGUMENTS.items() if call != "renameat2"},
    "fcntl": (1, (0, 1, 2, 3, 4, 1030)),
}

SANDBOXES = EVERYBODYS | _words("""
    execve execveat fork vfork wait4 waitid set_tid_address get_robust_list futex_waitv arch_prctl
    getpgid getpgrp setpgid getsid setsid pidfd_open pidfd_send_signal kill tkill tgkill
    rt_sigsuspend rt_sigqueueinfo rt_tgsigqueueinfo signalfd signalfd4 pause setrlimit prlimit64
    getpriority setpriority ioprio_get ioprio_set sched_getaffinity sched_setaffinity sched_getparam
    sched_getscheduler sched_getattr sched_get_priority_max sched_get_priority_min
    sched_rr_get_interval getresuid getresgid getgroups setuid setgid setreuid setregid setresuid
    setresgid setfsuid setfsgid setgroups capget seccomp landlock_create_ruleset landlock_add_rule
    landlock_restrict_self umask
    mincore mlock mlock2 munlock mlockall munlockall memfd_create
    shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl
    alarm getitimer setitimer timer_create timer_settime timer_gettime timer_getoverrun timer_delete
    timerfd_create timerfd_settime timerfd_gettime
    fcntl pipe sendfile splice tee vmsplice copy_file_range epoll_create eventfd
    inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
    creat statfs fstatfs getdents link linkat symlink symlinkat mkdir mkdirat rmdir unlink unlinkat
    rename renameat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat
    utime utimes utimensat futimesat setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr
    listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr
    truncate ftruncate fallocate flock fsync fdatasync sync syncfs sync_file_range readahead
    pwrite64 pwritev pwritev2
    connect bind listen accept accept4 setsockopt getsockopt sendmmsg recvmmsg
""")
SANDBOXES_REFUSED = _words("""
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd
    unshare setns mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount
    fspick mount_setattr name_to_handle_at open_by_handle_at fanotify_init fanotify_mark
    swapon swapoff quotactl quotactl_fd acct
    add_key request_key keyctl bpf perf_event_open userfaultfd memfd_secret
    io_uring_setup io_uring_enter io_uring_register
    io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents
    mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
    capset sched_setparam sched_setscheduler sched_setattr migrate_pages move_pages
    reboot kexec_load kexec_file_load init_module finit_module delete_module syslog
    sethostname setdomainname settimeofday clock_settime clock_adjtime adjtimex
    iopl ioperm modify_ldt vhangup lookup_dcookie
""")
"""Kept from sandboxes on purpose: EPERM. What neither list has is ENOSYS."""

_NAMESPACES = 0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x7000_0000
_SANDBOXES_PRCTLS = {*range(1, 5), 7, 8, 15, 16, 21, 22, 23, 25, 27, 29, 30, *range(36, 43), 52}
_SANDBOXES_IOCTLS = {
    *range(0x5401, 0x540C),  # TCGETS to TCFLSH
    *(0x540C, 0x540D, 0x540E, 0x540F, 0x5410, 0x5411),  # TIOCEXCL to TIOCOUTQ, not TIOCSTI
    *(0x5413, 0x5414, 0x541B, 0x5420, 0x5421, 0x5422, 0x5424, 0x5425, 0x5429, 0x5441),
    *(0x5450, 0x5451, 0x5452),
}


def _of(argument: int, passing: Callable[[int], bool]) -> Callable[[tuple[int, ...]], bool]:
    """Whether a call passes that one of its arguments decides, of which 32 bits count."""
    return lambda arguments: passing((*arguments, 0, 0, 0, 0, 0)[argument] & 0xFFFF_FFFF)


_SOCKETS = {
    1: {(1, 0), (2, 0), (5, 0)},  # AF_UNIX: streams, datagrams, packets
    2: {(1, 0), (1, 6), (2, 0), (2, 17)},  # AF_INET: TCP, UDP
    10: {(1, 0), (1, 6), (2, 0), (2, 17)},  # AF_INET6
    16: {(2, 0), (3, 0)},  # AF_NETLINK, for routes
}


def _socket_passes(arguments: tuple[int, ...]) -> bool:
    family, kind, protocol = (*arguments, 0, 0, 0)[:3]
    return (kind & ~0o2004000, protocol) in _SOCKETS.get(family, ())


SANDBOXES_DECIDE: dict[str, Callable[[tuple[int, ...]], bool]] = {
    "clone": _of(0, lambda flags: not flags & _NAMESPACES),
    "ioctl": _of(1, lambda request: request in _SANDBOXES_IOCTLS),
    "prctl": _of(0, lambda option: option in _SANDBOXES_PRCTLS),
    "personality": _of(0, lambda persona: persona in (0, 0xFFFF_FFFF)),
    "renameat2": _of(4, lambda flags: not flags & 4),  # RENAME_WHITEOUT
    "mknod": _of(1, lambda mode: mode & 0o170000 in (0, 0o010000, 0o100000, 0o140000)),
    "mknodat": _of(2, lambda mode: mode & 0o170000 in (0, 0o010000, 0o100000, 0o140000)),
    "socketpair": _of(0, lambda family: family == 1),
    "socket": _socket_passes,
}
"""Calls of which arguments decide, and whether they pass."""
_DECIDING = {"ioctl": 1, "mknod": 1, "mknodat": 2, "renameat2": 4}
FAMILIES = range(64)
KINDS = (*range(11), 1 | 0o2000000, 2 | 0o4000, 3 | 0o2000000)
PROTOCOLS = (0, 1, 2, 6, 17, 33, 58, 132, 136, 255, 256 | 6, 262)


def tries(values: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Calls to try of those of which arguments decide, with values for the one that does.

    Each value also with a bit above those that the kernel looks at.
    """
    for call in SANDBOXES_DECIDE:
        at = _DECIDING.get(call, 0)
        if call != "socket":
            for value in (*values, *(kind << 12 for kind in range(16))):
                yield call, (*[0] * at, value)
                yield call, (*[0] * at, value | 1 << 32)
    for arguments in product(FAMILIES, KINDS, PROTOCOLS):
        yield "socket", arguments
