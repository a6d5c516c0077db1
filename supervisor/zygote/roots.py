"""The root file system that a confined process sees, and the namespaces it lies in.

The root is a small read-only tmpfs. In it, each at its own path: the system's and Python's files,
read-only, and the tenant's directory at `/tenant`. Directories on the way are made afresh, so an
interpreter below a directory that the tenant may not enter works nevertheless. There is no /proc,
no /etc, and of /dev only urandom: SQLite would seed its generator with the time without it.
"""

import functools
import os
import stat
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from supervisor.zygote import linux
from supervisor.zygote.seccomp import Profile

TENANT_DIRECTORY: Final = "/tenant"

# Programs are refused by seccomp; with noexec here Python could not load its own libraries.
_READ_ONLY: Final = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
_DEVICE: Final = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NOEXEC
_TENANT: Final = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOEXEC
# Where the new root is put together: any directory does, as what it covers has been copied before.
_STAGE: Final = "/tmp"  # noqa: S108 - a mount point in a namespace of our own
# Room for directories and mount points, no more.
_STAGE_OPTIONS: Final = "size=64k,nr_inodes=512,mode=0755"
_LIBRARY_DIRECTORIES: Final = ("/lib", "/lib64")
_ENTROPY: Final = "/dev/urandom"
_PACKAGES: Final = ("protocol", "supervisor", "worker")


def namespace_flags(profile: Profile, *, root: bool) -> int:
    """Give the clone(2) flags of the namespaces a process lives in.

    The front has no pid namespace: one is entered by forking only.
    """
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
    if profile == "worker":
        flags |= linux.CLONE_NEWPID
    return flags if root else flags | linux.CLONE_NEWUSER


def readable_paths() -> tuple[str, ...]:
    """Give the paths that this interpreter and our packages are read from, and the system's."""
    found = ["/usr", _ENTROPY]
    found += [path for path in _LIBRARY_DIRECTORIES if not os.path.islink(path)]
    found += [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    ours = Path(__file__).resolve().parents[2]
    found += [str(ours / name) for name in _PACKAGES]
    # A path that leads through a link has to be there under both its names.
    found += [os.path.realpath(path) for path in found]
    return outermost(path for path in found if os.path.exists(path))


def outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """Leave out every path that lies below another one of them, and duplicates."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        # Sorted by characters "/a-b" comes between "/a" and "/a/b": look at all that were kept.
        if not any(path.startswith(f"{above}/") for above in kept):
            kept.append(path)
    return tuple(kept)


def map_ids(uid: int, gid: int) -> None:
    """Map one user and one group onto themselves in the user namespace just entered.

    Raises:
        OSError: the map was refused.
    """
    # The files below belong to root while the process, as its zygote, is not dumpable.
    linux.prctl(linux.PR_SET_DUMPABLE, 1)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        file = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        os.write(file, text.encode())
        os.close(file)


class Plan(NamedTuple):
    """What the new root consists of; relative paths are below it.

    `links` are pairs of target and path.
    """

    directories: tuple[str, ...]
    files: tuple[str, ...]
    devices: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    mount_points: tuple[str, ...]


@functools.lru_cache(maxsize=8)
def plan(readable: tuple[str, ...]) -> Plan:
    """Work out the new root; cached, so that a zygote's children find it done.

    Raises:
        OSError: a path is missing.
    """
    mounted: list[str] = []
    devices: list[str] = []
    files: list[str] = []
    directories = {TENANT_DIRECTORY[1:]: None}
    for path in outermost(readable):
        mode = os.stat(path).st_mode
        (devices if stat.S_ISCHR(mode) else mounted).append(path[1:])
        parts = path[1:].split("/")
        above = len(parts) if not stat.S_ISDIR(mode) else len(parts) + 1
        directories.update(dict.fromkeys("/".join(parts[:depth]) for depth in range(1, above)))
        if not stat.S_ISDIR(mode):
            files.append(path[1:])
    links = [(os.readlink(path), path[1:]) for path in _LIBRARY_DIRECTORIES if os.path.islink(path)]
    return Plan(tuple(directories), tuple(files), tuple(devices), tuple(links), tuple(mounted))


def build_root(readable: tuple[str, ...]) -> None:
    """Put the new root of this mount namespace together, and make it the working directory.

    Until the root is changed, what is mounted or unmounted outside still happens in the old one:
    a process that waits sees a tenant's directory as it is, and keeps no disk busy.

    Args:
        readable: Absolute paths that appear, read-only.

    Raises:
        OSError: a mount was refused or a path is missing; with its name.
    """
    root = plan(readable)
    linux.mount("", "/", "", linux.MS_REC | linux.MS_SLAVE)
    trees = [(path, linux.clone_tree(f"/{path}")) for path in root.mount_points]
    devices = [(path, linux.clone_tree(f"/{path}")) for path in root.devices]
    linux.mount("tmpfs", _STAGE, "tmpfs", 0, _STAGE_OPTIONS)
    os.chdir(_STAGE)
    umask = os.umask(0o022)  # whoever the process becomes has to get through these directories
    for path in root.directories:
        os.mkdir(path)
    for path in root.files:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
    for target, path in root.links:
        os.symlink(target, path)
    os.umask(umask)
    for path, tree in trees:
        linux.attach_tree(tree, path)
    linux.set_mount_attributes(linux.AT_FDCWD, ".", _READ_ONLY)
    for path, tree in devices:
        linux.set_mount_attributes(tree, "", _DEVICE)
        linux.attach_tree(tree, path)


def change_root(tenant: int | None) -> None:
    """Leave the old root for the one that `build_root` has made the working directory.

    Args:
        tenant: The tenant's directory, open; opened in this mount namespace.

    Raises:
        OSError: a mount was refused.
    """
    if tenant is not None:
        tree = linux.clone_tree(tenant)
        linux.set_mount_attributes(tree, "", _TENANT)
        linux.attach_tree(tree, TENANT_DIRECTORY[1:])
    linux.pivot_root(".", ".")  # the old root now lies over the new one …
    linux.detach(".")  # … and is taken off it
    os.chdir("/")
