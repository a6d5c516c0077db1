"""What egress gives up: it connects out and writes its ledger, and nothing else.

It keeps the host's network, which no other process that speaks with tenants has. It cannot be
found a way around: no exec, no fork, no file but Python's, the resolver's and its own directory, no
socket that listens, none but TCP and what looks up names.
"""

import errno
import fcntl
import functools
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Final

from protocol.egress import Settings
from supervisor.zygote import landlock, linux, roots, seccomp
from supervisor.zygote.seccomp import Condition, Rule

OPEN_FILES: Final = 16_384
DATA_BYTES: Final = 4 * 2**30
MAPPED_BYTES: Final = 2**30
_INT: Final = 0xFFFF_FFFF
_FLAGS: Final = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
# What comes in comes by the listeners it is handed. It makes none, not even by listening on a
# socket that is bound to nothing, which takes any port.
_SERVING_NOT: Final = ("listen",)
_CONNECTING: Final = ("connect", "sendmmsg", "recvmmsg")
# glibc's resolver has errors of its datagrams told; else it would wait for what cannot come.
_RESOLVER_OPTIONS: Final = ((socket.IPPROTO_IP, 11), (socket.IPPROTO_IPV6, 25))
_KEEPING: Final = (
    "pwrite64",
    "pwritev",
    "pwritev2",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "flock",
    "unlink",
    "rename",
    "renameat",
)
_FCNTL_LOCKS: Final = (fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW)
# What names are looked up with (nsswitch.conf(5)) and certificates are checked by.
_RESOLVING: Final = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl",
    "/etc/ca-certificates",
)


@functools.cache
def policy() -> bytes:
    """Compile the system calls of egress.

    Raises:
        OSError: libseccomp is missing or refused a rule.
    """
    serving = [rule for rule in seccomp.allowed("front") if rule.call not in _SERVING_NOT]
    sockets = [
        Rule("socket", (Condition(0, family), Condition(1, kind, _INT & ~_FLAGS)))
        for family in (socket.AF_INET, socket.AF_INET6)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    ]
    # Which families the machine has addresses of; glibc asks the kernel before a look-up.
    sockets.append(Rule("socket", (Condition(0, socket.AF_NETLINK), Condition(2, 0))))
    sockets += [
        Rule("setsockopt", (Condition(1, level), Condition(2, option)))
        for level, option in _RESOLVER_OPTIONS
    ]
    locks = [Rule("fcntl", (Condition(1, command),)) for command in _FCNTL_LOCKS]
    calls = [Rule(call) for call in (*_CONNECTING, *_KEEPING)]
    rules = [*serving, *calls, *sockets, *locks]
    named = {rule.call for rule in rules}
    refused = [rule for rule in seccomp.refused("front") if rule.call not in named]
    return seccomp.assemble(otherwise=errno.ENOSYS, passing=rules, failing={errno.EPERM: refused})


def confine(settings: Settings) -> None:
    """Give up all that egress does not need; the directory of its ledger becomes the working one.

    Raises:
        OSError: a step cannot be taken.
    """
    os.umask(0o077)
    _limit()
    uid = settings.uid
    if uid is not None:
        os.setgroups([])
        linux.drop_bounding_set()
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        linux.set_capabilities()
    os.chdir(settings.ledger_directory)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    version = landlock.abi()
    if version:
        readable = (*roots.readable_paths(), *_resolving())
        landlock.restrict(version, readable, (settings.ledger_directory,), connects=True)
    if settings.policy:
        seccomp.load(seccomp.for_process(settings.policy, os.getpid()))


def _limit() -> None:
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_DATA, DATA_BYTES),
        # Shared mappings are counted in here alone.
        (resource.RLIMIT_AS, DATA_BYTES + MAPPED_BYTES),
    ):
        hard = resource.getrlimit(kind)[1]
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bounded, bounded))


def _resolving() -> tuple[str, ...]:
    found = []
    for name in _RESOLVING:
        path = Path(name)
        if path.exists():
            found.append(name)
            # Where it is a link, what it leads to may be replaced: the directory stays.
            real = path.resolve()
            if real != path:
                found.append(str(real.parent))
    return tuple(found)
