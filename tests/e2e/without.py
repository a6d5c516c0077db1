"""Runs a program on a system that refuses it something: `without.py <call>… -- <program>…`.

`namespaces` stands for clone(2) and unshare(2) with any namespace; other words are system calls.
"""

import errno
import os
import sys

import pyseccomp

_NAMESPACE_FLAGS = (0x0002_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000)


def main() -> None:
    split = sys.argv.index("--")
    policy = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refused = pyseccomp.ERRNO(errno.EPERM)
    for name in sys.argv[1:split]:
        if name == "namespaces":
            for call in ("clone", "unshare"):
                for flag in _NAMESPACE_FLAGS:
                    policy.add_rule(
                        refused, call, pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag)
                    )
        else:
            policy.add_rule(refused, name)
    policy.load()
    os.execv(sys.argv[split + 1], sys.argv[split + 1 :])


if __name__ == "__main__":
    main()
