"""What attacks are made of: calls that worked if they return, and raise OSError if not."""

# ruff: noqa: PTH108, PTH116, PTH123, PTH208 - calls as an attacker makes them

import ctypes
import errno
import mmap
import os
import socket
import struct
from pathlib import Path

import msgspec
import pyseccomp

FAMILIES_MAX = 64
SOCKET_TYPES = (1, 2, 3, 4, 5, 6, 10)

SWALLOWED_BYTES = 8 * 2**30
PROGRAM = "/usr/bin/true"
_BUFFER = ctypes.create_string_buffer(8)
# struct iovec: an address that both processes have, as they were forked by the same one.
VECTOR = struct.pack("=QQ", ctypes.addressof(_BUFFER), 8)
# struct file_handle: of eight bytes, of type 1.
HANDLE = struct.pack("=Ii", 8, 1) + b"\0" * 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Target(msgspec.Struct, frozen=True):
    """`neighbour` is another tenant's directory with a file `secret`; the pid is its worker's.

    `port` is the gateway's, of the loopback address.
    """

    state_root: str
    neighbour: str
    neighbour_pid: int
    port: int = 1


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


def read_some(path: str) -> object:
    with open(path, "rb") as file:
        return file.read(16)


def exists(path: str) -> object:
    return os.stat(path)


def append(path: str) -> object:
    with open(path, "ab") as file:
        return file.write(b"x")


def make(path: str) -> None:
    append(path)
    os.unlink(path)


def find_the_state_root(target: Target) -> None:
    root = Path(target.state_root)
    # Where Python lies in there, a jailed process may see the way to it.
    if root.name not in os.listdir(root.parent):
        raise FileNotFoundError(errno.ENOENT, "not in its directory")


def fork() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid


def raw_fork(name: str, *arguments: int | bytes) -> int:
    pid = raw(name, *arguments)
    if pid == 0:
        os._exit(0)
    return pid


def make_socket(family: int, kind: int = socket.SOCK_STREAM) -> None:
    socket.socket(family, kind).close()


def any_socket(_: Target) -> None:
    """A socket of any family and type; raises the last refusal when there is none at all."""
    refusal = OSError(errno.EPERM, "no family")
    for family in range(FAMILIES_MAX):
        for kind in SOCKET_TYPES:
            try:
                raw("socket", family, kind, 0)
            except OSError as error:
                refusal = error
            else:
                return
    raise refusal


def bind(_: Target) -> None:
    with socket.socket(fileno=os.dup(3)) as link:
        link.bind("\0openclaw-attack")


def connect(_: Target) -> None:
    with socket.socket(fileno=os.dup(3)) as link:
        link.connect("\0openclaw-attack")


def reach_the_gateway(target: Target) -> None:
    socket.create_connection(("127.0.0.1", target.port), 5).close()


def peer_descriptor(_: Target) -> object:
    with socket.socket(fileno=os.dup(3)) as link:
        return link.getsockopt(socket.SOL_SOCKET, 77)


def shared_memory(_: Target) -> None:
    raw("shmctl", raw("shmget", 0, 4096, 0o1600), 0)


def message_queue(_: Target) -> None:
    raw("msgctl", raw("msgget", 0, 0o1600), 0)


def semaphores(_: Target) -> None:
    raw("semctl", raw("semget", 0, 1, 0o1600), 0, 0)


def parents(_: Target) -> list[int]:
    return [pid for pid in (os.getppid(), os.getsid(0), 1) if pid]


def environ_of_parents(target: Target) -> object:
    return [read_some(f"/proc/{pid}/environ") for pid in parents(target)]


def swallow_memory(_: Target) -> None:
    """More than any worker may have, in pieces that are all kept, and none of it touched."""
    kept = [mmap.mmap(-1, SWALLOWED_BYTES // 64, mmap.MAP_PRIVATE) for _ in range(64)]
    del kept


def swallow_shared_memory(_: Target) -> None:
    kept = [mmap.mmap(-1, SWALLOWED_BYTES // 64, mmap.MAP_SHARED) for _ in range(64)]
    del kept
