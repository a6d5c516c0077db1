"""The system calls that a sandbox may make: one list, compiled for bubblewrap and for Docker.

An allow-list of what ordinary programs need (shells, compilers, interpreters, editors, package
managers, servers on the loopback). A call that is kept from them on purpose, or a forbidden
argument of one that is not, answers EPERM; any other number answers ENOSYS, so that a C library
falls back to an older call. A call in another ABI of the machine (32 bits, x32) kills: nothing
honest makes one.

Both compilations give the same answers since both are made the same way: EPERM by default,
ENOSYS for the names that libseccomp knows and no list here has, and ENOSYS for numbers past those.
runc puts that last test before the program that it makes of a profile; `compiled` does so itself.
"""

import errno
import functools
import json
import socket
import stat
import struct
import termios
from typing import Any, Final

from supervisor.zygote import seccomp
from supervisor.zygote.seccomp import Condition, Rule

_INT: Final = 0xFFFF_FFFF
"""The kernel looks at no more of an int, so neither does a rule."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_PROCESSES: Final = _words("""
    fork vfork execve execveat exit exit_group wait4 waitid set_tid_address set_robust_list
    get_robust_list rseq futex futex_waitv sched_yield restart_syscall arch_prctl membarrier
    getpid getppid gettid getpgid getpgrp setpgid getsid setsid pidfd_open pidfd_send_signal
    kill tkill tgkill rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend
    rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo sigaltstack signalfd signalfd4 pause
    getrlimit setrlimit prlimit64 getrusage times getpriority setpriority ioprio_get ioprio_set
    sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler sched_getattr
    sched_get_priority_max sched_get_priority_min sched_rr_get_interval getcpu
    getuid geteuid getresuid getgid getegid getresgid getgroups setuid setgid setreuid setregid
    setresuid setresgid setfsuid setfsgid setgroups capget
    seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
    uname sysinfo getrandom umask
""")
_MEMORY: Final = _words("""
    brk mmap munmap mprotect mremap madvise msync mincore mlock mlock2 munlock mlockall munlockall
    memfd_create shmget shmat shmdt shmctl semget semop semtimedop semctl
    msgget msgsnd msgrcv msgctl
""")
_TIME: Final = _words("""
    time gettimeofday clock_gettime clock_getres nanosleep clock_nanosleep alarm getitimer setitimer
    timer_create timer_settime timer_gettime timer_getoverrun timer_delete
    timerfd_create timerfd_settime timerfd_gettime
""")
_INPUT_AND_OUTPUT: Final = _words("""
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek
    close close_range dup dup2 dup3 fcntl pipe pipe2 sendfile splice tee vmsplice copy_file_range
    select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait
    epoll_pwait2 eventfd eventfd2 inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
""")
_FILES: Final = _words("""
    open openat openat2 creat stat lstat fstat newfstatat statx statfs fstatfs
    access faccessat faccessat2 readlink readlinkat getdents getdents64 getcwd chdir fchdir
    rename renameat mkdir mkdirat rmdir unlink unlinkat link linkat symlink symlinkat
    chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes utimensat futimesat
    setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
    removexattr lremovexattr fremovexattr
    truncate ftruncate fallocate flock fsync fdatasync sync syncfs sync_file_range
    fadvise64 readahead
""")
_SOCKETS: Final = _words("""
    connect bind listen accept accept4 shutdown getsockname getpeername setsockopt getsockopt
    sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg
""")

REFUSED: Final = _words("""
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
"""Kept from sandboxes on purpose: EPERM, where another number would answer ENOSYS."""

# CLONE_NEW*: NS, CGROUP, UTS, IPC, USER, PID, NET. Of `clone3` no filter sees the flags: ENOSYS.
_NAMESPACES: Final = 0x7E02_0000
_RENAME_WHITEOUT: Final = 0b100
_QUERY_PERSONALITY: Final = 0xFFFF_FFFF
_FILE_TYPES: Final = (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)

# include/uapi/linux/prctl.h
_PRCTLS: Final = (
    *(1, 2),  # PR_SET_PDEATHSIG, PR_GET_PDEATHSIG
    *(3, 4),  # PR_GET_DUMPABLE, PR_SET_DUMPABLE
    *(7, 8),  # PR_GET_KEEPCAPS, PR_SET_KEEPCAPS
    *(15, 16),  # PR_SET_NAME, PR_GET_NAME
    *(21, 22),  # PR_GET_SECCOMP, PR_SET_SECCOMP
    *(23, 25, 27),  # PR_CAPBSET_READ, PR_GET_TSC, PR_GET_SECUREBITS
    *(29, 30),  # PR_SET_TIMERSLACK, PR_GET_TIMERSLACK
    *(36, 37),  # PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER
    *(38, 39),  # PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS
    *(40, 41, 42),  # PR_GET_TID_ADDRESS, PR_SET_THP_DISABLE, PR_GET_THP_DISABLE
    52,  # PR_GET_SPECULATION_CTRL
    0x5356_4D41,  # PR_SET_VMA: names of mappings
)

