"""Landlock: what a process may open, whatever its uid and mounts would allow.

Rights and structures are those of linux/landlock.h; which ABI brought which right is in the
kernel's Documentation/userspace-api/landlock.rst. A rule set handles every right that the running
kernel knows, so whatever is not granted below is refused.
"""

import ctypes
import os
import stat
from typing import Final

from supervisor.zygote import linux

_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_REMOVE_DIR: Final = 1 << 4
_REMOVE_FILE: Final = 1 << 5
_MAKE_CHAR: Final = 1 << 6
_MAKE_DIR: Final = 1 << 7
_MAKE_REG: Final = 1 << 8
_MAKE_SOCK: Final = 1 << 9
_MAKE_FIFO: Final = 1 << 10
_MAKE_BLOCK: Final = 1 << 11
_MAKE_SYM: Final = 1 << 12
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
_IOCTL_DEV: Final = 1 << 15
_BIND_TCP: Final = 1 << 0
_CONNECT_TCP: Final = 1 << 1
_SCOPE_ABSTRACT_UNIX_SOCKET: Final = 1 << 0
_SCOPE_SIGNAL: Final = 1 << 1

# (first ABI, rights) for each kind.
_FILE_RIGHTS: Final = (
    (1, (1 << 13) - 1),
    (2, _REFER),
    (3, _TRUNCATE),
    (5, _IOCTL_DEV),
)
_NETWORK_RIGHTS: Final = ((4, _BIND_TCP | _CONNECT_TCP),)
_SCOPES: Final = ((6, _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL),)

READ: Final = _READ_FILE | _READ_DIR
# A tenant keeps plain files and directories: what is special (links, devices, sockets, pipes) only
# serves to trick whoever reads its directory later.
READ_WRITE: Final = (
    READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
)
# EINVAL is what the kernel answers when the rule of a plain file names a directory's right.
_OF_PLAIN_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    # Packed in the header; these two members lie the same without.
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi() -> int:
    """Give the Landlock ABI of the running kernel, 0 where there is none or it is switched off."""
    try:
        return linux.call("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def _known(table: tuple[tuple[int, int], ...], version: int) -> int:
    known = 0
    for since, rights in table:
        known |= rights if version >= since else 0
    return known


def restrict(
    version: int, readable: tuple[str, ...], writable: tuple[str, ...], *, connects: bool = False
) -> None:
    """Confine this thread, for ever, to reading `readable` and keeping files in `writable`.

    Every path is opened for reading, so that one which the process cannot use is refused here by
    its name. TCP is refused (ABI 4; where it `connects`, listening alone is), signals and abstract
    sockets stay among the confined (ABI 6).

    Raises:
        OSError: a path cannot be read, or the kernel refused; with the path's name.
    """
    files = _known(_FILE_RIGHTS, version)
    network = _known(_NETWORK_RIGHTS, version) & ~(_CONNECT_TCP if connects else 0)
    attributes = _RulesetAttributes(files, network, _known(_SCOPES, version))
    ruleset = linux.call("landlock_create_ruleset", attributes, _attributes_bytes(version), 0)
    try:
        for path in readable:
            _allow(ruleset, path, READ & files)
        for path in writable:
            _allow(ruleset, path, READ_WRITE & files)
        linux.call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _attributes_bytes(version: int) -> int:
    # A kernel refuses bytes that it does not know unless they are zero; older ones know fewer.
    words = 1 + (version >= _NETWORK_RIGHTS[0][0]) + (version >= _SCOPES[0][0])
    return words * ctypes.sizeof(ctypes.c_uint64)


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_PLAIN_FILES
        rule = _PathBeneath(rights, descriptor)
        linux.call("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, rule, 0)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({path})") from error
    finally:
        os.close(descriptor)
