"""Runs tests on cgroups of version 2, which not every host has: Debian's kernel under qemu.

Twice: as root, and as an ordinary user who was given a part of the tree, as systemd gives it.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.machine import boot, image
from tests.machine.packages import install

PARTS: Final = image.ROOT / ".machine"
PACKAGES: Final = {**boot.PACKAGES, "bwrap": "bubblewrap"}
GUEST: Final = Path(__file__).with_name("cgroup2_guest.py")
TESTS: Final = (
    "tests/supervisor/caps/test_groups.py",
    "tests/supervisor/caps/test_place.py",
    "tests/e2e/test_caps.py",
    "tests/attack/test_worker_jail.py",
)
BUT: Final = (
    *("holds_is_said", "named_has_to", "none_are_not", "cannot_be_capped", "is_left", "has_left"),
    *("killed_gateway", "spare", "landlock", "secret", "randomness", "sort_in_files", "outlives"),
)
"""What is run there, and not: Linux 6.1 has no Landlock that would do alone. Emulation is slow, so
it is what the version and the kernel matter to, and little that has a gateway of its own."""
SILENCE_SECONDS: Final = 120.0
ROOM_MIB: Final = 512
LEFT_OUT: Final = image.LEFT_OUT - {"hypothesis"}
SCRIPT: Final = """
export PATH=/bin:/sbin:/usr/sbin HOME=/root LANG=C.UTF-8
mount -o remount,rw /
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs run /run
ip link set lo up
busybox stty -F /dev/ttyS1 raw -echo
{python} {guest} {tests} >/dev/ttyS1 2>&1
poweroff -f
"""
VERDICT: Final = "verdict:"
"""How the guest's last line begins; what follows is the exit code."""


def main() -> int:
    """Run; gives 0 if all tests passed, 1 if not, 2 if something that is needed is not there."""
    parser = argparse.ArgumentParser(prog="scripts/test-cgroup2", description=__doc__)
    parser.add_argument(
        "tests",
        nargs="*",
        default=(*TESTS, f"-k 'not ({' or '.join(BUT)})'"),
        help="of pytest's arguments",
    )
    options = parser.parse_args()
    if not install(PACKAGES):
        return 2
    parts = boot.fetch(PARTS)
    with tempfile.TemporaryDirectory(prefix="openclaw-cgroup2-") as name:
        folder = Path(name)
        root = folder / "root.img"
        image.build(root, parts.busybox, LEFT_OUT, ("/usr/bin/bwrap",), ROOM_MIB)
        script = SCRIPT.format(python=image.PYTHON, guest=GUEST, tests=" ".join(options.tests))
        with boot.Machine(folder, parts, root, script, writable=True, processors=2) as machine:
            return follow(machine)


def follow(machine: boot.Machine) -> int:
    """Print what the guest says until its verdict; gives that."""
    while True:
        try:
            line = machine.line(SILENCE_SECONDS).decode(errors="replace")
        except (EOFError, TimeoutError) as error:
            sys.stdout.write(f"scripts/test-cgroup2: no verdict: {error}\n{machine.last_words()}\n")
            return 1
        if line.startswith(VERDICT):
            return int(line.removeprefix(VERDICT))
        sys.stdout.write(line)
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