# include/uapi/asm-generic/ioctls.h. Not TIOCSTI and TIOCLINUX, which put words into a terminal's
# input (CVE-2017-5226), nor TIOCSETD, which has the kernel load modules.
_IOCTLS_OF_TERMINALS: Final = (
    *(termios.TCGETS, termios.TCSETS, termios.TCSETSW, termios.TCSETSF),
    *(0x802C_542A, 0x402C_542B, 0x402C_542C, 0x402C_542D),  # TCGETS2, TCSETS2, TCSETSW2, TCSETSF2
    *(termios.TCGETA, termios.TCSETA, termios.TCSETAW, termios.TCSETAF),
    *(termios.TCSBRK, termios.TCSBRKP, termios.TCXONC, termios.TCFLSH),
    *(termios.TIOCEXCL, termios.TIOCNXCL, termios.TIOCSCTTY, termios.TIOCNOTTY),
    *(termios.TIOCGPGRP, termios.TIOCSPGRP, 0x5429),  # TIOCGSID
    *(termios.TIOCGWINSZ, termios.TIOCSWINSZ, termios.TIOCOUTQ, termios.TIOCGETD),
    *(termios.TIOCPKT, 0x8004_5438, 0x8004_5439),  # TIOCGPKT, TIOCGPTLCK
    *(0x8004_5430, 0x4004_5431, 0x5441),  # TIOCGPTN, TIOCSPTLCK, TIOCGPTPEER
)
# Not FS_IOC_FSSETXATTR: it moves a file out of the project whose quota counts it.
_IOCTLS_OF_FILES: Final = (
    *(termios.FIONREAD, termios.FIONBIO, termios.FIOASYNC, termios.FIOCLEX, termios.FIONCLEX),
    *(0x4004_9409, 0x4020_940D),  # FICLONE, FICLONERANGE
    *(0x8008_6601, 0xC020_660B),  # FS_IOC_GETFLAGS, FS_IOC_FIEMAP
)
# include/uapi/linux/sockios.h
_IOCTLS_OF_SOCKETS: Final = (
    *(0x8905, 0x8910, 0x8912, 0x8913),  # SIOCATMARK, SIOCGIFNAME, SIOCGIFCONF, SIOCGIFFLAGS
    *(0x8915, 0x8919, 0x891B),  # SIOCGIFADDR, SIOCGIFBRDADDR, SIOCGIFNETMASK
    *(0x8921, 0x8927, 0x8933),  # SIOCGIFMTU, SIOCGIFHWADDR, SIOCGIFINDEX
)

