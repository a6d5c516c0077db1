"""What launcher and stem can do under their policies, tried by processes that have loaded them."""

import errno
import json
import subprocess
import sys
from pathlib import Path

from supervisor.launcher import confinement

ROOT = Path(__file__).resolve().parents[3]
# Each call by its name, with what it fails with (0: it does not).
TRY = """
import ctypes, errno, json, os, socket, sys
from supervisor.zygote import linux, seccomp

libc = ctypes.CDLL(None, use_errno=True)

def raw(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(each) for each in arguments))
    return 0 if result >= 0 else ctypes.get_errno()

def attempt(act):
    try:
        act()
    except OSError as error:
        return error.errno
    return 0

linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
seccomp.load(sys.stdin.buffer.read())
found = {
    "local socket": attempt(lambda: socket.socket(socket.AF_UNIX)),
    "datagrams": attempt(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)),
    "internet": attempt(lambda: socket.socket(socket.AF_INET)),
    "packets": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "pipe": attempt(os.pipe),
    "pidfd": attempt(lambda: os.pidfd_open(os.getpid())),
    "exec": attempt(lambda: os.execv("/nowhere", ["x"])),
    "mount": raw(165, 0, 0, 0, 0, 0),
    "user namespace": attempt(lambda: linux.unshare(linux.CLONE_NEWUSER)),
    "ptrace": raw(101, 16, 1, 0, 0),
    "bpf": raw(321, 0, 0, 0),
    "key": raw(250, 0, 0, 0, 0, 0),
    "module": raw(175, 0, 0, 0),
    "io_uring": raw(425, 1, 0),
    "memory of others": raw(310, 1, 0, 0, 0, 0, 0),
    "thread of another process": raw(438, 0, 0, 0),
    "fork": attempt(lambda: os._exit(0) if (pid := os.fork()) == 0 else os.waitpid(pid, 0)),
}
print(json.dumps(found))
"""
REFUSED = {errno.EPERM, errno.ENOSYS}
NEVER = {
    "packets",
    "ptrace",
    "bpf",
    "key",
    "module",
    "io_uring",
    "memory of others",
    "thread of another process",
}


def tried(program: bytes) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", TRY], input=program, cwd=ROOT, capture_output=True, check=True
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_the_launcher_starts_nothing_and_reaches_no_network() -> None:
    found = tried(confinement.launcher_policy())
    refused = {name for name, error in found.items() if error in REFUSED}
    assert refused == NEVER | {
        *("datagrams", "internet", "exec", "mount", "user namespace", "fork"),
    }, found
    assert {name for name, error in found.items() if not error} >= {
        *("local socket", "pipe", "pidfd"),
    }


def test_the_stem_makes_sandboxes_and_no_more() -> None:
    found = tried(confinement.stem_policy())
    refused = {name for name, error in found.items() if error in REFUSED}
    # Of `mount` the kernel answers, as the arguments are nonsense or it takes more rights.
    assert refused - {"mount"} == NEVER, found
    assert found["exec"] == errno.ENOENT
