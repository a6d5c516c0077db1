"""What a program of system calls' filter decides: an interpreter for classic BPF."""

import errno
import platform
import struct

import pyseccomp

ALLOW: int = pyseccomp.ALLOW
KILL: int = pyseccomp.KILL_PROCESS
EPERM: int = pyseccomp.ERRNO(errno.EPERM)
ENOSYS: int = pyseccomp.ERRNO(errno.ENOSYS)
ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}[platform.machine()]
I386 = 0x4000_0003
ARM = 0x4000_0028
X32 = 0x4000_0000


def number(call: str) -> int:
    """The number of a call on this machine, below zero if it has none."""
    found: int = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, call)
    return found


def run(program: bytes, number: int, *arguments: int, arch: int = ARCH) -> int:
    """What the kernel would do: struct seccomp_data through the instructions (bpf(4), classic)."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=iIQ6Q", number, arch, 0, *(a & 0xFFFF_FFFF_FFFF_FFFF for a in padded))
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = at = 0
    while True:
        operation, yes, no, k = code[at]
        at += 1
        if operation == 0x06:
            return int(k)
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, k)[0]
        elif operation == 0x54:
            accumulator &= k
        elif operation == 0x05:
            at += k
        else:
            holds = {
                0x15: accumulator == k,
                0x25: accumulator > k,
                0x35: accumulator >= k,
                0x45: bool(accumulator & k),
            }[operation]
            at += yes if holds else no
