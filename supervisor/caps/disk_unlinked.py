"""What is on the disk under no name: files that a process has open and that have been removed.

A program that removes a file it goes on writing to takes as much of the disk as before, where no
count of directories finds it. Whose process one is, is the kernel's word: of what file system and
directory something is mounted in it (`mountinfo`, proc(5)), for a worker has its tenant's directory
and a sandbox has one below that. Processes that must not be looked into are left out: a worker of
an ordinary user's gateway. So are mappings without a descriptor.
"""

import contextlib
import os
import stat
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

DESCRIPTORS_MAX: Final = 65_536
"""Of all tenants' processes at a time; more are not looked at."""
_DIGITS: Final = frozenset("0123456789")


class Unlinked:
    """Looks for such files.

    Args:
        tenants: The directory that the tenants' directories are in.
        proc: Where the kernel tells of processes.
    """

    def __init__(self, tenants: str, proc: str = "/proc") -> None:
        self._proc: Final = proc
        self._device: Final = os.stat(tenants).st_dev  # noqa: PTH116 - a string everywhere here
        self._prefix: Final = _place(Path(proc, "self/mountinfo").read_text(), tenants)
        self._own: Final = os.readlink(f"{proc}/self/ns/mnt")  # noqa: PTH115 - as below
        # Of namespaces only: what waits to be a worker has no tenant yet, and will have one.
        self._tenants: dict[str, str] = {}

    def look(self) -> Generator[None, None, dict[str, int]]:
        """Give the bytes of such files by tenant; pauses after each process."""
        found: dict[str, dict[int, int]] = {}
        seen: dict[str, str] = {}
        left = DESCRIPTORS_MAX
        for name in os.listdir(self._proc):  # noqa: PTH208 - names are wanted
            if not _DIGITS.issuperset(name):
                continue
            process = f"{self._proc}/{name}"
            with contextlib.suppress(OSError):  # it has ended, or must not be looked into
                tenant = self._owner(process, seen)
                if tenant is not None and left > 0:
                    files = list(islice(self._files(process), left))
                    left -= len(files)
                    found.setdefault(tenant, {}).update(files)
            yield
        self._tenants = seen
        return {tenant: sum(files.values()) for tenant, files in found.items()}

    def _owner(self, process: str, seen: dict[str, str]) -> str | None:
        namespace = os.readlink(f"{process}/ns/mnt")  # noqa: PTH115 - not a path
        if namespace == self._own:
            return None
        tenant = seen.get(namespace) or self._tenants.get(namespace) or self._tenant_of(process)
        if tenant is not None:
            seen[namespace] = tenant
        return tenant

    def _tenant_of(self, process: str) -> str | None:
        text = Path(process, "mountinfo").read_text(errors="surrogateescape")
        for line in text.splitlines():
            root = line.split(" ", 4)[3]
            if root.startswith(self._prefix):
                return root[len(self._prefix) :].split("/", 1)[0]
        return None

    def _files(self, process: str) -> Iterator[tuple[int, int]]:
        for number in os.listdir(f"{process}/fd"):  # noqa: PTH208 - names are wanted
            try:
                status = os.stat(f"{process}/fd/{number}")  # noqa: PTH116 - as above
            except OSError:  # closed since
                continue
            unlinked = status.st_nlink == 0 and stat.S_ISREG(status.st_mode)
            yield status.st_ino, status.st_blocks * 512 if unlinked and self._is_here(status) else 0

    def _is_here(self, status: os.stat_result) -> bool:
        return status.st_dev == self._device


def _place(mountinfo: str, directory: str) -> str:
    """Give a directory's place in its file system, as `mountinfo` writes it, with a `/` at its end.

    Args:
        mountinfo: This process's.
        directory: Absolute, free of links.
    """
    best, root = "", "/"
    wanted = escaped(directory)
    for line in mountinfo.splitlines():
        fields = line.split(" ", 5)
        point = fields[4].rstrip("/")
        if len(point) >= len(best) and (wanted == point or wanted.startswith(f"{point}/")):
            best, root = point, fields[3]
    return f"{root.rstrip('/')}{wanted[len(best) :]}/"


def escaped(path: str) -> str:
    """Write a path as the kernel does in `mountinfo`: blanks and backslashes in octal."""
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in path)
