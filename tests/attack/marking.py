"""Asking a filter of system calls what it lets through, without making a call.

`python marking.py PROGRAM ARGUMENT…` runs a program under the filter that answers marked calls.
The standard library alone: sandboxes have no other.
"""

import ctypes
import errno
import os
import struct
import sys

MARK = 0x0C1A_57A1
PASSED = 77  # an error number that nothing else here gives
# uretprobe and uprobe of x86_64: Linux lets them past every filter and ends with SIGILL whoever
# makes them elsewhere than from its own trampoline.
UNFILTERABLE = {335, 336}
CALLS = [number for number in range(1024) if number not in UNFILTERABLE]
X32 = 0x4000_0000
X32_CALLS_MAX = 560
TERMINALS = range(0x5400, 0x5480)
ARGUMENTS = (*range(-2, 81), *(1 << bit for bit in range(7, 32)), *range(1024, 1050), *TERMINALS)

_LAST_ARGUMENT = 16 + 5 * 8
# A call whose last argument is `MARK` is answered, not made. Of two filters the stricter one
# decides, and of two errors the later filter's: so a marked call fails with `PASSED` exactly if
# the filters that came after this one would let it through.
ANSWER = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x20, 0, 0, _LAST_ARGUMENT),
        (0x15, 0, 1, MARK),
        (0x06, 0, 0, 0x0005_0000 | PASSED),
        (0x06, 0, 0, 0x7FFF_0000),
    )
)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def verdict(number: int, *arguments: int) -> str:
    """The name of the error that a filter answers with, or `passes`."""
    words = [ctypes.c_ulong(word) for word in (*arguments, 0, 0, 0, 0, 0)[:5]]
    if _libc.syscall(ctypes.c_long(number), *words, ctypes.c_ulong(MARK)) != -1:
        raise AssertionError(f"system call {number} was made")
    code = ctypes.get_errno()
    return "passes" if code == PASSED else errno.errorcode[code]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def answer_marked_calls() -> None:
    """Take the filter on, for ever; whoever is not root gives up new privileges for it."""
    if os.geteuid() != 0:
        _libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    program = _Program(len(ANSWER) // 8, ANSWER)
    if _libc.prctl(22, 2, ctypes.byref(program), 0, 0) != 0:  # PR_SET_SECCOMP, a filter
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    answer_marked_calls()
    os.execvp(sys.argv[1], sys.argv[1:])
