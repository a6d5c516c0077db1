"""A power cut under writes: what was acknowledged with synchronous=FULL is on the medium.

One disk goes through many cuts. In each life of the machine the gateway starts on what the last cut
left, the guest checks it against every acknowledgement the host has seen, and clients write until
qemu is killed and the disk forgets what was not flushed (`tests.machine.disk`).
"""

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tests.chaos.guest import Blame, Verdict
from tests.chaos.ledger import Ack
from tests.machine import boot, image
from tests.machine.disk import Disk

DISK_MIB = 192
ACKS_BYTES_MAX = 16 * 2**20
START_SECONDS = 240.0
WRITE_SECONDS = (0.5, 8.0)
_LINE: Any = Ack | Verdict | Blame
SCRIPT = """
export PATH=/bin:/sbin:/usr/sbin HOME=/root LANG=C.UTF-8 TMPDIR=/run
mount -t tmpfs run /run # not on /tmp: the checkout may be there
ip link set lo up
mount -t ext4 /dev/vdb /var/lib || poweroff -f
mkdir -p /var/lib/openclaw
busybox stty -F /dev/ttyS1 raw -echo
{python} {guest} /var/lib/openclaw /dev/vdc /dev/ttyS1 {name}
poweroff -f
"""


class PowerCuts:
    """One disk through many cuts.

    Args:
        folder: For images; needs some 500 MB.
        parts: Where the kernel is unpacked.
        seed: Of every random choice.
        say: Told of each cut in a line.
    """

    def __init__(self, folder: Path, parts: Path, seed: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._parts = boot.fetch(parts)
        self._random = random.Random(seed)
        self._say = say
        self._image = folder / "root.img"
        image.build(self._image, self._parts.busybox)
        self._medium = folder / "state.img"
        self._medium.touch()
        subprocess.run(
            ["/usr/sbin/mke2fs", "-q", "-t", "ext4", str(self._medium), f"{DISK_MIB}M"], check=True
        )
        self._acks: list[bytes] = []
        self.flushes = self.lost = self.unflushed = 0

    @property
    def acknowledged(self) -> int:
        return len(self._acks)

    def run(self, cuts: int) -> list[str]:
        """Cut the power so often, and check after each; gives what was broken."""
        for number in range(cuts + 1):
            broken = self._life(number, last=number == cuts)
            if broken:
                return [f"life {number}: {problem}" for problem in broken]
        return []

    def _life(self, number: int, *, last: bool) -> list[str]:
        acks = self._folder / "acks"
        acks.write_bytes(b"".join(self._acks))
        with acks.open("r+b") as file:
            file.truncate(ACKS_BYTES_MAX)
        script = SCRIPT.format(
            python=image.PYTHON, guest=image.ROOT / "tests/chaos/guest.py", name=number
        )
        before = len(self._acks)
        with Disk(self._medium, self._folder / "nbd") as disk:
            disks = (disk.drive, f"file={acks},format=raw,readonly=on")
            with boot.Machine(self._folder, self._parts, self._image, script, disks) as machine:
                broken = self._until_cut(machine, last=last)
                for line in machine.cut():
                    broken += self._take(line)
            lost, unflushed = disk.lose_power(self._random)
        self.flushes += disk.flushes
        self.lost += lost
        self.unflushed += unflushed
        self._say(
            f"life {number}: {before} checked, {len(self._acks) - before} more acknowledged,"
            f" {disk.flushes} flushes, {lost} of {unflushed} unflushed sectors lost"
        )
        return broken

    def _until_cut(self, machine: boot.Machine, *, last: bool) -> list[str]:
        try:
            verdict = msgspec.json.decode(machine.line(START_SECONDS), type=_LINE)
            if not isinstance(verdict, Verdict):
                return [f"no verdict, but {verdict}; {machine.last_words()}"]
            if verdict.broken or last:
                return verdict.broken
            broken = self._take(machine.line(START_SECONDS))  # from here on it writes
            deadline = time.monotonic() + self._random.uniform(*WRITE_SECONDS)
            while not broken and (left := deadline - time.monotonic()) > 0:
                try:
                    broken = self._take(machine.line(left))
                except TimeoutError:
                    break
            return broken
        except (EOFError, TimeoutError, msgspec.DecodeError) as error:
            return [str(error), machine.last_words()]

    def _take(self, line: bytes) -> list[str]:
        if not line.endswith(b"\n"):
            return []  # the cut came first
        said = msgspec.json.decode(line, type=_LINE)
        if isinstance(said, Blame):
            return [said.what]
        if isinstance(said, Ack):
            self._acks.append(line)
        return []
