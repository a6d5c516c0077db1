"""A small machine: Debian's cloud kernel in qemu without KVM, which boots in seconds.

The kernel is unpacked, not installed: any user can do that, and nothing changes on the host.
"""

import contextlib
import gzip
import lzma
import os
import re
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Final, NamedTuple, Self

PACKAGES: Final = {"qemu-system-x86_64": "qemu-system-x86", "mke2fs": "e2fsprogs"}
MEMORY_MIB: Final = 768
KERNEL_PACKAGE: Final = "linux-image-cloud-amd64"
_MODULES: Final = ("virtio_pci", "virtio_blk")
_INIT: Final = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
while read module; do
    /bin/busybox insmod /modules/$module
done </modules/order
/bin/busybox mount -t ext4 -o ro /dev/vda /root || exec /bin/busybox poweroff -f
for folder in proc sys dev; do /bin/busybox mount --move /$folder /root/$folder; done
exec /bin/busybox switch_root /root /bin/sh -c "$(/bin/busybox cat /script)"
"""


class Parts(NamedTuple):
    """What a machine is started from."""

    kernel: Path
    modules: Path
    busybox: Path


def fetch(folder: Path) -> Parts:
    """Download and unpack the kernel and busybox from Debian, unless they are there.

    Raises:
        subprocess.CalledProcessError: apt cannot; it has said why.
    """
    kernels = folder / "boot"
    if not kernels.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["apt-cache", "depends", KERNEL_PACKAGE]
        if (
            subprocess.run(command, check=False, capture_output=True).returncode
            and not os.geteuid()
        ):
            subprocess.run(["apt-get", "-qq", "update"], check=True)  # no list of packages yet
        depends = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        image = next(name for name in depends if name.startswith("linux-image-"))
        image = next((n for n in depends if n.startswith("linux-image-6")), image)
        subprocess.run(
            ["apt-get", "-qq", "download", image, "busybox-static"], check=True, cwd=folder
        )
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(folder)], check=True)
            package.unlink()
    kernel = next(kernels.glob("vmlinuz-*"))
    version = kernel.name.removeprefix("vmlinuz-")
    return Parts(kernel, folder / "lib/modules" / version, folder / "bin/busybox")


def _cpio(entries: Sequence[tuple[str, int, bytes]]) -> bytes:
    """Give a cpio archive in the format `newc` (Documentation/driver-api/early-userspace)."""
    parts: list[bytes] = []
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]
    return b"".join(parts)


def _modules(folder: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """Give modules and those they need, by name, in the order of loading; what is built in is not.

    Which those are stands in a module itself (`depends=` in its section .modinfo).
    """
    files = {path.name.split(".")[0].replace("-", "_"): path for path in folder.rglob("*.ko*")}
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in order or name not in files:
            return
        path = files[name]
        data = path.read_bytes()
        if path.suffix == ".xz":
            data = lzma.decompress(data)
        needs = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in needs[1].decode().split(",") if needs else ():
            add(other.replace("-", "_"))
        order[name] = data

    for name in wanted:
        add(name)
    return order


def initramfs(parts: Parts, script: str, modules: Sequence[str] = ()) -> bytes:
    """Give an initial file system that loads modules, mounts the first disk and runs a script."""
    loaded = _modules(parts.modules, (*_MODULES, *modules))
    folder, program = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    entries = [(name, folder, b"") for name in ("bin", "dev", "proc", "root", "sys", "modules")]
    entries += [
        ("init", program, _INIT.encode()),
        ("script", program, script.encode()),
        ("bin/busybox", program, parts.busybox.read_bytes()),
        ("modules/order", program, "".join(f"{name}\n" for name in loaded).encode()),
    ]
    entries += [(f"modules/{name}", program, data) for name, data in loaded.items()]
    return gzip.compress(_cpio(entries), 1)


class Machine:
    """A running machine; leaving its context cuts its power.

    Its first disk is the root image, read-only; others are /dev/vdb and so on. What a program
    writes to /dev/ttyS1 comes out of `lines`; the kernel and the script speak in `folder/console`.

    Args:
        folder: For what belongs to this machine alone.
        parts: Kernel, modules, busybox.
        image: From `tests.machine.image.build`.
        script: What the guest's shell runs as process 1, with /proc, /sys and /dev mounted.
        disks: Of qemu's option -drive, each without `if`, `id` and `index`.
        modules: Kernel modules beside those of virtio's disks.
        options: More kernel options.
        writable: The root image may be mounted to be written; what is written is lost at the end.
        processors: How many it has.
    """

    def __init__(
        self,
        folder: Path,
        parts: Parts,
        image: Path,
        script: str,
        disks: Sequence[str] = (),
        modules: Sequence[str] = (),
        options: str = "",
        *,
        writable: bool = False,
        processors: int = 1,
    ) -> None:
        start = folder / "initramfs"
        start.write_bytes(initramfs(parts, script, modules))
        self.console = folder / "console"
        mode = "snapshot=on" if writable else "readonly=on"
        root = f"file={image},format=raw,{mode}"
        drives = [
            argument for disk in (root, *disks) for argument in ("-drive", f"{disk},if=virtio")
        ]
        append = f"console=ttyS0 quiet panic=-1 random.trust_cpu=on {options}"
        command = (
            "qemu-system-x86_64 -accel tcg -cpu max -nodefaults -no-reboot -display none"
            f" -m {MEMORY_MIB} -smp {processors} -serial file:{self.console} -serial stdio"
        )
        self._process = subprocess.Popen(
            [
                *command.split(),
                *("-kernel", str(parts.kernel), "-initrd", str(start), "-append", append),
                *drives,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._lines: Queue[bytes | None] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.replace(b"\r\n", b"\n"))
        self._lines.put(None)

    def line(self, seconds: float) -> bytes:
        """Give the next line from /dev/ttyS1.

        Args:
            seconds: How long to wait for it.

        Raises:
            EOFError: the machine has ended; its console says why.
            TimeoutError: nothing came.
        """
        try:
            line = self._lines.get(timeout=seconds)
        except Empty:
            raise TimeoutError(f"nothing in {seconds} s; see {self.console}") from None
        if line is None:
            self._lines.put(None)
            raise EOFError(f"the machine ended; see {self.console}: {self.last_words()}")
        return line

    def last_words(self) -> str:
        """Give the end of the console."""
        with contextlib.suppress(OSError):
            return self.console.read_text(errors="replace")[-2000:]
        return ""

    def cut(self) -> Iterator[bytes]:
        """Cut the power; gives the lines that had come out and were not read yet."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        while (line := self._lines.get()) is not None:
            yield line
        self._lines.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