_SOCKET_KIND: Final = _INT & ~(socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
_LOCAL_KINDS: Final = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
_NETLINK_KINDS: Final = (socket.SOCK_RAW, socket.SOCK_DGRAM)
_NETLINK_ROUTE: Final = 0


def _by_argument(call: str, argument: int, values: tuple[int, ...]) -> list[Rule]:
    return [Rule(call, (Condition(argument, value, _INT),)) for value in values]


def _sockets() -> list[Rule]:
    """Local ones, the internet's in an empty network, and reading that network's interfaces.

    Types and protocols are named, as any other has the kernel load a module for it. Every rule
    names all three arguments: of rules that differ in which ones they name, libseccomp 2.5.4 makes
    a program (as runc has it, without the binary tree) in which one argument passes for another.
    """
    internet = (
        (family, kind, protocol)
        for family in (socket.AF_INET, socket.AF_INET6)
        for kind, own in (
            (socket.SOCK_STREAM, socket.IPPROTO_TCP),
            (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
        )
        for protocol in (0, own)
    )
    local = ((socket.AF_UNIX, kind, 0) for kind in _LOCAL_KINDS)
    interfaces = ((socket.AF_NETLINK, kind, _NETLINK_ROUTE) for kind in _NETLINK_KINDS)
    return [
        Rule(
            "socket",
            (
                Condition(0, family, _INT),
                Condition(1, kind, _SOCKET_KIND),
                Condition(2, protocol, _INT),
            ),
        )
        for family, kind, protocol in (*local, *internet, *interfaces)
    ]


@functools.cache
def allowed() -> tuple[Rule, ...]:
    """Give every rule; a call that is in none is not made."""
    freely = (*_PROCESSES, *_MEMORY, *_TIME, *_INPUT_AND_OUTPUT, *_FILES, *_SOCKETS)
    return (
        *(Rule(call) for call in freely),
        *_sockets(),
        *_by_argument("socketpair", 0, (socket.AF_UNIX,)),
        *_by_argument("prctl", 0, _PRCTLS),
        *_by_argument("ioctl", 1, _IOCTLS_OF_TERMINALS + _IOCTLS_OF_FILES + _IOCTLS_OF_SOCKETS),
        *_by_argument("personality", 0, (0, _QUERY_PERSONALITY)),
        Rule("clone", (Condition(0, 0, _NAMESPACES),)),
        # Both leave a device behind otherwise.
        Rule("renameat2", (Condition(4, 0, _RENAME_WHITEOUT),)),
        *(Rule("mknod", (Condition(1, kind, 0o170000),)) for kind in _FILE_TYPES),
        *(Rule("mknodat", (Condition(2, kind, 0o170000),)) for kind in _FILE_TYPES),
    )


_NUMBERS: Final = range(1024)


@functools.cache
def _unknown() -> tuple[tuple[str, ...], int]:
    """Give the names on no list here, of those that libseccomp knows, and its last number."""
    library = seccomp.libseccomp()
    known: dict[int, str] = {}
    for number in _NUMBERS:
        try:
            known[number] = library.resolve_syscall(library.Arch.NATIVE, number).decode()
        except ValueError:
            continue
    listed = {*REFUSED, *(rule.call for rule in allowed())}
    return tuple(name for name in known.values() if name not in listed), max(known)


@functools.cache
def compiled() -> bytes:
    """Compile the list to a BPF program, as bubblewrap's `--seccomp` reads it.

    Raises:
        OSError: libseccomp is missing or refused a rule.
    """
    names, last = _unknown()
    listed = seccomp.assemble(
        otherwise=errno.EPERM,
        passing=allowed(),
        failing={errno.ENOSYS: [Rule(name) for name in names]},
    )
    return _none_past(last) + listed


# struct seccomp_data (seccomp(2)), classic BPF (linux/bpf_common.h).
_INSTRUCTION: Final = struct.Struct("=HBBI")  # code, jump if true, jump if false, constant
_LOAD, _IF_ABOVE, _IF_AT_LEAST, _IF_EQUAL, _RETURN = 0x20, 0x25, 0x35, 0x15, 0x06
_OFFSET_OF_NUMBER: Final = 0
_OFFSET_OF_ABI: Final = 4
_X32: Final = 0x4000_0000


def _none_past(last: int) -> bytes:
    """Give the first instructions: a number past `last` answers ENOSYS; other ABIs go on."""
    library = seccomp.libseccomp()
    return b"".join(
        _INSTRUCTION.pack(*instruction)
        for instruction in (
            (_LOAD, 0, 0, _OFFSET_OF_ABI),
            (_IF_EQUAL, 0, 4, library.system_arch()),
            (_LOAD, 0, 0, _OFFSET_OF_NUMBER),
            (_IF_AT_LEAST, 2, 0, _X32),
            (_IF_ABOVE, 0, 1, last),
            (_RETURN, 0, 0, library.ERRNO(errno.ENOSYS)),
        )
    )


# runc looks for numbers past the last one in the ABIs that are named, and refuses others.
_DOCKER_ABIS: Final = ("SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64")


@functools.cache
def docker_profile() -> str:
    """Compile the list to a seccomp profile of Docker's, JSON, for `seccomp=` of a container.

    `no-new-privileges` belongs with it: without, runc takes steps under the profile that a sandbox
    may not take. The default error is EPERM by the runtime's specification; Docker before 23 takes
    no other one, but one for each entry
    (https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp).

    Raises:
        OSError: libseccomp is missing.
    """
    names, _ = _unknown()
    freely = [rule.call for rule in allowed() if not rule.conditions]
    partly = [rule for rule in allowed() if rule.conditions]
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "archMap": [{"architecture": abi, "subArchitectures": []} for abi in _DOCKER_ABIS],
            "syscalls": [
                {"names": freely, "action": "SCMP_ACT_ALLOW"},
                *(_docker_entry(rule) for rule in partly),
                {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
            ],
        }
    )


def _docker_entry(rule: Rule) -> dict[str, Any]:
    return {
        "names": [rule.call],
        "action": "SCMP_ACT_ALLOW",
        "args": [
            {
                "index": condition.argument,
                "value": condition.mask,
                "valueTwo": condition.value,
                "op": "SCMP_CMP_MASKED_EQ",
            }
            for condition in rule.conditions
        ],
    }
