"""Runs in a sandbox: says of every system call whether it passes the filter there.

Standard input is a JSON list of calls with arguments; the answer is JSON on standard output.
"""

import ctypes
import json
import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.attack import marking

MADE = 0
REFUSED = 1
I386_CALLS = range(470)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def end_of(act: Callable[[], int]) -> int:
    """How a process ends that makes a call: by a signal (below zero), `REFUSED` or `MADE`."""
    pid = os.fork()
    if pid == 0:
        os._exit(REFUSED if act() < 0 else MADE)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def x32_call(number: int) -> Callable[[], int]:
    return lambda: int(_libc.syscall(ctypes.c_long(marking.X32 | number), -1, -1, -1, -1, -1, -1))


def i386_gate(page: mmap.mmap) -> Callable[[int], Callable[[], int]]:
    """Calls by the 32-bit gate: mov eax, number; int 0x80; ret."""
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))

    def call(number: int) -> Callable[[], int]:
        page[:8] = b"\xb8" + number.to_bytes(4, "little") + b"\xcd\x80\xc3"
        return function

    return call


def other_abis() -> dict[str, list[int]]:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    i386_call = i386_gate(page)
    return {
        "x32": sorted({end_of(x32_call(number)) for number in range(marking.X32_CALLS_MAX)}),
        "i386": sorted({end_of(i386_call(number)) for number in I386_CALLS}),
    }


def main() -> None:
    tries = json.load(sys.stdin)
    answer = {
        "calls": {number: marking.verdict(number) for number in marking.CALLS},
        "tries": [marking.verdict(number, *arguments) for number, arguments in tries],
    }
    if os.uname().machine == "x86_64":
        answer |= other_abis()
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
