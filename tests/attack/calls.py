"""The system calls that are not refused, by name: a call more in the policy has to be written here.

Written by hand and not taken from `supervisor/zygote/seccomp.py`, so that neither grows unseen.
"""


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
