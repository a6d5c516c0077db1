"""What launcher and stem give up: neither needs all that the supervisor may.

The launcher starts nothing: no exec, no fork, no mount, no network, but local sockets: for Docker,
and for what its containers hand out. The stem does that alone, and talks to nobody but the
launcher. What it starts inherits its system calls, so they are those of sandboxes and what making
one takes.
"""

import contextlib
import errno
import os
import resource
import signal
import socket
import termios
from typing import Final

from supervisor.launcher import policy
from supervisor.zygote import linux, seccomp
from supervisor.zygote.seccomp import Condition, Rule


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_INT: Final = 0xFFFF_FFFF
_OPEN_FILES: Final = 65_536
_DATA_BYTES: Final = 4 * 2**30
_SOCKET_KIND: Final = _INT & ~(socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
_TERMINAL_IOCTLS: Final = (
    *(termios.TIOCGWINSZ, termios.TIOCSWINSZ, termios.TCSETS),
    *(0x8004_5430, 0x4004_5431, 0x5441),  # TIOCGPTN, TIOCSPTLCK, TIOCGPTPEER
)
_LAUNCHING: Final = _words("""
    mkdir mkdirat rmdir unlink unlinkat pwrite64 ftruncate memfd_create pipe pipe2 fcntl splice tee
    kill tgkill pidfd_open pidfd_send_signal wait4 waitid prctl prlimit64 setfsuid setfsgid connect
    bind chmod
""")
_MAKING: Final = _words("""
    clone prctl unshare mount umount2 pivot_root chroot capset sethostname
""")

# Reading past permissions is for an interpreter in somebody's home directory; what is done in the
# name of a tenant is done without it (see `linux.file_rights_of`). PR_SET_PDEATHSIG and our own
# signals have to reach processes of tenants, and their limits are set from here.
_OF_LAUNCHER: Final = frozenset(
    (
        linux.CAP_DAC_READ_SEARCH,
        linux.CAP_KILL,
        linux.CAP_SETGID,
        linux.CAP_SETUID,
        linux.CAP_SYS_RESOURCE,
    )
)
_OF_STEM: Final = frozenset((linux.CAP_SETGID, linux.CAP_SETUID))


def launcher_policy() -> bytes:
    """Compile the system calls of the launcher.

    Raises:
        OSError: libseccomp is missing or refused a rule.
    """
    serving = [rule for rule in seccomp.allowed("front") if rule.call not in _LAUNCHING]
    local = (
        Condition(0, socket.AF_UNIX, _INT),
        Condition(1, socket.SOCK_STREAM, _SOCKET_KIND),
    )
    rules = [
        *serving,
        *map(Rule, _LAUNCHING),
        Rule("socket", local),
        *(Rule("ioctl", (Condition(1, value),)) for value in _TERMINAL_IOCTLS),
        Rule("getsockopt", (Condition(1, socket.SOL_SOCKET), Condition(2, socket.SO_PEERCRED))),
    ]
    named = {rule.call for rule in rules}
    refused = [rule for rule in seccomp.refused("front") if rule.call not in named]
    return seccomp.assemble(otherwise=errno.ENOSYS, passing=rules, failing={errno.EPERM: refused})


def stem_policy() -> bytes:
    """Compile the system calls of the stem, of bwrap, and with its own policy of a sandbox.

    Raises:
        OSError: libseccomp is missing or refused a rule.
    """
    inside = [rule for rule in policy.allowed() if rule.call not in _MAKING]
    refused = [Rule(call) for call in policy.REFUSED if call not in _MAKING]
    return seccomp.assemble(
        otherwise=errno.ENOSYS,
        passing=[*inside, *map(Rule, _MAKING)],
        failing={errno.EPERM: refused},
    )


def confine_both() -> None:
    """Give up, before the stem is forked, what neither needs; needs the capabilities of root."""
    if os.geteuid() == 0:
        os.setgroups([])
        # Docker's socket is a file, which no network namespace hides.
        with contextlib.suppress(OSError):
            linux.unshare(linux.CLONE_NEWNET)
        linux.drop_bounding_set(keep=_OF_LAUNCHER | _OF_STEM | {linux.CAP_SETPCAP})
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_DATA, _DATA_BYTES),
    ):
        hard = resource.getrlimit(kind)[1]
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bounded, bounded))


def confine_launcher(program: bytes) -> None:
    """Leave the launcher what reaching Docker, killing and opening directories takes.

    Args:
        program: From `launcher_policy`; empty where calls cannot be filtered.
    """
    _confine(_OF_LAUNCHER, program)


def confine_stem(program: bytes) -> None:
    """Leave the stem what becoming a tenant and making namespaces takes.

    Args:
        program: From `stem_policy`; empty where calls cannot be filtered.
    """
    _confine(_OF_STEM, program)


def _confine(capabilities: frozenset[int], program: bytes) -> None:
    if os.geteuid() == 0:
        linux.drop_bounding_set(keep=capabilities)
        linux.set_capabilities(capabilities & linux.permitted_capabilities())
    if program:
        seccomp.load(program)
